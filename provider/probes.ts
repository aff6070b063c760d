import { constants } from "node:fs";
import { access, stat, statfs } from "node:fs/promises";
import { createServer } from "node:net";
import { delimiter, join } from "node:path";
import { Run, run } from "./run";

/** Space and kind of the file system below a folder. */
export interface Space {
  freeBytes: number;
  /** Which file system in memory it is, `false` for one on a disk; unset when that cannot be told. */
  inMemory?: "tmpfs" | "ramfs" | false;
}

/** How the preflight looks at this machine; replaced in tests. */
export interface Probes {
  run: Run;
  /** True when an executable of that name is on PATH. */
  onPath(name: string): Promise<boolean>;
  /** What is at a path. */
  kind(path: string): Promise<"folder" | "other" | "missing">;
  writable(path: string): Promise<boolean>;
  /** Follows symbolic links, as whoever writes there does. */
  space(path: string): Promise<Space>;
  /** True when nobody listens on the port of the loopback interface. */
  portFree(port: number): Promise<boolean>;
  /** True when this process may write anywhere. */
  isRoot(): boolean;
  env: NodeJS.ProcessEnv;
}

/** Magic numbers of the file systems that live in memory (E-37, E-41). */
const memory: Readonly<Record<number, "tmpfs" | "ramfs">> = { 0x01021994: "tmpfs", 0x858458f6: "ramfs" };

export const realProbes: Probes = {
  run,
  env: process.env,
  isRoot: () => process.getuid?.() === 0,
  async onPath(name) {
    const folders = (process.env["PATH"] ?? "").split(delimiter).filter((folder) => folder !== "");
    const found = await Promise.all(folders.map((folder) => allowed(join(folder, name), constants.X_OK)));
    return found.includes(true);
  },
  async kind(path) {
    try {
      return (await stat(path)).isDirectory() ? "folder" : "other";
    } catch (error) {
      // Below a file there is nothing either; the file itself is met further up.
      const code = (error as NodeJS.ErrnoException).code;
      // Anything else (EACCES) means that something is there which this user may not see.
      return code === "ENOENT" || code === "ENOTDIR" ? "missing" : "folder";
    }
  },
  writable: (path) => allowed(path, constants.W_OK | constants.X_OK),
  async space(path) {
    try {
      const { bavail, bsize, type } = await statfs(path);
      return { freeBytes: bavail * bsize, inMemory: memory[type] ?? false };
    } catch {
      // A folder this user may not see is libvirt's business.
      return { freeBytes: Infinity };
    }
  },
  portFree: (port) =>
    new Promise((resolve) => {
      const server = createServer();
      // A port that only root may open is not taken, and QEMU may run as root.
      server.once("error", (error: NodeJS.ErrnoException) => resolve(error.code !== "EADDRINUSE"));
      server.listen({ port, host: "127.0.0.1", exclusive: true }, () => server.close(() => resolve(true)));
    }),
};

async function allowed(path: string, mode: number): Promise<boolean> {
  return access(path, mode).then(
    () => true,
    () => false,
  );
}
