import * as fs from "node:fs";
import { nameOf } from "./fleet";

/** The part of an engine event that is read here. */
export interface EngineEvent {
  resourcePreEvent?: { metadata: StepMetadata };
  resOutputsEvent?: { metadata: StepMetadata };
  resOpFailedEvent?: { metadata: StepMetadata };
}

interface StepMetadata {
  op: string;
  urn: string;
  type: string;
  /** Names of the inputs that change. */
  diffs?: string[] | null;
}

/** One moment of one resource's step. */
export interface StepMoment {
  /** Milliseconds since the epoch, when the event was seen. */
  at: number;
  phase: "begin" | "end" | "failed";
  op: string;
  type: string;
  /** Last part of the URN. */
  name: string;
  /** Inputs that change. */
  diffs: readonly string[];
}

/** Reads one line of an event log; undefined for events that are no steps. */
export function parseEvent(line: string, at: number): StepMoment | undefined {
  const event = JSON.parse(line) as EngineEvent;
  const found = event.resourcePreEvent
    ? ({ phase: "begin", metadata: event.resourcePreEvent.metadata } as const)
    : event.resOutputsEvent
      ? ({ phase: "end", metadata: event.resOutputsEvent.metadata } as const)
      : event.resOpFailedEvent
        ? ({ phase: "failed", metadata: event.resOpFailedEvent.metadata } as const)
        : undefined;
  if (!found) {
    return undefined;
  }
  const { op, type, urn, diffs } = found.metadata;
  return { at, phase: found.phase, op, type, name: nameOf(urn), diffs: diffs ?? [] };
}

/**
 * Follows the engine's event log while a command writes it. The engine's own stamps are whole seconds, too coarse for a
 * downtime, so each line is stamped when it arrives.
 */
export class EventLog {
  readonly steps: StepMoment[] = [];
  private readonly timer: NodeJS.Timeout;
  private offset = 0;
  private rest = "";

  constructor(private readonly file: string) {
    fs.rmSync(file, { force: true });
    this.timer = setInterval(() => this.read(), 50);
  }

  /** Reads what is left and stops following. */
  close(): StepMoment[] {
    clearInterval(this.timer);
    this.read();
    return this.steps;
  }

  private read(): void {
    let handle: number;
    try {
      handle = fs.openSync(this.file, "r");
    } catch {
      return;
    }
    try {
      const { size } = fs.fstatSync(handle);
      const part = Buffer.alloc(Math.max(0, size - this.offset));
      fs.readSync(handle, part, 0, part.length, this.offset);
      this.offset += part.length;
      const lines = (this.rest + part.toString("utf8")).split("\n");
      this.rest = lines.pop() ?? "";
      for (const line of lines) {
        const step = line.trim() === "" ? undefined : parseEvent(line, Date.now());
        if (step) {
          this.steps.push(step);
        }
      }
    } finally {
      fs.closeSync(handle);
    }
  }
}

/** A span of time in milliseconds since the epoch. */
export interface Span {
  from: number;
  to: number;
}

const GUEST = "nixvm:index:Guest";
const DELETES = new Set(["delete", "delete-replaced"]);
const CREATES = new Set(["create", "create-replacement", "update"]);

/** An update that gives a guest another disk to boot from begins with its clean stop. */
const stops = ({ op, diffs }: StepMoment): boolean =>
  DELETES.has(op) || (op === "update" && diffs.includes("overlayPath"));

/**
 * When each VM was not serving, by its Guest: from the moment its clean stop began to the moment the new guest said that
 * it is healthy. A VM whose Guest was not stopped has no entry.
 */
export function downSpans(steps: StepMoment[]): Map<string, Span> {
  const spans = new Map<string, Span>();
  for (const step of steps.filter((s) => s.type === GUEST)) {
    const known = spans.get(step.name);
    if (step.phase === "begin" && stops(step) && !known) {
      spans.set(step.name, { from: step.at, to: Number.POSITIVE_INFINITY });
    } else if (step.phase === "end" && CREATES.has(step.op) && known) {
      known.to = Math.min(known.to, step.at);
    }
  }
  return spans;
}

/** Seconds in which all of the spans hold at once. */
export function secondsTogether(spans: Span[]): number {
  if (spans.length < 2) {
    return 0;
  }
  const from = Math.max(...spans.map((s) => s.from));
  const to = Math.min(...spans.map((s) => s.to));
  return Math.max(0, to - from) / 1000;
}
