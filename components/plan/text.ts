/** Names of VMs, groups, hosts, images and networks: they become parts of host names, domain names and file names. */
export const NAME_PATTERN = /^[a-z]([a-z0-9-]{0,61}[a-z0-9])?$/;
export const NAME_ALLOWED =
  "up to 63 lower-case letters, digits and hyphens, beginning with a letter, not ending with a hyphen";

/** One label of RFC 1123. Lower case only: DNS does not tell `Web` from `web`, a shell prompt does. */
export const HOSTNAME_PATTERN = /^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$/;
/** A name as a hosts file has it, with or without a domain. */
export const HOST_ALIAS_PATTERN = /^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*$/;
export const HOST_ALIAS_ALLOWED = "a host name in lower case, also with a domain, such as db.internal; not localhost";
export const HOSTNAME_ALLOWED =
  "up to 63 lower-case letters, digits and hyphens, not beginning or ending with a hyphen (one label, no dots)";

/** Name of an account inside the guest, as useradd accepts it. */
export const ACCOUNT_PATTERN = /^[a-z_][a-z0-9_-]{0,30}$/;
export const ACCOUNT_ALLOWED = "up to 31 lower-case letters, digits, _ and -, beginning with a letter or _";

/** Accounts that exist in every guest: taking one over would give it a login. */
export const RESERVED_ACCOUNTS: ReadonlySet<string> = new Set(
  "root daemon bin sys sync games man lp mail news uucp proxy www-data backup list irc nobody sshd messagebus".split(
    " ",
  ),
);

/** A crypt(3) hash with a method prefix. C-14: any method; plain text and the prefix-less DES form are refused. */
export const CRYPT_PATTERN = /^\$[a-z0-9][a-z0-9-]*\$[./A-Za-z0-9$=,+_-]{8,}$/;
export const CRYPT_ALLOWED = 'a crypt hash as printed by `mkpasswd`, such as $y$j9T$…, or "" to disable the password';

export const UUID_PATTERN = /^[0-9a-fA-F]{8}-([0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}$/;
export const MAC_PATTERN = /^[0-9a-fA-F]{2}(:[0-9a-fA-F]{2}){5}$/;
export const MAC_ALLOWED = "six bytes in hex with colons, the first byte even (unicast), such as 02:6e:76:00:00:01";
export const MACHINE_ID_PATTERN = /^[0-9a-f]{32}$/;

/** Name of a network interface of Linux: 15 bytes at most. */
export const INTERFACE_PATTERN = /^[A-Za-z0-9_][A-Za-z0-9_.-]{0,14}$/;
export const INTERFACE_ALLOWED = "up to 15 letters, digits, dots, _ and -, such as br0";

/** Label of an ext4 file system (16 bytes) or name of a ZFS pool. */
export const LABEL_PATTERN = /^[A-Za-z][A-Za-z0-9_.-]{0,15}$/;
export const LABEL_ALLOWED = "up to 16 letters, digits, dots, _ and -, beginning with a letter";

/** Names that `zpool create` takes for a kind of device. */
export function isReservedPoolName(label: string): boolean {
  return /^(mirror|raidz|draid|spare|log|cache|special|dedup)/.test(label);
}

/** Whether a MAC address can belong to one NIC: not a group address and not all zero. */
export function isUnicastMac(mac: string): boolean {
  return MAC_PATTERN.test(mac) && Number.parseInt(mac.slice(0, 2), 16) % 2 === 0 && !/^[0:]+$/.test(mac);
}

const KEY_TYPES = [
  "ssh-ed25519",
  "ssh-rsa",
  "ecdsa-sha2-nistp256",
  "ecdsa-sha2-nistp384",
  "ecdsa-sha2-nistp521",
  "sk-ssh-ed25519@openssh.com",
  "sk-ecdsa-sha2-nistp256@openssh.com",
];
export const SSH_KEY_ALLOWED =
  "one line of a public key file, such as the content of ~/.ssh/id_ed25519.pub (ssh-ed25519 AAAA… comment, printable ASCII)";

/**
 * Whether a text is one OpenSSH public key. The blob must name the same type as the first word: a key cut off while
 * pasting would otherwise only show when nobody can log in. Options in front of the key are refused.
 */
export function isSshPublicKey(text: string): boolean {
  const match = /^(\S+) ([A-Za-z0-9+/]+={0,2})( [ -~]*)?$/.exec(text);
  const type = match?.[1] ?? "";
  if (!KEY_TYPES.includes(type)) return false;
  const blob = Buffer.from(match?.[2] ?? "", "base64");
  if (blob.length < 4 || blob.toString("base64").replace(/=+$/, "") !== match?.[2]?.replace(/=+$/, "")) return false;
  // The blob is a row of length-prefixed strings that ends exactly at its end; a truncated paste does not.
  const strings: Buffer[] = [];
  for (let at = 0; at < blob.length;) {
    if (at + 4 > blob.length) return false;
    const end = at + 4 + blob.readUInt32BE(at);
    if (end > blob.length) return false;
    strings.push(blob.subarray(at + 4, end));
    at = end;
  }
  return strings.length >= 2 && strings[0]?.toString("latin1") === type;
}
