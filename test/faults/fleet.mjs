// The fleet that is upgraded again and again, and the changes of its stack file.
export const KEYS = [
  "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIIiRMrbQ2SKN3p5v4bD/8KkBCVXYlBL7eVj2Bci5i6hR one",
  "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIDK1oyTlNS8xEr0HLPhKmiHWbsbPmZYFCyt4VfMFGZ3G two",
];
/** Comes and goes; its data may go with it. */
export const TEMPORARY = "e";
/** Is switched off and on. */
export const SWITCHED = "d";

/** On the test driver: four VMs, and one that comes and goes. */
export const PLAYED = { vms: ["a", "b", "c", "d"], memory: [64, 96], persist: "64MiB", kinds: undefined };
/** Real guests take their time: two are enough for an order. */
export const REAL = { vms: ["a", "b"], memory: [512, 576], persist: "256MiB", kinds: ["image", "key", "memory"] };

/** What a stack file says, as far as it changes here: places in lists, and two switches. */
export const FIRST = { image: 0, key: 0, memory: 0, temporary: false, off: false };

/** Changes by name; each gives another wish. */
const CHANGES = {
  image: (wish) => ({ ...wish, image: 1 - wish.image }),
  key: (wish) => ({ ...wish, key: 1 - wish.key }),
  memory: (wish) => ({ ...wish, memory: 1 - wish.memory }),
  "a VM off or on": (wish) => ({ ...wish, off: !wish.off }),
  "a VM more or less": (wish) => ({ ...wish, temporary: !wish.temporary }),
};

/** Half of the changes are upgrades: they do most. */
export function changed(shape, wish, random) {
  const kind = random.chance(0.5) ? "image" : random.pick(shape.kinds ?? Object.keys(CHANGES));
  return { kind, wish: CHANGES[kind](wish) };
}

/** The stack file; `host` is its entry of that name, `ports` the first of the SSH ports. */
export function configOf(shape, wish, { host, images, ports }) {
  const vm = (name) => ({
    network: { mode: "user", sshPort: ports + name.charCodeAt(0) - "a".charCodeAt(0) },
    ...(wish.off && name === SWITCHED ? { running: false } : {}),
    ...(name === TEMPORARY ? { persist: { size: shape.persist, protect: false, retain: false } } : {}),
  });
  return {
    hosts: { local: host },
    images: { os: { path: images[wish.image].file } },
    rollout: { gateTimeout: "10m", stopTimeout: "1m" },
    defaults: {
      image: "os",
      memory: `${shape.memory[wish.memory]}MiB`,
      vcpus: 1,
      persist: { size: shape.persist },
      adminKeys: [KEYS[wish.key]],
    },
    fleet: Object.fromEntries(vmsOf(shape, wish).map((name) => [name, vm(name)])),
  };
}

/** Names of the VMs that a wish has. */
export function vmsOf(shape, wish) {
  return wish.temporary ? [...shape.vms, TEMPORARY] : shape.vms;
}
