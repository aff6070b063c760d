// Made-up lists for the planner; what the guest makes of a seed is in guest-fuzz.test.ts.
import fc from "fast-check";
import { planFleet } from "../../components/plan";
import { ACCOUNTS, type Entry } from "./allowlist-table";
import { context, one, vmOf } from "./plan-support";

const volatile = (allowlist: unknown) => ({
  preset: "sealed",
  persist: {},
  accounts: ACCOUNTS.map((name) => ({ name, role: "user" })),
  allowlist,
});

function planAgain(directories: readonly Entry[], files: readonly Entry[]): unknown {
  const again = {
    directories: directories.map(({ path: directory, ...rest }) => ({ directory, ...rest })),
    files: files.map(({ path: file, ...rest }) => ({ file, ...rest })),
  };
  return vmOf(one(volatile(again))).allowlist;
}

test("10,000 made-up lists: a plan with clean entries, or mistakes with a path each; never a crash", () => {
  const names = [
    "a",
    "b",
    "..",
    ".",
    "",
    "~",
    "log",
    "home",
    "nix",
    "persist",
    "zvm",
    "ann",
    "ü ",
    "\n",
    "\t",
    "\0",
    "\ud800",
  ];
  const rest = fc.array(fc.constantFrom(...names), { maxLength: 3 }).map((parts) => parts.join("/"));
  const text = fc.oneof(
    { weight: 6, arbitrary: rest.map((end) => `/srv/${end}`) },
    { weight: 3, arbitrary: rest.map((end) => `/${end}`) },
    { weight: 2, arbitrary: rest },
    { weight: 1, arbitrary: fc.string({ unit: "binary", maxLength: 8 }) },
  );
  const item = (key: string) =>
    fc.oneof(
      { weight: 5, arbitrary: text },
      {
        weight: 3,
        arbitrary: fc.record(
          {
            [key]: text,
            mode: fc.oneof(
              { weight: 9, arbitrary: fc.constantFrom("0700", "750") },
              { weight: 1, arbitrary: fc.string() },
            ),
            user: fc.constantFrom("root", "zvm"),
            how: fc.constantFrom("bindmount", "symlink"),
            inInitrd: fc.boolean(),
          },
          { requiredKeys: [key] },
        ),
      },
      { weight: 1, arbitrary: fc.jsonValue({ maxDepth: 2 }) },
    );
  const lists = {
    directories: fc.array(item("directory"), { maxLength: 3 }),
    files: fc.array(item("file"), { maxLength: 2 }),
  };
  const list = fc.record(
    {
      ...lists,
      users: fc.dictionary(fc.constantFrom("zvm", "ann", "bob"), fc.record(lists, { requiredKeys: [] }), {
        maxKeys: 2,
      }),
    },
    { requiredKeys: [] },
  );
  let planned = 0;
  fc.assert(
    fc.property(list, (allowlist) => {
      const result = planFleet(one(volatile(allowlist)), context);
      // Plain comparisons: ten thousand times `expect` is half a minute.
      if (!result.ok) {
        return (
          result.problems.length > 0 && result.problems.every(({ path: at }) => at.startsWith("fleet.web.allowlist"))
        );
      }
      planned++;
      const { directories, files } = result.plan.vms[0]!.allowlist;
      const all = [...directories, ...files];
      return (
        new Set(all.map((entry) => entry.path)).size === all.length &&
        all.every(({ path: entry }) => /^(\/(?!\.\.?(\/|$))[^/\p{Cc}]+)+$/u.test(entry)) &&
        all.every(({ mode }) => /^[0-7]{4}$/.test(mode)) &&
        // A plan's entries are a list again, which says the same: nothing is left half written out.
        JSON.stringify({ directories, files }) === JSON.stringify(planAgain(directories, files))
      );
    }),
    { numRuns: 10_000, seed: 4 },
  );
  // enough of both kinds, or the test would say little
  expect(planned).toBeGreaterThan(1000);
});
