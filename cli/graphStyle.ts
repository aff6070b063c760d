/** The page's only style sheet. Its hash is in the page's policy, so it must be written out unchanged. */
export const STYLE = `
:root {
  color-scheme: light dark;
  --page: #f6f7f9; --card: #ffffff; --ink: #1b2330; --soft: #5a6576; --line: #dce1e8; --focus: #1f6feb;
  --base: #33507c; --base-ink: #ffffff; --overlay: #1a8fa0; --persist: #c47a0a; --scratch: #7b8794; --seed: #8254c8; --domain: #4b7bd0;
  --ok: #1a7f45; --bad: #c2261c; --note: #9a5b00; --off: #6b7686; --shadow: 0 1px 2px #1b233018, 0 2px 8px #1b23300d;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #10141b; --card: #191f29; --ink: #e7ebf1; --soft: #9ba7b8; --line: #2c3543; --focus: #6cb0ff;
    --base: #3d5f94; --overlay: #35b3c4; --persist: #e6a23c; --scratch: #8b97a6; --seed: #a988e6; --domain: #7aa5ee;
    --ok: #4ecb82; --bad: #ff7b70; --note: #f0b152; --off: #8f9bad; --shadow: none;
  }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); font: 15px/1.45 system-ui, "DejaVu Sans", sans-serif; }
main, header, footer { max-width: 88rem; margin: 0 auto; padding: 0 1.5rem; }
header { padding-top: 1.75rem; }
h1 { margin: 0; font-size: 1.6rem; letter-spacing: -0.01em; }
h2 { margin: 2.25rem 0 0.75rem; font-size: 1.15rem; }
h3 { margin: 0.9rem 0 0; font-size: 0.85rem; color: var(--soft); font-weight: 600; }
p { margin: 0.25rem 0; }
a { color: inherit; }
code, .mono { font-family: ui-monospace, "DejaVu Sans Mono", monospace; font-size: 0.86em; }
.soft { color: var(--soft); }
:focus-visible { outline: 3px solid var(--focus); outline-offset: 2px; border-radius: 6px; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(12rem, 1fr)); gap: 0.75rem; margin: 1.25rem 0 0; }
.tile { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 0.75rem 1rem; box-shadow: var(--shadow); }
.tile dt { color: var(--soft); font-size: 0.82rem; }
.tile dd { margin: 0; font-size: 1.4rem; font-weight: 650; letter-spacing: -0.01em; }
.tile dd small { display: block; font-size: 0.82rem; font-weight: 400; color: var(--soft); letter-spacing: 0; }
nav { margin-top: 1rem; display: flex; flex-wrap: wrap; gap: 0.4rem 1.1rem; font-size: 0.92rem; }
.legend { display: flex; flex-wrap: wrap; gap: 0.3rem 1.1rem; margin: 1rem 0 0; padding: 0; list-style: none; color: var(--soft); font-size: 0.85rem; }
.legend i { display: inline-block; width: 0.8rem; height: 0.8rem; border-radius: 3px; margin-right: 0.4rem; vertical-align: -0.08rem; }
.legend .base { background: var(--base); } .legend .overlay { background: var(--overlay); } .legend .persist { background: var(--persist); }
.legend .scratch { background: var(--scratch); } .legend .seed { background: var(--seed); } .legend .domain { background: var(--domain); }
.troubles { margin: 0; padding: 0; list-style: none; }
.troubles li { padding: 0.35rem 0.75rem; border-left: 3px solid var(--note); background: var(--card); margin-bottom: 0.3rem; border-radius: 0 6px 6px 0; overflow-wrap: anywhere; }
.troubles li.bad { border-left-color: var(--bad); }
.waves { display: flex; flex-wrap: wrap; gap: 0.75rem; margin: 0; padding: 0; list-style: none; }
.waves > li { flex: 1 1 14rem; background: var(--card); border: 1px solid var(--line); border-top: 4px solid var(--domain); border-radius: 8px; padding: 0.6rem 0.9rem 0.8rem; }
.waves > li.canary { border-top-color: var(--persist); } .waves > li.new { border-top-color: var(--ok); } .waves > li.unhealthy { border-top-color: var(--bad); }
.chips { display: flex; flex-wrap: wrap; gap: 0.3rem; margin: 0.5rem 0 0; padding: 0; list-style: none; }
.chips a, .chips span { display: inline-block; padding: 0.1rem 0.55rem; border: 1px solid var(--line); border-radius: 99px; text-decoration: none; font-size: 0.86rem; }
.chips a:hover { border-color: var(--focus); }
.stack { margin: 0 0 1.5rem; }
.slab { position: sticky; top: 0; z-index: 1; display: flex; flex-wrap: wrap; gap: 0.1rem 1.25rem; align-items: baseline; background: var(--base); color: var(--base-ink); border-radius: 8px; padding: 0.6rem 1rem; box-shadow: var(--shadow); }
.slab strong { font-size: 1rem; }
.slab.unknown { background: var(--off); }
.groups { display: flex; flex-wrap: wrap; gap: 0 1.75rem; }
.group { min-width: 0; }
.vms { display: flex; flex-wrap: wrap; gap: 0 0.75rem; align-items: flex-start; }
.vms .vm { width: 19.5rem; max-width: 100%; }
.many .group { width: 100%; }
.many .vms { display: grid; grid-template-columns: repeat(auto-fill, minmax(12rem, 1fr)); gap: 0 0.6rem; }
.many .vms .vm { width: auto; margin-top: 0.6rem; }
.many .vm::before { display: none; }
.vm { position: relative; margin-top: 14px; background: var(--card); border: 1px solid var(--line); border-radius: 8px; box-shadow: var(--shadow); min-width: 0; }
.vm::before { content: ""; position: absolute; left: 1.4rem; top: -14px; height: 13px; border-left: 2px solid var(--line); }
.vm.bad { border-color: var(--bad); } .vm.note { border-color: var(--note); }
.vm:target { outline: 3px solid var(--focus); }
summary { cursor: pointer; padding: 0.5rem 0.75rem; list-style: none; border-radius: 8px; }
summary::-webkit-details-marker { display: none; }
.top { display: flex; justify-content: space-between; gap: 0.5rem; align-items: baseline; }
.name { font-weight: 650; overflow-wrap: anywhere; }
.pill { flex: none; max-width: 60%; font-size: 0.78rem; font-weight: 600; color: var(--off); overflow-wrap: anywhere; text-align: right; }
.ok .pill { color: var(--ok); } .bad .pill { color: var(--bad); } .note .pill { color: var(--note); }
.bar { display: block; width: 100%; height: 6px; margin-top: 0.4rem; border-radius: 3px; background: var(--line); }
.bar .overlay { fill: var(--overlay); } .bar .persist { fill: var(--persist); } .bar .scratch { fill: var(--scratch); } .bar .seed { fill: var(--seed); }
.layers { margin: 0; padding: 0 0.75rem 0.65rem; }
.layer { display: grid; grid-template-columns: 4.9rem 1fr; gap: 0.4rem; padding: 0.26rem 0 0.26rem 0.5rem; border-left: 4px solid var(--off); font-size: 0.85rem; }
.layer + .layer { margin-top: 2px; }
.layer.overlay { border-color: var(--overlay); } .layer.persist { border-color: var(--persist); } .layer.scratch { border-color: var(--scratch); }
.layer.seed { border-color: var(--seed); } .layer.domain { border-color: var(--domain); }
.layer dt { color: var(--soft); }
.layer dd { margin: 0; overflow-wrap: anywhere; }
.layer dd span { color: var(--soft); }
.why { margin: 0.4rem 0.75rem 0.7rem; padding: 0; list-style: none; font-size: 0.85rem; color: var(--bad); overflow-wrap: anywhere; }
.note .why { color: var(--note); }
footer { padding-top: 1.5rem; padding-bottom: 2.5rem; color: var(--soft); font-size: 0.85rem; }
@media print { .slab { position: static; } .vm, .tile { break-inside: avoid; } }
`;
