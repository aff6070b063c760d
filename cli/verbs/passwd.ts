import { password as ask } from "@inquirer/prompts";
import type { Command } from "commander";
import type { VmPlan } from "../../components/plan";
import type { Context } from "../context";
import { hashOf } from "../crypt";
import { noteWarnings, planned, saveAndUp } from "../declare";
import { Edited } from "../editedPlan";
import { applyEdits } from "../edits";
import { wrongInput } from "../errors";
import { hashIn, methodOf, passwordEdits } from "../passwords";
import { declaredPlace } from "../place";
import { encrypted } from "../secret";
import { layersOf } from "../sshKeys";
import { type Answer, does, verb } from "../verb";

interface Options {
  account: string;
  hashStdin: boolean;
  disable: boolean;
}

/** `nixvm passwd`: a password for logins at the console (T-113, T-115, T-116). */
export function addPasswd(program: Command): void {
  does<Options, [string]>(
    verb(program, "passwd <vm>", "set the password of root, or of an account, for the console; SSH takes keys only")
      .option("--account <name>", "account of the VM", "root")
      .option("--hash-stdin", "read a crypt hash from stdin instead of a password", false)
      .option("--disable", "disable the password", false),
    passwd,
  );
}

async function passwd(context: Context, { account, hashStdin, disable }: Options, name: string): Promise<Answer> {
  if (hashStdin && disable) throw wrongInput("--disable", undefined, "contradicts --hash-stdin", "one of the two");
  const edited = await Edited.open(context);
  const place = declaredPlace(edited.file, name);
  const before = await edited.plan();
  const vm = planned(before, name);
  checkAccount(vm, account);
  const hash = disable
    ? ""
    : hashStdin
      ? (await wholeInput()).trim()
      : await hashed(context, vm, `${account} of ${name}`);
  const written = hash === "" ? "" : await encrypted(context, edited.file, hash);
  if (written !== "") edited.learn(written.secure, hash);
  if (hash !== "" || hashIn(vm, account) !== null) {
    applyEdits(edited.file, passwordEdits(edited.file, layersOf(place), vm, account, written));
  }
  const after = await edited.plan();
  noteWarnings(context, before, after);
  const json = { vm: name, account, password: hash === "" ? "disabled" : "set" };
  const text = `the password of ${account} of ${name} is ${json.password}`;
  if (!edited.file.changed) return { json, text: `${text} already` };
  if ((await context.vms()).some((one) => one.name === name)) await saveAndUp(context, edited, [name]);
  else edited.file.save();
  return { json, text };
}

function checkAccount(vm: VmPlan, account: string): void {
  const accounts = ["root", ...vm.accounts.map(({ name }) => name)];
  if (accounts.includes(account)) return;
  throw wrongInput("--account", account, `is no account of ${vm.name}`, accounts.join(", "));
}

/** Asks for a password, twice and without echo; a blank one disables it (T-113). Without a terminal it is read from stdin. */
async function hashed(context: Context, vm: VmPlan, whose: string): Promise<string> {
  const typed = process.stdin.isTTY ? await typedTwice(context, whose) : (await wholeInput()).replace(/\r?\n$/, "");
  if (typed.trim() === "") return "";
  if (/[\0\n\r]/.test(typed)) throw wrongInput("password", undefined, "is more than one line", "one line");
  return hashOf(methodOf(vm), typed, (line) => context.note(line));
}

async function typedTwice(context: Context, whose: string): Promise<string> {
  const first = await ask({ message: `Password for ${whose} (blank disables it):` }, context.prompting());
  if (first.trim() === "") return "";
  const second = await ask({ message: "Once more:" }, context.prompting());
  if (first !== second) throw wrongInput("password", undefined, "is not the same twice", "the same password");
  return first;
}

async function wholeInput(): Promise<string> {
  const parts: Buffer[] = [];
  for await (const part of process.stdin) parts.push(part as Buffer);
  return Buffer.concat(parts).toString("utf8");
}
