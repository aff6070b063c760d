const Sequencer = require("@jest/test-sequencer").default;

// Two of these run at a time: in this order they end together. Jest itself would go by what they took last time, which a machine
// that has never run them does not know.
const SLOWEST = ["rollback", "verbs", "updates", "fleet", "upgrade", "presets"].map(
  (name) => `/test/live/${name}.test.ts`,
);
const rank = ({ path }) => {
  const found = SLOWEST.findIndex((end) => path.endsWith(end));
  return found < 0 ? SLOWEST.length : found;
};

module.exports = class extends Sequencer {
  sort(tests) {
    return super.sort(tests).sort((a, b) => rank(a) - rank(b));
  }
};
