import { createHash, createHmac } from "node:crypto";

/** What makes a VM that VM. Made from the fleet's secret key and the VM's name only: no input from image or shape (T-43). */
export interface Identity {
  /** libvirt UUID, RFC 9562 version 8 (own derivation); a domain made anew keeps it, and with it its DHCP lease (T-92). */
  readonly uuid: string;
  /** Content of /etc/machine-id: 32 lower-case hex digits in the layout of a version 4 UUID, as systemd asks for (T-91). */
  readonly machineId: string;
  /** MAC address of the NIC: locally administered, unicast, outside QEMU's 52:54 block (T-93). */
  readonly mac: string;
  /** ZFS host id: 8 hex digits, never 00000000, which ZFS reads as "none" (C-19). */
  readonly hostId: string;
}

/** Values given in the stack file in place of derived ones, such as those of an adopted VM. `null` or absent: derived. */
export interface IdentityOverrides {
  readonly uuid?: string | null;
  readonly machineId?: string | null;
  readonly mac?: string | null;
}

/**
 * Derives a VM's identity. `key` is the fleet's secret: at least 32 hex digits. The same key and name always give the
 * same identity, so destroying and creating a VM again brings it back (G-12). Explicit overrides win.
 *
 * @throws if the key is not such a text (the key itself is never in the message).
 */
export function identityOf(key: string, vmName: string, overrides: IdentityOverrides = {}): Identity {
  const machineId = withVersion(derive(key, "machine-id", vmName), 4).toString("hex");
  const hostId = derive(key, "host-id", vmName).subarray(0, 4).toString("hex");
  return {
    uuid: overrides.uuid?.toLowerCase() ?? formatUuid(withVersion(derive(key, "uuid", vmName), 8)),
    machineId: overrides.machineId ?? machineId,
    mac: overrides.mac?.toLowerCase() ?? formatMac(derive(key, "mac", vmName)),
    hostId: hostId === "00000000" ? "00000001" : hostId,
  };
}

/** The fleet's key of a random text. */
export const fleetKeyOf = (text: string): string => createHash("sha256").update(text).digest("hex");

/** 32 bytes that depend on the fleet's key, the purpose and the VM's name. Labels keep the purposes independent. */
export function derive(key: string, purpose: string, vmName: string): Buffer {
  if (!/^([0-9a-f]{2}){16,}$/i.test(key)) throw new Error("identity: the fleet key must be at least 32 hex digits");
  return createHmac("sha256", Buffer.from(key, "hex")).update(`nixvm/v1/${purpose}\0${vmName}`).digest();
}

function withVersion(bytes: Buffer, version: number): Buffer {
  const id = Buffer.from(bytes.subarray(0, 16));
  id[6] = ((id[6] ?? 0) & 0x0f) | (version << 4);
  id[8] = ((id[8] ?? 0) & 0x3f) | 0x80;
  return id;
}

function formatUuid(bytes: Buffer): string {
  const hex = bytes.toString("hex");
  return [hex.slice(0, 8), hex.slice(8, 12), hex.slice(12, 16), hex.slice(16, 20), hex.slice(20)].join("-");
}

function formatMac(bytes: Buffer): string {
  return ["02", ...[...bytes.subarray(0, 5)].map((byte) => byte.toString(16).padStart(2, "0"))].join(":");
}
