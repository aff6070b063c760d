import { GIB, MIB, type VmPlan } from "../components/plan";
import type { Left } from "./machineDir";

/** What makes a VM that VM, as it is and not only as it was declared. */
export interface MachineFacts {
  uuid: string;
  mac: string;
  machineId: string;
}

/** Accounts of nixos-vm-template, with the file of their keys. */
const KEY_FILES = { admin: "admin_authorized_keys", user: "user_authorized_keys" } as const;

/**
 * The machine config directory that nixos-vm-template would have of a VM, file by file, and what has no place in it (T-88). Pure.
 * `root_password_hash` is a secret.
 */
export function machineFiles(vm: VmPlan, facts: MachineFacts): { files: Record<string, string>; left: Left[] } {
  const left: Left[] = [];
  const line = (value: string | number): string => `${value}\n`;
  const files: Record<string, string> = {
    profile: line(vm.image),
    hostname: line(vm.hostname),
    "machine-id": line(facts.machineId),
    uuid: line(facts.uuid),
    "mac-address": line(facts.mac),
    network: line(vm.network.mode === "bridge" ? `bridge:${vm.network.bridge}` : "nat"),
    memory: line(vm.memoryMiB),
    vcpus: line(vm.vcpus),
    tcp_ports: `# TCP ports to open in firewall (one per line)\n${vm.tcpPorts.map(line).join("")}`,
    udp_ports: `# UDP ports to open in firewall (one per line)\n${vm.udpPorts.map(line).join("")}`,
    "resolv.conf": vm.dns.map((server) => line(`nameserver ${server}`)).join(""),
    root_password_hash: vm.rootPasswordHash === null ? "" : line(vm.rootPasswordHash),
  };
  left.push({ file: "profile", reason: `is the image's name, ${vm.image}: write the profiles that are in it` });
  for (const [account, file] of Object.entries(KEY_FILES)) {
    const keys = vm.accounts.find(({ name }) => name === account)?.authorizedKeys ?? [];
    files[file] = `# SSH authorized_keys for '${account}'\n${keys.map(line).join("")}`;
  }
  for (const { name, passwordHash } of vm.accounts) {
    if (!(name in KEY_FILES)) left.push({ file: `accounts.${name}`, reason: "there are only admin and user there" });
    else if (passwordHash !== null)
      left.push({ file: `accounts.${name}.passwordHash`, reason: "only root has one there" });
  }
  if (vm.persist === null) {
    left.push({ file: "disk_size", reason: "the VM has no persistent volume, and every machine has one there" });
  } else {
    const { sizeBytes } = vm.persist;
    files.disk_size = line(sizeBytes % GIB === 0 ? `${sizeBytes / GIB}G` : `${Math.ceil(sizeBytes / MIB)}M`);
  }
  if (vm.network.mode === "user")
    left.push({ file: "network", reason: "there is no user networking there: it says nat" });
  if (vm.network.mode === "nat" && vm.network.address !== null) {
    const { ip, prefixLength, gateway } = vm.network.address;
    files.static_ip = line(`address=${ip}/${prefixLength}`) + (gateway === null ? "" : line(`gateway=${gateway}`));
  }
  if (vm.scratch !== null) left.push({ file: "scratch", reason: "there is no scratch disk there" });
  const key = "ssh_host_ed25519_key";
  left.push({ file: key, reason: "stays in the guest and on its volume; nobody has read it" });
  return { files, left };
}
