import { SEED_DRIVE } from "../provider/virsh";

/** How the guest reaches a network: a libvirt network or bridge (the provider writes it), or QEMU's user mode. */
export type DomainNic = { mode: "libvirt" } | { mode: "user"; mac: string; sshPort: number };

/** One disk of a domain. */
export interface DomainDiskSpec {
  /** Path of the volume on the host. */
  path: string;
  /** Virtio serial by which the guest finds it (G-6): `persist` or `scratch`. */
  serial: string;
}

/** What the libvirt provider has no field for. */
export interface DomainSpec {
  /** Libvirt's domain type; `test` on libvirt's test driver. */
  type: "kvm" | "qemu" | "test";
  /** UUID of the VM, kept for life: the provider takes it over as its resource id. */
  uuid: string;
  /** Disks that stay, in order from `vdb`. The boot disk is the Guest's to put in, so that an upgrade is no change of the domain. */
  disks: DomainDiskSpec[];
  /** Path of the seed's ISO image; the same for the VM's life, so that another seed is no change of the domain. */
  seedPath: string;
  nic: DomainNic;
  /** File on the host that gets all serial output; none where the host cannot write one. */
  consoleLog?: string;
  /** UEFI code image and variable store template; by default libvirt picks one without Secure Boot. */
  firmware?: { loader: string; nvramTemplate: string };
  /** CPU model for TCG, or any named model; `host-passthrough` is the KVM default. */
  cpuModel?: string;
  /** Keeps guest memory out of core dumps (E-24). */
  noCoreDump: boolean;
}

/** A CD-ROM with this serial is left out when the provider reads a domain back; any other would show as a foreign disk. */
const SEED_SERIAL = "cloudinit";

const ESCAPES: Record<string, string> = { "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&apos;" };

/** Escapes for XML, and doubles braces, which XSLT would read as an expression inside an attribute. */
export function xsltText(value: string): string {
  return value.replace(/[&<>"']/g, (c) => ESCAPES[c] ?? c).replace(/[{}]/g, (c) => c + c);
}

const OVMF_WITHOUT_SECURE_BOOT = `<os firmware="efi">
        <type arch="x86_64" machine="q35">hvm</type>
        <firmware><feature enabled="no" name="secure-boot"/></firmware>
      </os>`;

function os(spec: DomainSpec): string {
  if (spec.type === "test") {
    // It knows no machine types.
    return `<os><type>hvm</type></os>`;
  }
  if (!spec.firmware) {
    return OVMF_WITHOUT_SECURE_BOOT;
  }
  return `<os>
        <type arch="x86_64" machine="q35">hvm</type>
        <loader readonly="yes" type="pflash">${xsltText(spec.firmware.loader)}</loader>
        <nvram template="${xsltText(spec.firmware.nvramTemplate)}"/>
      </os>`;
}

function cpu(spec: DomainSpec): string {
  const model = spec.cpuModel ?? (spec.type === "kvm" ? "host-passthrough" : "Nehalem");
  if (model === "host-passthrough" || model === "maximum" || model === "host-model") {
    return `<cpu mode="${model}"/>`;
  }
  // A partial check refuses named models whose features TCG lacks.
  return `<cpu mode="custom" match="exact" check="none"><model fallback="forbid">${xsltText(model)}</model></cpu>`;
}

function disk(spec: DomainDiskSpec, index: number): string {
  // type="file": type="volume" trips AppArmor's helper on stock Debian and Ubuntu hosts (provider issue 1163).
  return `<disk type="file" device="disk">
          <driver name="qemu" type="qcow2" discard="unmap"/>
          <source file="${xsltText(spec.path)}"/>
          <target dev="vd${String.fromCharCode(98 + index)}" bus="virtio"/>
          <serial>${xsltText(spec.serial)}</serial>
        </disk>`;
}

/** libvirt has no port forward for user networking in the versions of Debian 12 and Ubuntu 24.04, so QEMU gets it as arguments. */
function userNetwork(nic: DomainNic): string {
  if (nic.mode !== "user") {
    return "";
  }
  const args = [
    "-netdev",
    `user,id=nixvm0,hostfwd=tcp:127.0.0.1:${nic.sshPort}-:22`,
    "-device",
    `virtio-net-pci,netdev=nixvm0,romfile=,mac=${nic.mac},bus=pcie.0,addr=0x10`,
  ];
  return `<qemu:commandline>${args.map((a) => `<qemu:arg value="${xsltText(a)}"/>`).join("")}</qemu:commandline>`;
}

/**
 * The stylesheet that makes a domain of ours out of the provider's: the document is written out whole, and only what the
 * provider knows better (name, memory, vCPUs, network interfaces) is copied from its own XML.
 */
export function domainXslt(spec: DomainSpec): string {
  const log = spec.consoleLog ? `<log file="${xsltText(spec.consoleLog)}" append="off"/>` : "";
  return `<?xml version="1.0"?>
<xsl:stylesheet version="1.0" xmlns:xsl="http://www.w3.org/1999/XSL/Transform" xmlns:qemu="http://libvirt.org/schemas/domain/qemu/1.0">
  <xsl:output method="xml" indent="yes"/>
  <xsl:template match="/domain">
    <domain type="${spec.type}">
      <xsl:copy-of select="name"/>
      <uuid>${xsltText(spec.uuid)}</uuid>
      <xsl:copy-of select="description"/>
      <memory unit="MiB"${spec.noCoreDump ? ` dumpCore="off"` : ""}><xsl:value-of select="memory"/></memory>
      <xsl:copy-of select="vcpu"/>
      ${os(spec)}
      <features><acpi/></features>
      ${cpu(spec)}
      <clock offset="utc"/>
      <on_poweroff>destroy</on_poweroff>
      <on_reboot>restart</on_reboot>
      <on_crash>destroy</on_crash>
      <devices>
        <xsl:copy-of select="devices/emulator"/>
        ${spec.disks.map(disk).join("\n        ")}
        <disk type="file" device="cdrom">
          <driver name="qemu" type="raw"/>
          <source file="${xsltText(spec.seedPath)}"/>
          <target dev="${SEED_DRIVE}" bus="sata"/>
          <readonly/>
          <serial>${SEED_SERIAL}</serial>
        </disk>
        <controller type="usb" model="none"/>
        <xsl:copy-of select="devices/interface"/>
        <serial type="pty">${log}<target port="0"/></serial>
        <console type="pty"><target type="serial" port="0"/></console>
        <channel type="unix"><target type="virtio" name="org.qemu.guest_agent.0"/></channel>
        <rng model="virtio"><backend model="random">/dev/urandom</backend></rng>
        <memballoon model="none"/>
      </devices>
      ${userNetwork(spec.nic)}
    </domain>
  </xsl:template>
</xsl:stylesheet>
`;
}
