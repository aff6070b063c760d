import { type ChildProcess, spawn } from "node:child_process";
import { existsSync } from "node:fs";
import * as path from "node:path";
import { withFolder } from "../provider/folder";
import { CliError } from "./errors";

/**
 * Lets `use` run programs that find the private key in an agent of its own: the key is in no file and in no argument. Without a key
 * the environment is the user's.
 */
export async function withKey<T>(
  privateKey: string | undefined,
  use: (env: NodeJS.ProcessEnv) => Promise<T>,
): Promise<T> {
  if (privateKey === undefined) return use(process.env);
  return withFolder(async (folder) => {
    const socket = path.join(folder, "agent");
    const agent = spawn("ssh-agent", ["-D", "-a", socket], { stdio: "ignore" });
    try {
      await listening(agent, socket);
      const env = { ...process.env, SSH_AUTH_SOCK: socket };
      await addKey(privateKey, env);
      return await use(env);
    } finally {
      agent.kill();
    }
  });
}

function listening(agent: ChildProcess, socket: string): Promise<void> {
  return new Promise((resolve, reject) => {
    const timer = setInterval(() => {
      if (!existsSync(socket)) return;
      clearInterval(timer);
      resolve();
    }, 10);
    const fail = (why: string): void => {
      clearInterval(timer);
      reject(new CliError(`ssh-agent, which keeps buildHost.privateKey in memory, ${why}`));
    };
    agent.on("error", () => fail("cannot be started; install the package openssh-client"));
    agent.on("exit", () => fail("ended at once"));
  });
}

function addKey(privateKey: string, env: NodeJS.ProcessEnv): Promise<void> {
  return new Promise((resolve, reject) => {
    // Nobody is asked for a passphrase: the stack file says that there is none.
    const quiet = { ...env, SSH_ASKPASS_REQUIRE: "force", SSH_ASKPASS: "/bin/false" };
    const child = spawn("ssh-add", ["-q", "-"], { env: quiet, stdio: ["pipe", "ignore", "pipe"] });
    let stderr = "";
    child.stderr.setEncoding("utf8").on("data", (text: string) => (stderr += text));
    child.on("error", reject);
    child.stdin.on("error", () => undefined);
    child.on("close", (code) => {
      if (code === 0) return resolve();
      reject(new CliError(`buildHost.privateKey is refused by ssh-add: ${stderr.trim().split("\n").at(-1) ?? ""}`));
    });
    child.stdin.end(`${privateKey.trimEnd()}\n`);
  });
}
