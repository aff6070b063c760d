import { z } from "zod";
import * as leaf from "./leaf";

/*
 * What is asked in a guest besides its own word. Only the shape of one check is here: layers may complete each other, so
 * whether a check is whole is known after they are merged (health.ts).
 */

const port = (what: string) => leaf.whole(1, 65535, what, "a whole number from 1 to 65535");

const text = (what: string, allowed: string) =>
  leaf.word(/^[^\0]{1,4000}$/, what, `${allowed}, up to 4000 characters`, (value) => value.trim() !== "");

const http = leaf.keys(
  {
    port: port("a port").optional().describe("Port in the guest. Default 80."),
    /** It is put into a request line: a blank would end it. */
    path: leaf
      .word(/^\/[!"$-~]{0,1999}$/, "a path", "a path that begins with /, without spaces and #, such as /health?full=1")
      .optional()
      .describe("Path of the request, with its query if it has one. Default /."),
    status: leaf
      .whole(100, 599, "an HTTP status")
      .optional()
      .describe("Status that the answer must have. Default: any from 200 to 399. Redirects are not followed."),
    contains: text("a text", "a text")
      .optional()
      .describe("Text that the answer must have in its first 64 KiB. Default: any answer will do."),
  },
  "port, path, status and contains",
);

const check = leaf.keys(
  {
    command: text("a command", "a command for /bin/sh, such as systemctl is-active nginx")
      .optional()
      .describe("Command that /bin/sh runs in the guest as root; exit code 0 is good. Either command, tcp or http."),
    tcp: port("a port")
      .optional()
      .describe("Port in the guest that must take a connection. Either command, tcp or http."),
    http: http.optional().describe("Request over HTTP from inside the guest. Either command, tcp or http."),
    address: leaf
      .ipAddress()
      .optional()
      .describe("Only tcp and http: IP address that is asked, from inside the guest. Default 127.0.0.1."),
    timeout: leaf
      .duration()
      .optional()
      .describe("How long one try may take. Default 10s under KVM, 30s under TCG, never more than within."),
    within: leaf
      .duration()
      .optional()
      .describe(
        "How long it may take until the check passes; it is tried again and again. At most gateTimeout. Default 1m under KVM, 3m under TCG.",
      ),
  },
  "command, tcp or http, and address, timeout and within",
);

export const health = leaf
  .named(check.nullable(), "checks, such as { web: { http: { path: /health } } }")
  .describe(
    "Checks by name that must pass, besides what the guest says of itself, before a VM counts as healthy. Carried out inside the guest through its agent, so networks and firewalls do not matter. null takes an inherited one away. Default none.",
  );

/** Checks as written; null takes one of a lower layer away. */
export type HealthConfig = z.infer<typeof health>;
/** One check as written. */
export type CheckConfig = z.infer<typeof check>;
