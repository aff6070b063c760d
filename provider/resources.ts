import { admit, rolloutInput } from "./admit";
import { Clock } from "./clock";
import { diffGuest, onlyDomainUnknown, ResourceDiff } from "./diff";
import { checkSnapshot, DataError, Promised } from "./dataSnapshot";
import { Disks } from "./disks";
import { Display } from "./engine";
import { Deps } from "./gate";
import { checkGuest, Failure, GuestInputs, guestInputs, Props, readInputs, UNKNOWN } from "./inputs";
import { applyGuest, deleteGuest, Found, readGuest } from "./lifecycle";
import { memoryOf, refusal } from "./memory";
import { Networks } from "./networks";
import { isTestDriver } from "./testDriver";
import { Libvirt, LibvirtError } from "./virsh";

/** What a Guest needs from the outside; replaced in tests. */
export interface World {
  libvirt(uri: string): Libvirt;
  disks(uri: string): Disks;
  networks(uri: string): Networks;
  clock: Clock;
  signal: AbortSignal;
  /** Where lines go; known only after the engine has told its address. */
  display: () => Display;
}

/** Which resource a request is about. */
export interface Target {
  urn: string;
  id: string;
}

/** The operations of one resource type, free of gRPC. Properties are plain values; secrets come unmarked. */
export interface ResourceType {
  check(urn: string, olds: Props | undefined, news: Props): Failure[];
  diff(target: Target, oldInputs: Props, olds: Props, news: Props): ResourceDiff;
  create(urn: string, news: Props, timeout: number, preview: boolean): Promise<{ id: string; properties: Props }>;
  update(target: Target, olds: Props, news: Props, timeout: number, preview: boolean): Promise<Props>;
  /** Undefined when it is gone. */
  read(target: Target, inputs: Props, olds: Props): Promise<Found | undefined>;
  delete(target: Target, inputs: Props, timeout: number): Promise<void>;
}

/** What a restarted or updated guest says anew, so that nobody reads an old value in a preview. */
const volatile = ["state", "healthy", "imageVersion", "bootId", "bootedAt", "ip", "dataSnapshots"];

/** What tells of an upgrade with a snapshot. */
const foreseen = guestInputs
  .pick({ vm: true, uri: true, imageDigest: true, persistPath: true, snapshots: true })
  .strip()
  .required()
  .refine(({ snapshots }) => snapshots > 0);

/** What a Guest has had on its host besides the domain, as far as the state says. */
const onHost = guestInputs.pick({ nic: true, lease: true, egress: true }).strip().partial().catch({});

export class GuestType implements ResourceType {
  /**
   * Guests whose domain is being replaced. The engine first asks for a diff with nothing but the domain's id unknown; then it
   * registers the guest as a new one and shows what was before to nobody, so that why it restarts, a refused shrink, and what the
   * VM was last healthy on could not be told without this.
   */
  private readonly replaced = new Map<string, { inputs: Props; outputs: Props; news: Props }>();
  private readonly told = new Set<string>();
  private readonly promised: Promised = new Map();
  private readonly failed: { vm?: string } = {};
  private readonly begun: number;

  constructor(private readonly world: World) {
    this.begun = world.clock.now();
  }

  check(urn: string, olds: Props | undefined, news: Props): Failure[] {
    const fresh = olds === undefined || Object.keys(olds).length === 0;
    const before = fresh ? this.replaced.get(urn)?.inputs : olds;
    const failures = checkGuest(before, news);
    const why = refusal(this.replaced.get(urn)?.outputs ?? {}, news);
    if (fresh && why !== undefined) failures.push({ property: "imageDigest", reason: why });
    if (fresh && before !== undefined && failures.length === 0) {
      const { reasons } = diffGuest(before, news);
      const restarts =
        reasons.find((reason) => reason.startsWith("restarts")) ?? "restarts, because its domain is replaced";
      this.tell(urn, news, [restarts]);
    }
    return failures;
  }

  diff({ urn }: Target, oldInputs: Props, olds: Props, news: Props): ResourceDiff {
    const diff = diffGuest(oldInputs, news, olds);
    if (onlyDomainUnknown(diff, news)) {
      this.replaced.set(urn, { inputs: oldInputs, outputs: olds, news });
    } else {
      this.refuse(olds, news);
      this.tell(urn, news, diff.reasons);
    }
    return diff;
  }

