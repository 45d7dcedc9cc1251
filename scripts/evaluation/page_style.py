"""The style and the script of the report's page."""

from __future__ import annotations

STYLE = """
:root { color-scheme: light dark; --ink: #1c2733; --paper: #fff; --panel: #f5f7f9; --line: #d8dee5; --quiet: #5b6875;
  --accent: #2166ac; --alert: #c2570c; --good: #2f7d4f }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e9ee; --paper: #14181d; --panel: #1d232a; --line: #343d47;
  --quiet: #9aa7b4; --accent: #6aaee6; --alert: #f0964a; --good: #6cc08d } }
* { box-sizing: border-box }
html { scroll-behavior: smooth; scroll-padding-top: 1rem }
body { font: 16px/1.55 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 74rem; margin: 0 auto;
  padding: 1.5rem clamp(.9rem, 3vw, 2.5rem) 4rem; overflow-wrap: anywhere }
h1 { font-size: clamp(1.4rem, 4vw, 1.9rem); line-height: 1.2; margin: 0 0 .3rem } h2 { font-size: 1.25rem; margin: 0 0 .7rem }
h3 { font-size: 1rem; margin: 1.4rem 0 .4rem } p { margin: .4rem 0 .8rem; max-width: 50rem } ul { margin: 0; padding-left: 1.2rem }
a { color: var(--accent) }
.quiet, figcaption { color: var(--quiet); font-size: .88rem }
nav { display: flex; flex-wrap: wrap; gap: .3rem .9rem; margin: .9rem 0; font-size: .92rem } nav a { text-decoration: none }
nav a:hover { text-decoration: underline }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(8.2rem, 1fr)); gap: .7rem; margin: 1rem 0 }
.card { background: var(--panel); border-radius: .6rem; padding: .7rem .9rem; border-left: 4px solid var(--line); display: flex;
  flex-direction: column } .card strong { font-size: 1.5rem; line-height: 1.25; font-variant-numeric: tabular-nums }
.card.main { border-color: var(--accent) } .card.bad { border-color: var(--alert) }
.verdict { border-radius: .6rem; padding: .8rem 1rem; background: var(--panel); border-left: 4px solid var(--good); margin: 1rem 0 }
.verdict.bad { border-color: var(--alert) }
section { margin: 2.4rem 0 0 } .findings { background: var(--panel); border-radius: .6rem; padding: .9rem 1.1rem; margin-top: 1rem }
.findings h2 { font-size: 1.05rem; margin-bottom: .4rem }
.scroll { overflow-x: auto }
table { border-collapse: collapse; font-size: .9rem; min-width: min(100%, 26rem) }
th, td { text-align: left; padding: .3rem .9rem .3rem 0; border-bottom: 1px solid var(--line); vertical-align: top }
th { font-weight: 600; color: var(--quiet); cursor: pointer; white-space: nowrap; user-select: none }
th.plain { cursor: default } th[data-order]::after { content: " \\25B2" } th[data-order=down]::after { content: " \\25BC" }
td { overflow-wrap: break-word; max-width: 30rem } td:first-child { min-width: 6.5rem } td.number { font-variant-numeric: tabular-nums; white-space: nowrap }
td.alert { color: var(--alert); font-weight: 600 }
tr.more { display: none } .open tr.more { display: table-row }
button { font: inherit; font-size: .88rem; color: var(--accent); background: none; border: 1px solid var(--line);
  border-radius: .4rem; padding: .15rem .6rem; margin: .5rem 0 0; cursor: pointer }
.interval { width: 7rem; height: .85rem; display: block; margin-top: .3rem }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 19rem), 1fr)); gap: 1.5rem; margin: .5rem 0 1rem }
figure { margin: 0 } .plot { width: 100%; max-width: 27rem; display: block }
svg text { font-size: 11px; fill: var(--quiet) } svg text.title { font-size: 12px; fill: var(--ink) }
.grid { stroke: var(--line); stroke-width: .6 } .bar { fill: var(--accent); fill-opacity: .75 } .gap { fill: var(--alert); fill-opacity: .5 }
.edge { stroke: var(--ink); stroke-width: 2 }
.count { fill: var(--quiet); fill-opacity: .55 } .diagonal { stroke: var(--ink); stroke-dasharray: 4 4; stroke-width: 1 }
.curve { fill: none; stroke: var(--accent); stroke-width: 2.2 } .curve1 { stroke: var(--alert) }
.confusion { width: 100%; min-width: 24rem } .confusion rect { stroke: var(--line); stroke-width: .5 }
.confusion .hit { fill: var(--accent) } .confusion .miss { fill: var(--alert) } svg text.number { font-size: 10px; fill: var(--ink) }
svg text.dark { fill: var(--paper) }
footer { margin-top: 3rem; border-top: 1px solid var(--line); padding-top: .8rem }
@media (max-width: 34rem) { th, td { padding-right: .6rem } .interval { width: 5rem } .card strong { font-size: 1.3rem }
  .cards { grid-template-columns: repeat(2, 1fr) } }
@media print { tr.more { display: table-row } button, nav { display: none } }
"""

SCRIPT = """
document.querySelectorAll("table").forEach(table => {
  table.querySelectorAll("th:not(.plain)").forEach(th => th.addEventListener("click", () => {
    const column = [...th.parentNode.children].indexOf(th), down = th.dataset.order === "up";
    table.querySelectorAll("th").forEach(other => delete other.dataset.order);
    th.dataset.order = down ? "down" : "up";
    const key = row => { const cell = row.children[column];
      return cell.dataset.key === undefined ? cell.textContent.toLowerCase() : Number(cell.dataset.key) };
    const rows = [...table.tBodies[0].rows], hidden = rows.filter(row => row.classList.contains("more")).length;
    rows.sort((a, b) => { const x = key(a), y = key(b);
      return (x < y ? -1 : x > y ? 1 : 0) * (down ? -1 : 1) });
    rows.forEach((row, index) => { row.classList.toggle("more", index >= rows.length - hidden); table.tBodies[0].append(row) });
  }));
});
document.querySelectorAll("button.all").forEach(button => button.addEventListener("click", () => {
  const open = button.previousElementSibling.classList.toggle("open");
  button.dataset.text ??= button.textContent;
  button.textContent = open ? "show fewer" : button.dataset.text;
}));
"""
