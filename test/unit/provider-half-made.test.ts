import { clearDomain, clearPool } from "../../provider/halfMade";
import { Run } from "../../provider/run";

const URI = "qemu:///system";
const UUID = "11111111-2222-4333-8444-555555555555";

/** A libvirt that answers by verb, in the words of the real one; what it is asked to change is written down. */
function libvirt(answers: Record<string, string | { error: string }>): { run: Run; changes: string[] } {
  const changes: string[] = [];
  const run: Run = async (_, [, , , verb = "", ...args]) => {
    if (!/dumpxml|info|list|domstate/.test(verb)) changes.push([verb, ...args].join(" "));
    const answer = answers[verb] ?? "";
    return typeof answer === "string"
      ? { code: 0, stdout: answer, stderr: "" }
      : { code: 1, stdout: "", stderr: `error: ${answer.error}\n` };
  };
  return { run, changes };
}

describe("a pool of the name that is to be made", () => {
  const pool = (state: string, path: string, volumes: string, start: string | { error: string } = "") => ({
    "pool-dumpxml": `<pool type='dir'>\n  <name>p</name>\n  <target>\n    <path>${path}</path>\n  </target>\n</pool>`,
    "pool-info": `Name:           p\nState:          ${state}\n`,
    "vol-list": volumes,
    "pool-start": start,
  });
  const cleared = async (answers: Record<string, string | { error: string }>): Promise<string[]> => {
    const { run, changes } = libvirt(answers);
    await clearPool(URI, "p", "/pools/p", run);
    return changes;
  };
  const refused = { error: "Storage pool not found: no storage pool with matching name 'p'" };
  const folder = { error: "cannot open directory '/pools/p': No such file or directory" };

  it.each<[string, Record<string, string | { error: string }>, string[]]>([
    ["nothing when there is none", { "pool-dumpxml": refused }, []],
    [
      "its definition when it is for the same folder and empty",
      pool("running", "/pools/p", ""),
      ["pool-refresh p", "pool-destroy p", "pool-undefine p"],
    ],
    [
      "its definition when it was not started yet",
      pool("inactive", "/pools/p", ""),
      ["pool-start p", "pool-refresh p", "pool-destroy p", "pool-undefine p"],
    ],
    [
      "its definition when its folder was not made yet",
      pool("inactive", "/pools/p", "", folder),
      ["pool-start p", "pool-undefine p"],
    ],
    [
      "nothing of one with a volume in it",
      pool("running", "/pools/p", " precious  /pools/p/precious\n"),
      ["pool-refresh p"],
    ],
    [
      "nothing of one with a volume in it that was off, which is off again",
      pool("inactive", "/pools/p", " precious  /pools/p/precious\n"),
      ["pool-start p", "pool-refresh p", "pool-destroy p"],
    ],
    ["nothing of one for another folder", pool("running", "/other", ""), []],
  ])("loses %s", async (_, answers, expected) => {
    expect(await cleared(answers)).toEqual(expected);
  });

  it("is an error when libvirt does not say", async () => {
    await expect(cleared({ "pool-dumpxml": { error: "Cannot recv data" } })).rejects.toThrow("Cannot recv data");
  });
});

describe("a domain that is to be made", () => {
  const domain = (state: string, boot: boolean) => ({
    list: `${UUID} fleet-web\n`,
    domstate: `${state} (booted)\n`,
    dumpxml: `<domain><memory unit='KiB'>65536</memory><vcpu>1</vcpu><devices>${
      boot ? `<disk type='file'><source file='/pools/p/x.qcow2'/><serial>boot</serial></disk>` : ""
    }<disk type='file'><source file='/pools/p/persist'/><serial>persist</serial></disk></devices></domain>`,
  });

  it.each<[string, Record<string, string>, string[]]>([
    ["nothing happens to others", { list: "99999999-2222-4333-8444-555555555555 fleet-web\n" }, []],
    ["one that was started without a disk to boot from is powered off", domain("running", false), [`destroy ${UUID}`]],
    ["one that is off is made anew as it is", domain("shut off", false), []],
    ["a guest that runs is left alone", domain("running", true), []],
  ])("%s", async (_, answers, expected) => {
    const { run, changes } = libvirt(answers);
    await clearDomain(URI, UUID, run);
    expect(changes).toEqual(expected);
  });
});
