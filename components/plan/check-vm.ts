import { checkAllowlist } from "./check-allowlist";
import { checkSeed } from "./check-seed";
import { checkHealth } from "./health";
import { lookup } from "./infrastructure";
import { LayeredVm } from "./layers";
import type { VmConfig } from "./model-vm";
import { ROOT_MODES } from "./model-vm";
import type { Problems, Segment } from "./errors";
import type { Scope } from "./scope";
import { formatSize } from "./size";
import { isReservedPoolName, RESERVED_ACCOUNTS } from "./text";
import type { VmPlan } from "./types";

/** Checks of one VM that need more than one field or something outside the config: the table of section 8.4 and more. */
export function checkVm(vm: LayeredVm, plan: VmPlan, scope: Scope): void {
  const check = new VmCheck(vm, plan, scope);
  check.image();
  check.shape();
  check.rootMode();
  check.persist();
  check.scratch();
  check.home();
  check.update();
  check.accounts();
  check.identity();
  checkAllowlist(vm, plan, scope);
  checkHealth(vm, plan, scope);
  checkSeed(vm, plan, scope);
}

class VmCheck {
  constructor(
    private readonly vm: LayeredVm,
    private readonly plan: VmPlan,
    private readonly scope: Scope,
  ) {}

  /** Reports at the line that wrote the value; skipped when a field that it depends on is itself wrong. */
  private say(
    to: Problems,
    reads: readonly (keyof VmConfig)[],
    at: readonly Segment[],
    value: unknown,
    message: string,
    allowed: string,
  ): void {
    if (this.vm.bad(...reads)) return;
    const path = this.vm.where(...at);
    to.add(path, value, `${message}${this.vm.remark(path)}`, allowed);
  }

  private refuse(
    reads: readonly (keyof VmConfig)[],
    at: readonly Segment[],
    value: unknown,
    message: string,
    allowed = "",
  ): void {
    this.say(this.scope.problems, reads, at, value, message, allowed);
  }

  private warn(
    reads: readonly (keyof VmConfig)[],
    at: readonly Segment[],
    value: unknown,
    message: string,
    allowed = "",
  ): void {
    this.say(this.scope.warnings, reads, at, value, message, allowed);
  }

  image(): void {
    const { vm, scope } = this;
    if (vm.bad("image")) return;
    const path = vm.where("image");
    if (vm.fields.image !== undefined) return scope.checkReference("images", path, vm.fields.image);
    const known = [...scope.names("images")];
    const allowed =
      known.length === 0
        ? "a name of nixvm:images, which is still empty"
        : `one of ${known.join(", ")}, here or in defaults`;
    scope.problems.add(path, undefined, `is missing${vm.remark(path)}`, allowed);
  }

  shape(): void {
    const { memoryMiB, memoryMaximumMiB, vcpus, vcpusMaximum } = this.plan;
    if (memoryMaximumMiB !== null && memoryMaximumMiB < memoryMiB) {
      const allowed = `${memoryMiB}MiB or more, or less memory`;
      const value = `${memoryMaximumMiB}MiB`;
      this.refuse(["memory", "memoryMaximum"], ["memoryMaximum"], value, "is less than the memory", allowed);
    }
    if (vcpusMaximum !== null && vcpusMaximum < vcpus) {
      const allowed = `${vcpus} or more, or fewer vcpus`;
      this.refuse(["vcpus", "vcpusMaximum"], ["vcpusMaximum"], vcpusMaximum, "is fewer than the vcpus", allowed);
    }
  }

  rootMode(): void {
    const { rootMode, persist, image } = this.plan;
    const able = lookup(this.scope.context.images, image)?.rootModes;
    if (able !== undefined && !able.includes(rootMode)) {
      const offered = ROOT_MODES.filter((mode) => able.includes(mode)).join(", ");
      this.refuse(
        ["rootMode", "preset", "image"],
        ["rootMode"],
        rootMode,
        `is not a root mode that image ${image} can do`,
        offered || "another image",
      );
    }
    this.rootSize();
    const reads = ["rootMode", "preset", "persist"] as const;
    if (rootMode === "readonly" && persist === null) {
      this.refuse(
        reads,
        ["persist"],
        false,
        "leaves /var read-only with rootMode readonly",
        "a persistent volume with mount /var, or another rootMode",
      );
    }
    if (rootMode === "readonly" && persist?.mount === "/persist") {
      this.refuse(
        reads,
        ["persist", "mount"],
        "/persist",
        "leaves /var read-only with rootMode readonly",
        "/var, or another rootMode",
      );
    }
    if (rootMode === "zfs-rollback" && persist?.fs !== "zfs") {
      const at = persist === null ? ["persist"] : ["persist", "fs"];
      this.refuse(
        reads,
        at,
        persist === null ? false : persist.fs,
        "cannot hold the pool that rootMode zfs-rollback needs",
        "a persistent volume with fs: zfs, or another rootMode",
      );
    }
    if (rootMode === "tmpfs" && persist === null) {
      this.warn(
        reads,
        ["persist"],
        false,
        "with rootMode tmpfs: the SSH host key changes at every boot",
        "a persistent volume keeps it",
      );
    }
    if (rootMode === "persistent") {
      const message = "keeps changes made inside the guest until the next image upgrade, which discards them";
      this.warn(reads, ["rootMode"], rootMode, message, "keep what matters on the persistent volume");
    }
  }