  async create(
    urn: string,
    news: Props,
    timeout: number,
    preview: boolean,
  ): Promise<{ id: string; properties: Props }> {
    if (preview) return { id: "", properties: news };
    const want = decode(news);
    const former = this.replaced.get(urn)?.outputs ?? {};
    const deps = this.deps(urn, want.uri, want.vm);
    const properties = await applyGuest(want, timeout, deps, memoryOf(former), onHost.parse(former));
    return { id: want.uuid, properties };
  }

  async update({ urn }: Target, olds: Props, news: Props, timeout: number, preview: boolean): Promise<Props> {
    // A guest that failed is updated without a diff.
    this.refuse(olds, news);
    if (preview) {
      await this.foresee(urn, olds, news);
      const kept = { ...olds, ...news };
      for (const key of volatile) if (key in kept) kept[key] = UNKNOWN;
      return kept;
    }
    const want = decode(news);
    return applyGuest(want, timeout, this.deps(urn, want.uri, want.vm), memoryOf(olds), onHost.parse(olds));
  }

  async read({ urn }: Target, inputs: Props, olds: Props): Promise<Found | undefined> {
    if (Object.keys(inputs).length === 0) {
      throw new Error(
        "nixvm:index:Guest cannot be imported: it holds no data of its own; declare it and run pulumi up",
      );
    }
    const want = decode(inputs);
    return readGuest(want, olds, this.deps(urn, want.uri, want.vm));
  }

  async delete({ urn }: Target, inputs: Props, timeout: number): Promise<void> {
    const want = decode(inputs);
    const deps = this.deps(urn, want.uri, want.vm);
    // A restart for another domain is one of the rollout too; a VM that leaves is not.
    const replaced = this.replaced.get(urn);
    if (replaced && want.running) await admit(want.vm, rolloutInput.optional().parse(replaced.news["rollout"]), deps);
    await deleteGuest(want, timeout, deps);
  }

  /** What an upgrade would fail for before its VM is stopped. A libvirt that does not answer is told of elsewhere. */
  private async foresee(urn: string, olds: Props, news: Props): Promise<void> {
    // Not all of the others are known yet.
    const { data } = foreseen.safeParse(news);
    if (data === undefined || isTestDriver(data.uri) || olds["imageDigest"] === data.imageDigest) return;
    const { vm, uri, persistPath } = data;
    try {
      await checkSnapshot(persistPath, this.deps(urn, uri, vm), this.promised);
    } catch (error) {
      if (error instanceof DataError) throw new Error(`${vm}: ${error.message}`, { cause: error });
      if (!(error instanceof LibvirtError)) throw error;
    }
  }

  /** Before anything is touched: an image that failed here is not tried again unless somebody says so. */
  private refuse(olds: Props, news: Props): void {
    const why = refusal(olds, news);
    if (why !== undefined) throw new Error(why);
  }

  /** The engine asks for a diff several times a run; people want each line once. */
  private tell(urn: string, news: Props, reasons: string[]): void {
    for (const reason of reasons) {
      const line = `${String(news["vm"])}: ${reason}`;
      if (this.told.has(`${urn} ${line}`)) continue;
      this.told.add(`${urn} ${line}`);
      this.world.display().log("info", urn, line);
    }
  }

  private deps(urn: string, uri: string, vm: string): Deps {
    const { clock, signal, display } = this.world;
    return {
      libvirt: this.world.libvirt(uri),
      disks: this.world.disks(uri),
      networks: this.world.networks(uri),
      failed: this.failed,
      begun: this.begun,
      libvirtAt: (other) => this.world.libvirt(other),
      clock,
      signal,
      progress: (message) => display().log("status", urn, `${vm}: ${message}`),
      info: (message) => display().log("info", urn, `${vm}: ${message}`),
      warn: (message) => display().log("warning", urn, `${vm}: ${message}`),
    };
  }
}

function decode(props: Props): GuestInputs {
  return readInputs("Guest", guestInputs, props);
}
