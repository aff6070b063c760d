import * as leaf from "./leaf";

/** What becomes of the medium with the seed. */
export const seed = leaf
  .keys(
    {
      eject: leaf
        .bool()
        .optional()
        .describe(
          "Whether the medium is taken out of the VM's drive as soon as it is healthy. libvirt puts it back for the next start from off; a restart goes by the copy on the persistent volume, which is needed. Default false.",
        ),
    },
    "eject",
  )
  .describe("The medium with the seed: accounts, keys, hashes, identity. A change is made live.");