  private rootSize(): void {
    const { rootMode, rootSizeBytes, memoryBytes } = this.plan;
    if (rootSizeBytes === null) return;
    const [size, memory] = [formatSize(rootSizeBytes), formatSize(memoryBytes)];
    if (rootMode !== "tmpfs") {
      const message = `is the limit of a root in memory, and rootMode is ${rootMode}`;
      this.refuse(["rootSize", "rootMode", "preset"], ["rootSize"], size, message, "rootMode tmpfs, or no rootSize");
    } else if (rootSizeBytes > memoryBytes) {
      const message = `is more than the memory of the VM (${memory})`;
      this.refuse(["rootSize", "memory", "preset"], ["rootSize"], size, message, `at most ${memory}, or more memory`);
    }
  }

  persist(): void {
    const { persist, name, generation, rootMode, restoreData } = this.plan;
    if (persist === null) return;
    if (restoreData && persist.snapshots === 0) {
      this.refuse(
        ["persist", "preset"],
        ["persist", "snapshots"],
        0,
        "leaves nothing that rollout.restoreDataOnRollback could bring back",
        "1 or more, or restoreDataOnRollback: false",
      );
    }
    if (persist.fs === "zfs" && isReservedPoolName(persist.label)) {
      this.refuse(
        ["persist"],
        ["persist", "label"],
        persist.label,
        "is a word that ZFS keeps for itself",
        "another name for the pool, such as rpool",
      );
    }
    if (persist.fs === "zfs" && rootMode !== "zfs-rollback") {
      const message = `is for rootMode zfs-rollback, and rootMode is ${rootMode}`;
      this.refuse(
        ["persist", "rootMode", "preset"],
        ["persist", "fs"],
        "zfs",
        message,
        "ext4, or rootMode zfs-rollback",
      );
    }
    if (rootMode === "zfs-rollback" && persist.fs === "zfs" && persist.mount !== "/persist") {
      const message = "is not where the datasets of rootMode zfs-rollback are mounted";
      this.refuse(["persist", "rootMode", "preset"], ["persist", "mount"], persist.mount, message, "/persist");
    }
    const now = lookup(this.scope.context.current, name);
    if (now?.persistBytes === undefined || generation > (now.generation ?? 0) || persist.sizeBytes >= now.persistBytes)
      return;
    const size = formatSize(now.persistBytes);
    const allowed = `${size} or more; a smaller volume means new data: raise generation`;
    this.refuse(
      ["persist", "generation"],
      ["persist", "size"],
      formatSize(persist.sizeBytes),
      `is smaller than the volume is now (${size})`,
      allowed,
    );
  }

  scratch(): void {
    for (const path of this.vm.scratchTwice) {
      this.scope.problems.add(
        path,
        undefined,
        "says the same as scratch, which stands beside it",
        "either scratch or vmDiskSize",
      );
    }
    const { scratch, store, rootMode, home } = this.plan;
    if (scratch === null) return;
    if (scratch.nixOverlay && (store === "partition" || store === "dataset")) {
      this.refuse(
        ["scratch", "store", "preset"],
        ["scratch", "nixOverlay"],
        true,
        `needs a read-only store below, and store is ${store}`,
        "store image or overlay, or nixOverlay: false",
      );
    }
    if (rootMode === "persistent" || home.mode === "persistent") {
      const kept = rootMode === "persistent" ? "rootMode persistent" : "home persistent";
      const message = `is encrypted, but ${kept} writes in clear: secrets may still end up on a disk`;
      this.warn(
        ["scratch", "rootMode", "home", "preset"],
        ["scratch", "size"],
        formatSize(scratch.sizeBytes),
        message,
        "rootMode tmpfs with home tmpfs",
      );
    }
  }

