/** The planner: everything that can be computed from config, without Pulumi and without any I/O (D7). */
export { formatProblem, formatProblems, type Problem } from "./errors";
export { formatSize, GIB, MIB, parseMemory, parseSize } from "./size";
export { formatDuration, parseDuration } from "./duration";
export { formatIpv4, parseIpv4, parseSubnet, type Subnet } from "./network";
export * from "./names";
export { fleetKeyOf, type Identity, type IdentityOverrides, identityOf } from "./identity";
export { type HostKey, hostKeyOf } from "./hostkey";
export { type Config, configShape, configSchema } from "./model";
export { type Preset, PRESETS, type RootMode, ROOT_MODES, type Store, type VmConfig } from "./model-vm";
export { PRESET_DEFAULTS, type PresetDefaults, ZVM_ALLOWLIST } from "./presets";
export { type AllowlistConfig } from "./model-allowlist";
export { findKnown, type KnownImage, missingOnHosts, nextHistory, readHistory } from "./history";
export { planFleet } from "./plan";
export { type SeedFiles, seedFiles, seedDigest, type SeedVm } from "./seed";
export { SCHEMA_COMMENT, stackSchema, stackSchemaText } from "./schema";
export { sshPortOf } from "./vm";
export { formatWaves } from "./format-waves";
export type * from "./types";
