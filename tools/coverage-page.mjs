// Text of docs/coverage.md, and what such a text says.
const SECTIONS = { Z: "ZFS rollback", V: "zvm", P: "preserved home", E: "encrypted scratch", T: "VM template" };
const LAYERS = {
  NM: "nix module",
  GS: "in-guest script",
  PC: "Pulumi component",
  OP: "operation on the host",
  DOC: "page",
};

const HEAD = `# Coverage

Every must row of the requirements (sections 1 to 5) and the tests that show it, by name. A complete \`npm test\` writes this page
from the tests that passed in it; nobody types it. A row that no test shows has its reason in \`test/coverage-reasons.json\`.

A test counts when it is of a kind that the row asks for: **L** real guests, **N0** to **N2** levels of nix (N0+: a pure function),
**S** the script itself without a guest, **U** TypeScript, **D** a page. For NM and GS only L, N and S count: a plan says nothing of
what happens in a guest. Tests of level N1 and N2 run where \`NIXPKGS_LIB\` or \`NIXPKGS\` is set; a run without \`NIXPKGS\` keeps what an
earlier run has shown, as long as the test's file still names the row.
`;

function totals(rows, proofs) {
  const line = (name, some) => {
    const shown = (list) => list.filter(({ id }) => proofs.has(id)).length;
    const stated = some.filter(({ kind }) => kind !== "derived");
    const rest = some.length - shown(some);
    return `| ${name} | ${some.length} | ${shown(some)} | ${rest} | ${shown(stated)} of ${stated.length} |`;
  };
  const of = (...layers) => rows.filter(({ layer }) => layers.includes(layer));
  return [
    "| layer | must rows | shown | not shown | shown of those a document states |",
    "|---|---|---|---|---|",
    ...Object.entries(LAYERS).map(([layer, name]) => line(`${layer}: ${name}`, of(layer))),
    line("NM and GS", of("NM", "GS")),
    line("all", rows),
  ];
}

function cellOf(proofs) {
  const lines = proofs.map(({ code, file, name, more }) => {
    const text = name.replace(/\s+/g, " ").replaceAll("`", "'").replaceAll("|", "\\|");
    return `${code} ${file}: \`${text}\`${more > 0 ? ` and ${more} more` : ""}`;
  });
  return lines.join("<br>");
}

/**
 * The page. The same input gives the same text.
 *
 * @param others tests that name a row and are not of a kind that it asks for.
 */
export function pageOf(rows, reasons, proofs, others) {
  const lines = [HEAD, ...totals(rows, proofs)];
  for (const [prefix, title] of Object.entries(SECTIONS)) {
    lines.push("", `## ${prefix} rows: ${title}`, "");
    lines.push("| row | layer | what | asks for | shown | by what, or why not |", "|---|---|---|---|---|---|");
    for (const { id, layer, about, verify } of rows.filter((row) => row.id.startsWith(`${prefix}-`))) {
      const shown = proofs.get(id);
      const reason = reasons.get(id) ?? "a test names it, and did not pass or was not part of the run";
      const why = others.has(id) ? `${reason}<br>of another kind: ${cellOf(others.get(id))}` : reason;
      const what = about.replace(/[<>*_|\\]/g, "\\$&");
      lines.push(
        `| ${[id, layer, what, verify.join(" "), ...(shown ? ["yes", cellOf(shown)] : ["no", why])].join(" | ")} |`,
      );
    }
  }
  return `${lines.join("\n")}\n`;
}

/** Rows that a page says are shown, with their proofs. */
export function shownOn(text) {
  const found = new Map();
  for (const [, id, cell] of text.matchAll(/^\| ([A-Z]-\d+) \|.*? \| yes \| (.*) \|$/gm)) {
    const proofs = [...cell.matchAll(/(?:^|<br>)(\S+) (\S+): `([^`]*)`(?: and (\d+) more)?/g)];
    found.set(
      id,
      proofs.map(([, code, file, name, more = "0"]) => ({
        code,
        file,
        name: name.replaceAll("\\|", "|"),
        more: Number(more),
      })),
    );
  }
  return found;
}