  home(): void {
    const { home, memoryBytes, persist, rootMode } = this.plan;
    if (home.mode === "persistent") {
      if (this.vm.fields.home?.size !== undefined) {
        this.refuse(
          ["home", "preset"],
          ["home", "size"],
          this.vm.fields.home.size,
          "is the limit of a tmpfs, and home is persistent",
          "home: { mode: tmpfs, size: … }, or no size",
        );
      }
      if (rootMode === "tmpfs" && persist === null) {
        this.refuse(
          ["home", "rootMode", "persist", "preset"],
          ["home"],
          "persistent",
          "has nowhere to be kept: the root is in memory and there is no persistent volume",
          "tmpfs, or a persistent volume",
        );
      }
      return;
    }
    if (home.sizeBytes === null) return;
    const reads = ["home", "memory", "preset"] as const;
    const [size, memory] = [formatSize(home.sizeBytes), formatSize(memoryBytes)];
    if (home.sizeBytes > memoryBytes) {
      this.refuse(
        reads,
        ["home", "size"],
        size,
        `is more than the memory of the VM (${memory})`,
        `at most ${memory}, or more memory`,
      );
    } else if (home.sizeBytes > memoryBytes / 2) {
      this.warn(
        reads,
        ["home", "size"],
        size,
        `is more than half of the memory of the VM (${memory})`,
        "a full /home then leaves too little for programs",
      );
    }
  }

  update(): void {
    const { update, rootMode, store } = this.plan;
    const written = this.vm.fields.update;
    if (update.mode === "image") {
      for (const field of ["flake", "every"] as const) {
        if (written?.[field] === undefined) continue;
        this.refuse(
          ["update", "preset"],
          ["update", field],
          written[field],
          "is for update mode pull, and the mode is image",
          "mode: pull, or leave it out",
        );
      }
      return;
    }
    const reads = ["update", "rootMode", "store", "preset"] as const;
    const at = written?.mode === undefined ? ["update"] : ["update", "mode"];
    if (rootMode === "readonly") {
      this.refuse(reads, at, "pull", "needs a writable system, and rootMode is readonly", "image, or another rootMode");
    } else if (store === "image") {
      this.refuse(
        reads,
        at,
        "pull",
        "needs a writable store, and store is image",
        "image, or store partition, dataset or overlay",
      );
    }
    if (update.everySeconds < 60) {
      this.refuse(
        ["update", "preset"],
        ["update", "every"],
        written?.every,
        "is too short: each time the source is asked and a system may be built",
        "1m to 24h",
      );
    }
    if (update.flake === null) {
      this.warn(
        ["update", "preset"],
        ["update", "flake"],
        undefined,
        "is not given",
        "the guest then pulls what its image names, and nothing where that names nothing",
      );
    }
  }

  accounts(): void {
    const { vm, plan } = this;
    const seen = new Set<string>();
    for (const [index, { name }] of (vm.fields.accounts ?? []).entries()) {
      const at = ["accounts", index, "name"];
      if (RESERVED_ACCOUNTS.has(name)) {
        const allowed = name === "root" ? "another name; for root there is rootPasswordHash" : "another name";
        this.refuse(["accounts"], at, name, "is an account of the system", allowed);
      }
      if (seen.has(name))
        this.refuse(["accounts"], at, name, "is used twice in this list", "a name of its own for each account");
      seen.add(name);
    }
    for (const role of ["admin", "user"] as const) {
      const field = `${role}Keys` as const;
      if (vm.fields[field] === undefined || plan.accounts.some((account) => account.role === role)) continue;
      // Keys in defaults are for whoever has such an account; only keys given to this VM are meant for it.
      if (vm.where(field)[0] === "defaults") continue;
      this.warn(
        ["accounts", "preset", field],
        [field],
        undefined,
        `has no effect: there is no account with role ${role}`,
        "add one to accounts",
      );
    }
    if (!plan.accounts.some((account) => account.authorizedKeys.length > 0)) {
      const allowed = "put public keys into adminKeys or userKeys";
      this.warn(
        ["accounts", "adminKeys", "userKeys"],
        ["accounts"],
        undefined,
        "have no SSH key: nobody can log in over SSH",
        allowed,
      );
    } else if (!plan.tcpPorts.includes(22)) {
      this.warn(
        ["tcpPorts"],
        ["tcpPorts"],
        plan.tcpPorts,
        "does not open port 22: nobody can log in over SSH",
        "add 22",
      );
    }
  }

  identity(): void {
    const own = this.vm.fields.identity?.mac?.toLowerCase();
    const nic = this.vm.fields.network?.mac?.toLowerCase();
    if (own !== undefined && nic !== undefined && own !== nic) {
      this.refuse(
        ["identity", "network"],
        ["identity", "mac"],
        own,
        `differs from network.mac (${nic})`,
        "the same address, or only one of the two",
      );
    }
  }
}
