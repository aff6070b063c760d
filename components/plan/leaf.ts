import { isIP } from "node:net";
import { z } from "zod";
import { DURATION_ALLOWED, DURATION_PATTERN, parseDuration } from "./duration";
import { hint, wrong } from "./errors";
import { parseSubnet, SUBNET_ALLOWED, suggestSubnet } from "./network";
import { MEMORY_PATTERN, parseMemory, parseSize, SIZE_ALLOWED, SIZE_PATTERN, suggestSize } from "./size";
import * as text from "./text";

/**
 * Building blocks of the model. Each carries its own error text, "what it is not" and "what is allowed", because a
 * library's own wording ("expected string, received number") tells a newcomer nothing about units.
 */

/** Schemas whose values are secrets: the JSON Schema lets them be written as `{ secure: … }` too (G-5). */
export const secrets = z.registry<{ secret: true }>();

/** A text that a pattern (for editors) and a check (for what no pattern can say) accept. */
export function word(pattern: RegExp, what: string, allowed: string, check?: (value: string) => boolean) {
  const error = wrong(what, allowed);
  const schema = z.string({ error }).regex(pattern, { error });
  return check === undefined ? schema : schema.refine(check, { error });
}

/** One of a fixed set of words. */
export function choice<const T extends readonly [string, ...string[]]>(values: T, what: string) {
  return z.enum(values, { error: (issue) => wrong(`${what}${hint(issue.input, values)}`, values.join(", ")) });
}

export const bool = () => z.boolean({ error: wrong("true or false", "true or false, without quotes") });

/** A whole number in a range. */
export function whole(min: number, max: number, what: string, allowed = `a whole number from ${min} to ${max}`) {
  const error = wrong(what, allowed);
  return z.int({ error }).min(min, { error }).max(max, { error });
}

/** A map of named things; the names obey one rule since they all end up in host, domain or file names. */
export function named<T extends z.ZodType>(value: T, what: string) {
  return record(word(text.NAME_PATTERN, "a name", text.NAME_ALLOWED), value, what);
}

/** A map of things that are numbered from 1. */
export function numbered<T extends z.ZodType>(value: T, what: string) {
  return record(word(/^[1-9][0-9]{0,3}$/, "a number", "a whole number from 1"), value, what);
}

function record<T extends z.ZodType>(key: ReturnType<typeof word>, value: T, what: string) {
  return z.record(key, value, {
    error: wrong("a map", `a map from names to ${what}`),
  });
}

/** A map with known keys; unknown ones are mistakes. */
export function keys<T extends z.core.$ZodLooseShape>(shape: T, what: string) {
  return z.strictObject(shape, { error: wrong("a map", `a map with ${what}`) });
}

const sizeError = (allowed: string) => (issue: { input?: unknown }) => {
  const better = suggestSize(issue.input);
  return wrong(better === undefined ? "a size" : `a size, write ${better}`, allowed);
};

/** A disk size of at least `min` bytes. */
export function size(min: number, minText: string) {
  const allowed = `${SIZE_ALLOWED}, at least ${minText}`;
  return z
    .string({ error: sizeError(allowed) })
    .regex(SIZE_PATTERN, { error: sizeError(allowed) })
    .refine((value) => (parseSize(value) ?? 0) >= min, {
      error: wrong("large enough or exact", allowed),
      when: isText,
    });
}

const MEMORY_ALLOWED = "a size such as 512MiB or 4GiB, or a bare number of MiB; whole MiB, at least 64MiB";

/** A memory size; a bare number is MiB, as in the template seed (T-33). */
export const memory = () => {
  const error = sizeError(MEMORY_ALLOWED);
  const number = z.int({ error }).min(64, { error: wrong("enough memory", MEMORY_ALLOWED) });
  return z
    .union([number, z.string({ error }).regex(MEMORY_PATTERN, { error })], { error })
    .refine((value) => isMemory(value), { error: wrong("enough memory in whole MiB", MEMORY_ALLOWED) });
};

function isMemory(value: string | number): boolean {
  const bytes = parseMemory(value);
  return bytes !== undefined && bytes >= 64 * 1024 * 1024 && bytes % (1024 * 1024) === 0;
}

// A refinement after a failed pattern would report the same value twice, with a worse text.
function isText(payload: { value: unknown; issues: unknown[] }): boolean {
  return typeof payload.value === "string" && payload.issues.length === 0;
}

export const duration = () =>
  word(DURATION_PATTERN, "a duration", DURATION_ALLOWED, (value) => parseDuration(value) !== undefined);

export const absolutePath = () =>
  word(/^\/[^\0\n]*$/, "an absolute path", "a path that begins with /, on the libvirt host");

export const subnet = () => {
  const error = (issue: { input?: unknown }) => {
    const better = suggestSubnet(issue.input);
    return wrong(
      better === undefined || better === issue.input ? "a network" : `a network, write ${better}`,
      SUBNET_ALLOWED,
    );
  };
  return z.string({ error }).refine((value) => parseSubnet(value) !== undefined, { error });
};

export const mac = () => word(text.MAC_PATTERN, "a MAC address of one NIC", text.MAC_ALLOWED, text.isUnicastMac);

export const ipAddress = () => {
  const error = wrong("an IP address", "an IPv4 or IPv6 address, such as 1.1.1.1");
  return z.string({ error }).refine((value) => isIP(value) !== 0, { error });
};

export const list = <T extends z.ZodType>(item: T, what: string) =>
  z.array(item, { error: wrong("a list", `a list of ${what}`) });

export const ports = () =>
  list(whole(1, 65535, "a port", "a whole number from 1 to 65535"), "port numbers from 1 to 65535, such as [22, 443]");

export const sshKeys = () =>
  list(
    z
      .string({ error: wrong("an SSH public key", text.SSH_KEY_ALLOWED) })
      .refine((value) => text.isSshPublicKey(value.trim()), {
        error: wrong("an SSH public key", text.SSH_KEY_ALLOWED),
      }),
    "SSH public keys, one text each",
  );

/** A crypt hash; the empty text means "disabled" (T-104). A secret. */
export const cryptHash = () => {
  const error = wrong("a password hash", text.CRYPT_ALLOWED);
  const schema = z.string({ error }).refine((value) => value === "" || text.CRYPT_PATTERN.test(value), { error });
  secrets.add(schema, { secret: true });
  return schema;
};

/** A text that is never shown. */
export const secretText = (pattern: RegExp, what: string, allowed: string) => {
  const schema = word(pattern, what, allowed);
  secrets.add(schema, { secret: true });
  return schema;
};
