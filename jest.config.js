// One project a rung of the ladder (docs/testing.md), so that each can be run alone.
const common = {
  transform: {
    "^.+\\.ts$": [
      "@swc/jest",
      { jsc: { target: "es2022", parser: { syntax: "typescript" } }, module: { type: "commonjs" } },
    ],
  },
  modulePathIgnorePatterns: ["<rootDir>/bin/", "<rootDir>/.nixvm/", "<rootDir>/sdks/libvirt/bin/package.json"],
};

module.exports = {
  testSequencer: "<rootDir>/test/helpers/sequencer.cjs",
  projects: ["unit", "mocks", "rollout", "engine", "live"].map((rung) => ({
    ...common,
    displayName: rung,
    testEnvironment: ["engine", "live"].includes(rung) ? "<rootDir>/test/helpers/engineEnvironment.cjs" : "node",
    testMatch: [`<rootDir>/test/${rung}/**/*.test.ts`],
  })),
};
