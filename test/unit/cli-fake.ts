import * as fs from "node:fs";
import * as os from "node:os";
import * as path from "node:path";
import { nixvm } from "../../cli/nixvm";
import { domainXml } from "./provider-fake";

/** What a verb left behind. */
export interface Ended {
  code: number;
  stdout: string;
  stderr: string;
}

const GUEST = "urn:pulumi:prod::nixvm::nixvm:index:Fleet$nixvm:index:VirtualMachine$nixvm:index:Guest";
const HOST_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIBkNlR8ZMmX9ZQ1aWvXqZ1mXq0aQ1m6k2Wc7Lr0b3rGk";

/** Programs that say what the files beside them say, and write down how they were called. In sh, which starts at once. */
const PROGRAMS: Record<string, string> = {
  ssh: `exit "$(cat ssh.code)"`,
  pulumi: `
    case $1 in
      stack) cat state.json; exit ;;
      config) cat config.json; exit ;;
    esac
    if [ "$(cat up.code)" = 0 ] && [ -d up ]; then cp up/* domains/; fi
    exit "$(cat up.code)"`,
  virsh: `
    verb=$4 uuid=$5
    if [ -f "failing.$verb" ]; then echo "error: the fake was told to fail" >&2; exit 1; fi
    if [ "$verb" = list ]; then for one in domains/*; do echo "\${one#*/} domain"; done; exit; fi
    if [ "$verb" = dumpxml ]; then for uuid; do :; done; fi
    if [ ! -f "domains/$uuid" ]; then echo "error: failed to get domain '$uuid'" >&2; exit 1; fi
    case $verb in
      domstate) echo "$(cat "domains/$uuid") (because)" ;;
      destroy | shutdown) echo "shut off" > "domains/$uuid" ;;
      suspend) echo paused > "domains/$uuid" ;;
      resume | start) echo running > "domains/$uuid" ;;
      dumpxml) cat domain.xml ;;
      domifaddr) cat "addresses.$8" ;;
      *) echo "error: Guest agent is not responding" >&2; exit 1 ;;
    esac`,
};

/** A project with a stack `prod`, and programs on PATH that stand for Pulumi, libvirt and SSH; removed by `remove`. */
export class FakeProject {
  // A space in the path, on purpose.
  readonly dir = fs.mkdtempSync(path.join(os.tmpdir(), "nixvm cli "));
  readonly stackFile = path.join(this.dir, "stacks", "Pulumi.prod.yaml");
  private readonly before = { ...process.env };

  constructor(stackFile: string) {
    fs.mkdirSync(path.join(this.dir, "stacks"));
    fs.mkdirSync(path.join(this.dir, "bin"));
    fs.writeFileSync(this.stackFile, stackFile);
    for (const [name, text] of Object.entries({
      "up.code": "0",
      "ssh.code": "0",
      "config.json": "{}",
      "state.json": "{}",
      "domain.xml": domainXml("/o").replace(
        "<devices>",
        "<devices><interface><mac address='52:54:00:00:00:01'/></interface>",
      ),
    })) {
      this.write(name, text);
    }
    for (const [name, text] of Object.entries(PROGRAMS)) {
      const head = `#!/bin/sh\ncd '${this.dir}'\nprintf '%s\\037' ${name} "$@" >> calls; echo >> calls`;
      fs.writeFileSync(path.join(this.dir, "bin", name), `${head}\n${text}\n`, { mode: 0o755 });
    }
    Object.assign(process.env, {
      PATH: `${path.join(this.dir, "bin")}${path.delimiter}${process.env.PATH ?? ""}`,
      NIXVM_PROJECT: this.dir,
      PULUMI_STACK: "prod",
    });
    delete process.env.NIXVM_CWD;
  }

  /** VMs of the state, each with what differs from the usual. The uuid of `web` is `u-web`. */
  state(vms: Record<string, Record<string, unknown>>): void {
    const resources = Object.entries(vms).map(([vm, more]) => ({
      urn: `${GUEST}::${vm}-guest`,
      type: "nixvm:index:Guest",
      inputs: {
        ...{
          vm,
          uri: "qemu:///system",
          domain: `nixvm-prod-${vm}`,
          uuid: `u-${vm}`,
          imageDigest: "abc",
          running: true,
        },
        ...{ network: "user, ssh on 127.0.0.1:2222", persistPath: `/pool/${vm}`, sshHostKey: HOST_KEY, ...more },
      },
      outputs: {},
    }));
    this.write("state.json", JSON.stringify({ deployment: { resources } }));
  }

  /** States of domains by VM. */
  domains(states: Record<string, string>): void {
    this.become("domains", states);
  }

  /** What becomes of domains when Pulumi runs. */
  afterUp(states: Record<string, string>): void {
    this.become("up", states);
  }

  /** The stack file's part that is ours, as Pulumi says it. */
  config(sections: Record<string, unknown>): void {
    const named = Object.entries(sections).map(([key, objectValue]) => [`nixvm:${key}`, { objectValue }]);
    this.write("config.json", JSON.stringify(Object.fromEntries(named)));
  }

  private become(folder: string, states: Record<string, string>): void {
    fs.rmSync(path.join(this.dir, folder), { recursive: true, force: true });
    fs.mkdirSync(path.join(this.dir, folder));
    for (const [vm, state] of Object.entries(states)) this.write(path.join(folder, `u-${vm}`), state);
  }

  write(name: string, text: string): void {
    fs.writeFileSync(path.join(this.dir, name), text);
  }

  /** Calls of programs so far, but for questions. */
  calls(program: string, ...verbs: string[]): string[][] {
    const file = path.join(this.dir, "calls");
    const lines = fs.existsSync(file) ? fs.readFileSync(file, "utf8").trim().split("\n") : [];
    const all = lines.filter((line) => line !== "").map((line) => line.split("\u001f").slice(0, -1));
    return all
      .filter(([name]) => name === program)
      .map((call) => call.slice(1))
      .filter((call) => verbs.length === 0 || verbs.some((verb) => call.includes(verb)));
  }

  async run(...args: string[]): Promise<Ended> {
    const ended: Ended = { code: 0, stdout: "", stderr: "" };
    const spies = (["stdout", "stderr"] as const).map((name) =>
      jest.spyOn(process[name], "write").mockImplementation((text) => {
        ended[name] += String(text);
        return true;
      }),
    );
    const code = process.exitCode;
    try {
      await nixvm().parseAsync(["node", "nixvm", ...args]);
      ended.code = Number(process.exitCode ?? 0);
    } finally {
      process.exitCode = code;
      for (const spy of spies) spy.mockRestore();
    }
    return ended;
  }

  remove(): void {
    for (const key of Object.keys(process.env)) if (!(key in this.before)) delete process.env[key];
    Object.assign(process.env, this.before);
    fs.rmSync(this.dir, { recursive: true, force: true });
  }
}
