// What has to hold after a run that ended well, whatever happened to the one before it.
import { KEYS, SWITCHED, TEMPORARY, vmsOf } from "./fleet.mjs";

const PREFIX = "nixvm-";
const SEED = "nixvm:index:SeedVolume";

/** Everything that is wrong; an empty list when all is well. `known` keeps the identities over the runs. */
export async function violations({ world, project, shape, wish, images, known, deleted }) {
  const wrong = [];
  const prefix = `${PREFIX}${project.stack}`;
  const wanted = vmsOf(shape, wish);
  const { resources = [], pending_operations: pending = [] } = project.deployment();
  if (pending.length > 0) wrong.push(`the state has ${pending.length} pending operations`);

  const outputs = resources.find(({ type }) => type === "pulumi:pulumi:Stack")?.outputs?.vms ?? {};

  const volumes = names(await world.virsh(`vol-list ${prefix}`));
  const inState = new Map(
    resources
      // The test driver has no seeds.
      .filter(({ type, id }) => type === "libvirt:index/volume:Volume" || (type === SEED && id.startsWith("/")))
      .map(({ id, urn }) => [id.split("/").at(-1), urn]),
  );
  for (const volume of volumes) if (!inState.has(volume)) wrong.push(`the volume ${volume} is not in the state`);
  for (const [volume, urn] of inState) {
    if (!volumes.includes(volume)) wrong.push(`${urn.split("::").at(-1)} is in the state, and ${volume} is not there`);
  }
  for (const vm of wanted) {
    if (!volumes.includes(`${prefix}-${vm}-persist`)) wrong.push(`the persistent volume of ${vm} is gone`);
  }
  for (const volume of deleted) {
    if (volume.endsWith("-persist") && !volume.endsWith(`-${TEMPORARY}-persist`)) wrong.push(`${volume} was deleted`);
  }

  const domains = (await world.virsh("list --all --uuid --name"))
    .split("\n")
    .filter((line) => line.trim() !== "")
    .map((line) => line.trim().split(/\s+/));
  const expected = wanted.map((vm) => `${prefix}-${vm}`).sort();
  const there = domains.map(([, name]) => name).sort();
  if (there.join() !== expected.join()) wrong.push(`domains are ${there.join()}, wanted ${expected.join()}`);
  const digest = images[wish.image].digest.slice(0, 12);
  for (const [uuid, name] of domains) {
    const vm = name.slice(prefix.length + 1);
    if (!wanted.includes(vm)) continue;
    const xml = await world.virsh(`dumpxml ${uuid}`);
    const inactive = await world.virsh(`dumpxml --inactive ${uuid}`);
    for (const [what, text] of [
      ["runs", xml],
      ["is defined", inactive],
    ]) {
      const disk = text.split("<disk ").find((part) => part.includes("<serial>boot</serial>"));
      const boot = /<source file=["']([^"']*)["']/.exec(disk ?? "")?.[1];
      const file = boot?.split("/").at(-1) ?? "";
      if (!file.startsWith(`${prefix}-${vm}-${digest}-`))
        wrong.push(`${vm} ${what} with ${boot}, wanted one of ${digest}`);
      else if (!volumes.includes(file)) wrong.push(`${vm} ${what} with ${file}, which is not there`);
      const memory = Number(/<memory unit=["']KiB["'][^>]*>(\d+)</.exec(text)?.[1]) / 1024;
      if (memory !== shape.memory[wish.memory])
        wrong.push(`${vm} ${what} with ${memory} MiB, wanted ${shape.memory[wish.memory]}`);
    }
    const state = (await world.virsh(`domstate ${uuid}`)).trim();
    const meant = wish.off && vm === SWITCHED ? "shut off" : "running";
    if (state !== meant) wrong.push(`${vm} is ${state}, wanted ${meant}`);
    const said = outputs[vm] ?? {};
    if (said.uuid !== uuid) wrong.push(`${vm} has UUID ${uuid}, and the stack says ${said.uuid}`);
    same(vm, `${uuid} ${said.mac}`);
  }
  // Whoever starts next would go by it.
  for (const vm of world.seed ? wanted : []) {
    const seed = world.seed(`${prefix}-${vm}`) ?? "";
    const keys = KEYS.filter((key) => seed.includes(key));
    if (keys.join() !== KEYS[wish.key]) wrong.push(`the seed of ${vm} has ${keys.length} keys, wanted key ${wish.key}`);
  }
  // Real guests are asked for what was written to their data.
  for (const [vm, data] of Object.entries((await world.data?.(outputs)) ?? {})) same(`the data of ${vm}`, data);
  return wrong;

  function same(what, now) {
    const before = known.get(what) ?? now;
    known.set(what, before);
    if (before !== now) wrong.push(`${what} was ${before} and is ${now}`);
  }
}

function names(list) {
  return list
    .split("\n")
    .map((line) => line.trim().split(/\s+/)[0])
    .filter(Boolean);
}
