import { setTimeout as sleep } from "node:timers/promises";

test("an operation that fails fails its own test only, whatever its program has still under way", async () => {
  void Promise.reject(new Error("Resource monitor is terminating"));
  await sleep(10);
});
