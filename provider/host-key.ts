import { createHash } from "node:crypto";
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Props } from "./inputs";
import { Run } from "./run";

/** Marks a value as secret in what goes to the engine. */
const secretSignature = { "4dabf18193072939515e22adb298388d": "1b47061264138c4ac30d75fd1eb44270" };

/** A key pair as the state keeps it. */
export interface HostKey {
  privateKeyOpenssh: string;
  publicKey: string;
  fingerprint: string;
}

/**
 * A new ed25519 key pair in OpenSSH's format. The folder is ours alone (mkdtemp makes it 0700) and is gone before the
 * key is handed on.
 */
export async function makeHostKey(run: Run): Promise<HostKey> {
  const dir = await mkdtemp(join(tmpdir(), "nixvm-key-"));
  try {
    const file = join(dir, "key");
    const result = await run("ssh-keygen", ["-q", "-t", "ed25519", "-N", "", "-C", "", "-f", file], 30_000);
    if (result.failure === "missing") throw new Error("ssh-keygen is not on PATH; install the package openssh-client");
    if (result.code !== 0) throw new Error(`ssh-keygen failed: ${result.stderr.trim()}`);
    const publicKey = (await readFile(`${file}.pub`, "utf8")).trim().split(/\s+/).slice(0, 2).join(" ");
    return { privateKeyOpenssh: await readFile(file, "utf8"), publicKey, fingerprint: fingerprint(publicKey) };
  } finally {
    await rm(dir, { recursive: true, force: true });
  }
}

/** Fingerprint as `ssh-keygen -l` prints it: SHA256, base64 without padding. */
export function fingerprint(publicKey: string): string {
  const blob = Buffer.from(publicKey.split(/\s+/)[1] ?? "", "base64");
  return `SHA256:${createHash("sha256").update(blob).digest("base64").replace(/=+$/, "")}`;
}

/** Properties for the state, with the private key marked secret: the engine hands it back to us unmarked. */
export function hostKeyProps(props: Props): Props {
  const key = props["privateKeyOpenssh"];
  return typeof key === "string" ? { ...props, privateKeyOpenssh: { ...secretSignature, value: key } } : props;
}
