import { statSync } from "node:fs";
import { withMedium } from "../../provider/medium";
import { commandEnv, run } from "../../provider/run";

test("the files of a seed and its medium can be read by nobody else, under an umask that would let everybody (T-25)", async () => {
  const before = process.umask(0o022);
  try {
    const files = { userData: "#cloud-config\n{}\n", metaData: "{}\n", networkConfig: "{}\n" };
    const modes = await withMedium(files, run, async ({ file, folder }) =>
      [folder, `${folder}/user-data`, file].map((path) => (statSync(path).mode & 0o777).toString(8)),
    );
    expect(modes).toEqual(["700", "600", "600"]);
  } finally {
    process.umask(before);
  }
});

test("a command that is started gets neither the stack's config nor the passphrase, and all else (G-5)", async () => {
  const own = {
    PATH: "/bin",
    PULUMI_CONFIG: '{"nixvm:defaults":"hash"}',
    PULUMI_CONFIG_PASSPHRASE: "open",
    PULUMI_HOME: "/p",
  };
  expect(commandEnv(own)).toEqual({ PATH: "/bin", PULUMI_HOME: "/p", LC_ALL: "C" });
  process.env["PULUMI_CONFIG"] = "canary";
  try {
    const { stdout } = await run("env", [], 10_000);
    expect(stdout).toContain("PATH=");
    expect(stdout).not.toContain("canary");
  } finally {
    delete process.env["PULUMI_CONFIG"];
  }
});
