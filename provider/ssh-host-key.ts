import * as pulumi from "@pulumi/pulumi";

/**
 * An SSH host key (ed25519) that the stack holds, for VMs whose key must outlive their disks. Made once, by
 * `ssh-keygen` on this machine; nothing replaces it but `pulumi up --replace`.
 */
export class SshHostKey extends pulumi.CustomResource {
  /** Private key in OpenSSH's format; a secret, encrypted in the state (G-5). */
  declare public readonly privateKeyOpenssh: pulumi.Output<string>;
  /** Public key: type and key, without a comment. */
  declare public readonly publicKey: pulumi.Output<string>;
  /** `SHA256:...` as `ssh-keygen -l` prints it. */
  declare public readonly fingerprint: pulumi.Output<string>;

  constructor(name: string, opts?: pulumi.CustomResourceOptions) {
    const outputs = { privateKeyOpenssh: undefined, publicKey: undefined, fingerprint: undefined };
    const secrets = pulumi.mergeOptions({ additionalSecretOutputs: ["privateKeyOpenssh"] }, opts);
    super("nixvm:index:SshHostKey", name, outputs, secrets);
  }
}
