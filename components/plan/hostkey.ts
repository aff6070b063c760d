import { createPrivateKey, createPublicKey } from "node:crypto";
import { derive } from "./identity";

/** An SSH host key held by the stack (`identity.sshHostKey: stack`). The private part is a secret (T-95, G-5). */
export interface HostKey {
  /** OpenSSH private key file, unencrypted, ending with a line feed. Secret. */
  readonly privateKey: string;
  /** Public key line without a comment: `ssh-ed25519 AAAA…`. */
  readonly publicKey: string;
}

// PKCS#8 wrapping of a raw Ed25519 seed (RFC 8410): Node takes no raw private keys.
const PKCS8_ED25519 = Buffer.from("302e020100300506032b657004220420", "hex");
const TYPE = "ssh-ed25519";

/**
 * The Ed25519 host key of a VM, derived from the fleet's secret key like the rest of the identity: the same after a
 * destroy, and nothing more to keep safe than the one key.
 */
export function hostKeyOf(key: string, vmName: string): HostKey {
  const secret = derive(key, "ssh-host-ed25519", vmName);
  const pkcs8 = createPrivateKey({ key: Buffer.concat([PKCS8_ED25519, secret]), format: "der", type: "pkcs8" });
  const spki = createPublicKey(pkcs8).export({ format: "der", type: "spki" });
  const point = spki.subarray(spki.length - 32);
  const publicBlob = Buffer.concat([field(TYPE), field(point)]);
  // OpenSSH checks that these two words agree after decryption; without encryption any value will do, if it is stable.
  const check = derive(key, "ssh-host-check", vmName).subarray(0, 4);
  const body = [check, check, field(TYPE), field(point), field(Buffer.concat([secret, point])), field("")];
  const length = body.reduce((sum, part) => sum + part.length, 0);
  const padding = Buffer.from(Array.from({ length: (8 - (length % 8)) % 8 }, (_, i) => i + 1));
  const file = Buffer.concat([
    Buffer.from("openssh-key-v1\0", "latin1"),
    field("none"),
    field("none"),
    field(""),
    uint32(1),
    field(publicBlob),
    field(Buffer.concat([...body, padding])),
  ]);
  const lines = file.toString("base64").match(/.{1,70}/g) ?? [];
  const [begin, end] = ["BEGIN", "END"].map((word) => `-----${word} OPENSSH PRIVATE KEY-----`);
  return {
    privateKey: `${[begin, ...lines, end].join("\n")}\n`,
    publicKey: `${TYPE} ${publicBlob.toString("base64")}`,
  };
}

function uint32(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32BE(value);
  return bytes;
}

function field(value: string | Buffer): Buffer {
  const bytes = typeof value === "string" ? Buffer.from(value, "latin1") : value;
  return Buffer.concat([uint32(bytes.length), bytes]);
}
