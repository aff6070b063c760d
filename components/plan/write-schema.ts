import { writeFileSync } from "node:fs";
import { stackSchemaText } from "./schema";

// `node bin/components/plan/write-schema.js [file]`: run after a change of the model; a unit test notices when it was not.
writeFileSync(process.argv[2] ?? "stacks/nixvm.schema.json", stackSchemaText());
