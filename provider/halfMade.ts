import { machineOf } from "./domainXml";
import { Run } from "./run";
import { callVirsh, LibvirtError, Virsh } from "./virsh";

/**
 * What a create that was broken off has left in libvirt, taken away before the create is tried again: the libvirt provider would
 * refuse it as somebody else's. Only what nothing can be lost with: whatever is in use stays, and the provider says that it is there.
 */

/** Takes away the definition of a pool that was made for this folder and holds nothing. No file is touched. */
export async function clearPool(uri: string, name: string, path: string, run: Run): Promise<void> {
  const call = (...args: string[]) => callVirsh(run, uri, args);
  const xml = await unlessMissing(call("pool-dumpxml", name), /Storage pool not found/);
  if (xml === undefined || /<path>([^<]*)<\/path>/.exec(xml)?.[1] !== path) return;
  const active = /^State:\s+running/m.test(await call("pool-info", name));
  // A folder that was not made yet cannot be looked into, and has nothing in it.
  if (
    !active &&
    (await unlessMissing(call("pool-start", name), /No such file or directory|cannot open path/)) === undefined
  )
    return void (await call("pool-undefine", name));
  await call("pool-refresh", name);
  const empty = (await call("vol-list", name)).trim() === "";
  if (empty || !active) await call("pool-destroy", name);
  if (empty) await call("pool-undefine", name);
}

/** Powers off a domain that was made and never given to its Guest: it has no disk to boot from. */
export async function clearDomain(uri: string, uuid: string, run: Run): Promise<void> {
  const libvirt = new Virsh(uri, run);
  const there = (await libvirt.domains()).some((domain) => domain.uuid === uuid);
  if (!there || (await libvirt.state(uuid)).state === "shut off") return;
  const machine = machineOf(await libvirt.xml(uuid));
  if (machine !== undefined && machine.bootPath === undefined) await libvirt.destroy(uuid);
}

async function unlessMissing(answer: Promise<string>, missing: RegExp): Promise<string | undefined> {
  try {
    return await answer;
  } catch (error) {
    if (error instanceof LibvirtError && missing.test(error.message)) return undefined;
    throw error;
  }
}
