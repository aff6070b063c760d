// The fleet that is upgraded again and again, and the changes of its stack file.
const VMS = ["a", "b", "c", "d"];
/** Comes and goes; its data may go with it. */
const GUEST = "e";
/** Is switched off and on. */
export const OFF = "d";
const KEYS = [
  "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIIiRMrbQ2SKN3p5v4bD/8KkBCVXYlBL7eVj2Bci5i6hR one",
  "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIDK1oyTlNS8xEr0HLPhKmiHWbsbPmZYFCyt4VfMFGZ3G two",
];

/** What a stack file says, as far as it changes here. */
export function firstWish() {
  return { image: 0, key: 0, memory: 64, guest: false, off: false };
}

/** Changes by name; each gives another wish. */
const CHANGES = {
  image: (wish) => ({ ...wish, image: 1 - wish.image }),
  key: (wish) => ({ ...wish, key: 1 - wish.key }),
  memory: (wish) => ({ ...wish, memory: wish.memory === 64 ? 96 : 64 }),
  "a VM off or on": (wish) => ({ ...wish, off: !wish.off }),
  "one VM more or less": (wish) => ({ ...wish, guest: !wish.guest }),
};

/** Half of the changes are upgrades: they do most. */
export function changed(wish, random) {
  const kind = random.chance(0.5) ? "image" : random.pick(Object.keys(CHANGES));
  return { kind, wish: CHANGES[kind](wish) };
}

export function configOf(wish, { uri, pool, images, ports }) {
  const vm = (name) => ({
    running: !(wish.off && name === OFF),
    network: { mode: "user", sshPort: ports + [...VMS, GUEST].indexOf(name) },
  });
  const fleet = Object.fromEntries(VMS.map((name) => [name, vm(name)]));
  if (wish.guest) fleet[GUEST] = { ...vm(GUEST), persist: { size: "64MiB", protect: false, retain: false } };
  return {
    hosts: { local: { uri, pool: { path: pool } } },
    images: { os: { path: images[wish.image].file } },
    rollout: { stopTimeout: "20s" },
    defaults: {
      image: "os",
      memory: `${wish.memory}MiB`,
      vcpus: 1,
      persist: { size: "64MiB" },
      adminKeys: [KEYS[wish.key]],
    },
    fleet,
  };
}

/** Names of the VMs that a wish has. */
export function vmsOf(wish) {
  return wish.guest ? [...VMS, GUEST] : VMS;
}
