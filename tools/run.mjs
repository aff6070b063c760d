// Entry of every npm script: node tools/run.mjs <task> [args]. It works before `npm install`.
//
// Only syntax that an old Node reads may stand here, and nothing may be imported before the check: otherwise that
// Node would answer with a syntax error instead of the line below.
const major = Number(process.versions.node.split(".")[0]);
if (major < 20) {
  console.error(
    "nixvm: Node.js " + process.versions.node + " is too old: 20 or newer is needed (https://nodejs.org/en/download).",
  );
  process.exit(2);
}
import("./tasks.mjs").then(({ main }) => main(process.argv.slice(2)));
