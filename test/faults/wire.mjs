// A wire between libvirt's clients and its daemon that sees every call, so that a fault can be timed by what is being done.
import { createServer, connect } from "node:net";

const REMOTE = 0x20008086;
const CALL = 0;
const REPLY = 1;
const GET_CAPABILITIES = 7;
const CREATE_VOLUME = 93;
const VOLUME_EXISTS = 90;

/** Calls that change something, by their number in libvirt's protocol. */
const CHANGES = new Map([
  [8, "attach device"],
  [9, "start domain"],
  [11, "define domain"],
  [12, "power off domain"],
  [29, "set autostart"],
  [31, "set memory"],
  [32, "set vcpus"],
  [33, "shut down domain"],
  [35, "undefine domain"],
  [77, "define pool"],
  [78, "start pool"],
  [79, "build pool"],
  [80, "stop pool"],
  [81, "delete pool"],
  [82, "undefine pool"],
  [90, "set pool autostart"],
  [93, "create volume"],
  [94, "delete volume"],
  [160, "attach device"],
  [174, "update device"],
  [196, "start domain"],
  [199, "set vcpus"],
  [204, "set memory"],
  [231, "undefine domain"],
  [234, "power off domain"],
  [258, "shut down domain"],
  [350, "define domain"],
]);

/** Cuts a stream into packets; the length at the head of each counts itself. */
function packets(onPacket) {
  let rest = Buffer.alloc(0);
  return (data) => {
    rest = Buffer.concat([rest, data]);
    while (rest.length >= 4 && rest.length >= rest.readUInt32BE(0)) {
      const length = rest.readUInt32BE(0);
      const packet = rest.subarray(0, length);
      rest = rest.subarray(length);
      onPacket(packet);
    }
  };
}

function header(packet) {
  const [program, , procedure, type, serial, status] = [4, 8, 12, 16, 20, 24].map((at) => packet.readUInt32BE(at));
  return { program, procedure, type, serial, status };
}

/** Strings of a call's arguments, in order: each is its length and its bytes, filled up to four. */
function strings(packet, count) {
  const found = [];
  let at = 28;
  while (found.length < count) {
    const length = packet.readUInt32BE(at);
    found.push(packet.toString("utf8", at + 4, at + 4 + length));
    at += 4 + Math.ceil(length / 4) * 4;
  }
  return found;
}

/** The test driver names no machine types, and the libvirt provider defines no domain without one. */
function withMachine(packet) {
  const [text] = strings(packet, 1);
  const bytes = Buffer.from(text.replaceAll("</emulator>", "</emulator><machine>pc</machine>"));
  const padded = Math.ceil(bytes.length / 4) * 4;
  const changed = Buffer.alloc(28 + 4 + padded);
  packet.copy(changed, 0, 0, 28);
  changed.writeUInt32BE(changed.length, 0);
  changed.writeUInt32BE(bytes.length, 28);
  bytes.copy(changed, 32);
  return changed;
}

/** The test driver has another number for a volume that is there already than the driver of real storage. */
function withNumber(packet) {
  if (!packet.includes("storage vol already exists")) return packet;
  const changed = Buffer.from(packet);
  changed.writeInt32BE(VOLUME_EXISTS, 28);
  return changed;
}

/** Where the test driver says something else than libvirt does with real hosts. */
export function corrected(packet, procedure, status) {
  if (procedure === GET_CAPABILITIES && status === 0) return withMachine(packet);
  return procedure === CREATE_VOLUME && status === 1 ? withNumber(packet) : packet;
}

export class Wire {
  /** Changes seen since the last {@link watch}. */
  count = 0;
  /** Names of the volumes that somebody asked to delete since then. */
  deleted = [];
  #pairs = new Set();
  #hook = () => false;
  #server;

  /** `correct(packet, procedure, status)` gives what the client gets to see of an answer. */
  constructor(path, daemon, correct = (packet) => packet) {
    Object.assign(this, { path, daemon, correct });
  }

  /**
   * Counts anew. `hook(number, name, moment)` is called at each change: "asked" before the daemon has it, "done" when it has
   * answered and the client does not know yet, "told" when it knows. True means that this packet gets lost.
   */
  watch(hook = () => false) {
    this.count = 0;
    this.deleted = [];
    this.#hook = hook;
  }

  open() {
    return new Promise((resolve, reject) => {
      this.#server = createServer((client) => this.#join(client));
      this.#server.once("error", reject);
      this.#server.listen(this.path, resolve);
    });
  }

  /** As when the daemon dies: all connections break, and for a while there is nobody to connect to. */
  async cut(ms) {
    const closed = new Promise((resolve) => this.#server.close(resolve));
    for (const pair of this.#pairs) for (const end of pair) end.destroy();
    await closed;
    await new Promise((resolve) => setTimeout(resolve, ms));
    await this.open();
  }

  async close() {
    for (const pair of this.#pairs) for (const end of pair) end.destroy();
    await new Promise((resolve) => this.#server.close(resolve));
  }

  #join(client) {
    const daemon = connect(this.daemon);
    const pair = [client, daemon];
    const asked = new Map();
    this.#pairs.add(pair);
    const end = () => {
      this.#pairs.delete(pair);
      client.destroy();
      daemon.destroy();
    };
    for (const side of pair) side.on("close", end).on("error", end);
    client.on(
      "data",
      packets((packet) => {
        const { program, procedure, type, serial } = header(packet);
        const name = program === REMOTE && type === CALL ? CHANGES.get(procedure) : undefined;
        if (name !== undefined) {
          const number = ++this.count;
          if (name === "delete volume") this.deleted.push(strings(packet, 2)[1]);
          asked.set(serial, { number, name });
          if (this.#hook(number, name, "asked")) return;
        }
        daemon.write(packet);
      }),
    );
    daemon.on(
      "data",
      packets((packet) => {
        const { program, procedure, type, serial, status } = header(packet);
        const call = program === REMOTE && type === REPLY ? asked.get(serial) : undefined;
        if (call) {
          asked.delete(serial);
          if (this.#hook(call.number, call.name, "done")) return;
        }
        client.write(program === REMOTE && type === REPLY ? this.correct(packet, procedure, status) : packet);
        if (call) this.#hook(call.number, call.name, "told");
      }),
    );
  }
}
