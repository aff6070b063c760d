import { isIP } from "node:net";
import { z } from "zod";
import { wrong } from "./errors";
import * as leaf from "./leaf";
import { isCidr } from "./network";
import * as text from "./text";

const LINES_WRONG = wrong("a map", "a map from IP addresses to lists of names, such as { 10.0.0.9: [db.internal] }");
const CIDR_ALLOWED = "an IPv4 or IPv6 network or address, such as 10.0.0.0/8, 192.168.1.5/32 or fd00::/8";

/** What a guest finds in its `/etc/hosts`. */
export const hostsFile = leaf
  .keys(
    {
      /** Only addresses that are known before a VM runs; see `planHostsFiles`. */
      fleet: leaf
        .bool()
        .optional()
        .describe("Whether the VMs with a fixed address on the same network are in it by their names. Default false."),
      /** Merged by address through all layers. */
      lines: z
        .record(
          z
            .string({ error: LINES_WRONG })
            .refine((value) => isIP(value) !== 0, { error: wrong("an IP address", "an IPv4 or IPv6 address") }),
          leaf
            .list(
              leaf.word(
                text.HOST_ALIAS_PATTERN,
                "a host name",
                text.HOST_ALIAS_ALLOWED,
                (name) => name !== "localhost" && name.length <= 253,
              ),
              "host names, such as [db.internal, db]",
            )
            .min(1, { error: wrong("a list with a name", "at least one host name") }),
          { error: LINES_WRONG },
        )
        .optional()
        .describe("Lines of your own: names by address. They come first."),
    },
    "fleet and lines",
  )
  .describe("Names in /etc/hosts of the guest besides its own. A change is applied live. Default none.");

/** What a VM may send, kept up by the host. */
export const egress = leaf
  .keys(
    {
      blockPrivateNetworks: leaf
        .bool()
        .optional()
        .describe(
          "Whether the host keeps back all that the VM sends to private addresses, its own network included: also answers. DHCP and name servers stay. Default false.",
        ),
      allow: leaf
        .list(
          leaf.word(/^[0-9a-fA-F.:/]+$/, "a network", CIDR_ALLOWED, isCidr),
          "networks, such as [192.168.77.1/32, 10.20.0.0/16]",
        )
        .optional()
        .describe("Only with blockPrivateNetworks: private networks and addresses that it may send to all the same."),
    },
    "blockPrivateNetworks and allow",
  )
  .describe(
    "What the VM may send to private networks, kept up by a filter of the host that nothing in the guest can switch off. Not for network mode user. A change is made live. Default all.",
  );
