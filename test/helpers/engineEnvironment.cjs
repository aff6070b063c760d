// Programs of the engine and live tests run in jest's process (Automation API). When an operation fails, the engine closes its
// monitor while the program may still be registering the outputs of a component; Pulumi's own runner ends quietly then, since the
// operation has told its failure already. Jest's processes hide the rejection from Pulumi's handler, and jest would call it a
// failure of whatever test runs by then.
const { TestEnvironment } = require("jest-environment-node");

module.exports = class extends TestEnvironment {
  handleTestEvent({ name, promise, error }) {
    if (name === "error" && error?.message === "Resource monitor is terminating") promise?.catch(() => {});
  }
};
