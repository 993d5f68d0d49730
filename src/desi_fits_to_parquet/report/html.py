"""HTML pages that stand alone: figures with captions, tables to sort and to search, no network."""

import json
import re
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from desi_fits_to_parquet.units import decimals

_ON_PAPER = 12
"""Rows of a long table that are printed."""

_STYLE = """
body { font: 14px/1.45 system-ui, sans-serif; color: #111; background: #fff; margin: 1.2em; }
h1 { font-size: 1.6em; } h2 { font-size: 1.5em; margin: .6em 0 .3em; }
h3 { font-size: 1.1em; margin-top: 1.6em; }
table { border-collapse: collapse; margin: .6em 0; }
th, td { border-bottom: 1px solid #ddd; padding: .25em .55em; text-align: left;
  vertical-align: top; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; }
th { border-bottom: 2px solid #111; position: sticky; top: 0; background: #fff; }
th button { font: inherit; font-weight: bold; border: 0; background: none; padding: 0;
  cursor: pointer; }
td:first-child { white-space: nowrap; }
td:last-child:not(.number) { overflow-wrap: anywhere; min-width: 14em; }
.table { overflow: auto; max-width: 100%; max-height: 80vh; }
tbody tr:hover { background: #f2f6fa; }
pre.settings { columns: 17em; }
pre { background: #f5f5f5; border: 1px solid #ddd; padding: .7em; overflow-x: auto; }
input { font: inherit; padding: .25em .5em; width: 24em; max-width: 90%; }
.note { color: #444; }
@media screen { .paper { display: none; } }
figure { margin: 1.2em 0; break-inside: avoid; }
figure svg { display: block; width: 100%; height: auto; max-height: 78vh; }
figcaption { max-width: 62em; color: #333; margin-top: .4em; }
@page { size: A4; margin: 15mm 14mm 17mm; @bottom-center { content: counter(page);
  font: 9pt system-ui, sans-serif; } }
@media print {
  body { margin: 0; font-size: 9.5pt; }
  .screen, input { display: none; }
  .table { overflow: visible; max-height: none; }
  th { position: static; }
  h2, h3, section > p { break-after: avoid; }
  .table, pre { break-inside: avoid; }
  pre { white-space: pre-wrap; }
  tr { break-inside: avoid; }
  [data-table] tbody tr:nth-child(n+ROWS) { display: none; }
}
""".replace("ROWS", str(_ON_PAPER + 1))

# The report: its sections beside a list of them that stays in sight.
_REPORT_STYLE = """
html { scroll-behavior: smooth; scroll-padding-top: .5em; }
body.report { margin: 0; display: grid; grid-template-columns: 11em minmax(0, 1fr); }
nav { position: sticky; top: 0; align-self: start; height: 100vh; overflow: auto;
  box-sizing: border-box; padding: 1.2em 0 1em 1.2em; background: #f2f4f7; }
nav a { display: block; padding: .3em .5em; color: #111; text-decoration: none; }
nav a:hover, nav a:focus { background: #dfe5ec; }
main { padding: 1.2em 1.6em; min-width: 0; }
section { border-top: 1px solid #bbb; margin-top: 2em; padding-top: .4em; }
@media (max-width: 760px) {
  body.report { display: block; }
  nav { position: static; height: auto; padding: .6em; }
  nav a { display: inline-block; }
}
@media print {
  body.report { display: block; }
  nav { display: none; }
  main { padding: 0; }
  section { margin-top: 1.2em; }
}
"""

# Rows stay data until they are shown, and go into the page as text: no cell can carry markup.
_SCRIPT = """
// within a frame that has no address of its own, a link to a place would open the outer page
if (location.protocol === "about:")
  for (const link of document.querySelectorAll("nav a")) link.onclick = event => {
    event.preventDefault();
    document.querySelector(link.hash).scrollIntoView();
  };
// served beside the data, the explorer is there too
if (location.protocol.startsWith("http"))
  for (const link of document.querySelectorAll("a.explorer"))
    link.href = link.textContent = new URL("../explorer/", location.href);
const SHOWN = 200;
for (const box of document.querySelectorAll("[data-table]")) {
  const data = JSON.parse(box.querySelector("script").textContent);
  const search = box.querySelector("input"), note = box.querySelector(".note");
  const body = box.querySelector("tbody"), heads = [...box.querySelectorAll("th")];
  const texts = data.rows.map(row => row.join(" ").toLowerCase());
  let order = data.rows.map((_, i) => i), limit = SHOWN, sorted = -1, down = false;
  const names = new Intl.Collator("en", {numeric: true});
  const show = () => {
    const words = search.value.toLowerCase().split(/\\s+/).filter(word => word);
    const found = order.filter(i => words.every(word => texts[i].includes(word)));
    body.replaceChildren(...found.slice(0, limit).map(i => {
      const line = document.createElement("tr");
      data.rows[i].forEach((value, k) => {
        const cell = line.insertCell();
        const digits = data.digits[k];
        cell.className = digits === null ? "" : "number";
        cell.textContent = value === null || digits === null || digits < 0 ? value :
          value.toLocaleString("en", {minimumFractionDigits: digits,
            maximumFractionDigits: digits});
      });
      return line;
    }));
    note.textContent = `${found.length.toLocaleString("en")} of ` +
      `${data.rows.length.toLocaleString("en")} rows` +
      (found.length > limit ? `, the first ${limit} shown ` : " ");
    if (found.length > limit) {
      const more = document.createElement("button");
      more.textContent = "show more";
      more.onclick = () => { limit *= 5; show(); };
      note.append(more);
    }
  };
  heads.forEach((head, k) => head.querySelector("button").onclick = () => {
    down = sorted === k ? !down : false;
    sorted = k;
    const compare = (a, b) => a === b ? 0 : a === null ? 1 : b === null ? -1 :
      (typeof a === "string" ? names.compare(a, b) : a - b) * (down ? -1 : 1);
    order.sort((i, j) => compare(data.rows[i][k], data.rows[j][k]) || i - j);
    heads.forEach(h => h.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    heads.forEach(h => h.querySelector("span").textContent = "");
    head.querySelector("span").textContent = down ? " \\u25bc" : " \\u25b2";
    show();
  });
  search.oninput = () => { limit = SHOWN; show(); };
  show();
}
"""


def html_page(title: str, *parts: str) -> str:
    """Put parts (HTML) together into a page that needs nothing beside itself."""
    body = f"<body><h1>{escape(title)}</h1>\n" + "\n".join(parts)
    return _page(title, _STYLE, body)


def report_page(
    title: str, overview: str, sections: Mapping[str, tuple[str, Sequence[str]]]
) -> str:
    """Put sections together into a page with a list of them, which needs nothing beside itself.

    Parameters
    ----------
    title
        The page's title.
    overview
        What stands before the sections (HTML).
    sections
        By the name that a link to it has: its title, and its parts (HTML).
    """
    links = "".join(
        f'<a href="#{name}">{escape(heads)}</a>'
        for name, heads in (("overview", "Overview"), *((n, t) for n, (t, _) in sections.items()))
    )
    body = "".join(
        f'<section id="{name}"><h2>{escape(heads)}</h2>\n' + "\n".join(parts) + "</section>\n"
        for name, (heads, parts) in sections.items()
    )
    return _page(
        title,
        _STYLE + _REPORT_STYLE,
        f'<body class="report"><nav>{links}</nav>\n<main><div id="overview">{overview}</div>\n'
        f"{body}</main>",
    )


def _page(title: str, style: str, body: str) -> str:
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}'
        f'</title><meta name="viewport" content="width=device-width"><style>{style}</style></head>'
        f"\n{body}\n<script>{_SCRIPT}</script></body></html>\n"
    )


def figure(name: str, svg: str, title: str, caption: str) -> str:
    """Show a picture with its title and its caption.

    Parameters
    ----------
    name
        Name that a link to it has.
    svg
        The picture, as a file of SVG holds it.
    title, caption
        Plain text.
    """
    svg = svg[svg.index("<svg") :]
    width = re.search(r' width="([0-9.]+pt)"', svg)
    picture = re.sub(r' (width|height)="[^"]*"', "", svg, count=2)
    shown = f' style="max-width: {width[1]}"' if width else ""
    picture = picture.replace("<svg", f'<svg role="img" preserveAspectRatio="xMinYMid"{shown}', 1)
    said = f"<figcaption><b>{escape(title)}.</b> {escape(caption)}</figcaption>"
    return f'<figure id="figure-{name}">{picture}{said}</figure>'


def missing_figure(name: str, title: str, sentence: str) -> str:
    """Say in the place of a figure why it is not there."""
    said = f"<figcaption><b>{escape(title)}.</b> {escape(sentence)}</figcaption>"
    return f'<figure id="figure-{name}" class="missing">{said}</figure>'


def heading(text: str) -> str:
    """Make a heading within a page or a section."""
    return f"<h3>{escape(text)}</h3>"


def paragraph(text: str) -> str:
    """Make a paragraph of plain text."""
    return f"<p>{escape(text)}</p>"


def preformatted(text: str, kind: str = "") -> str:
    """Show text as it stands, for commands and, of kind `settings`, for long lists of lines."""
    return f"<pre class='{kind}'>{escape(text)}</pre>" if kind else f"<pre>{escape(text)}</pre>"


def plain_table(
    rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str], names: Sequence[str] = ()
) -> str:
    """Make a table without script, for few rows.

    Parameters
    ----------
    rows
        The cells by column name; None gives an empty cell.
    columns
        Names of the columns to show, and their headings (with units). Figures are rounded as
        `units.decimals` says.
    names
        Columns of whole numbers that are names: written without commas.
    """
    digits = {name: _digits(rows, name, text, names) for name, text in columns.items()}
    head = "".join(
        f'<th class="{"" if digits[name] is None else "number"}">{escape(text)}</th>'
        for name, text in columns.items()
    )
    lines = "".join(
        f"<tr>{''.join(_cell(row[name], digits[name]) for name in columns)}</tr>\n" for row in rows
    )
    return (
        f'<div class="table"><table><thead><tr>{head}</tr></thead><tbody>\n{lines}</tbody></table>'
        "</div>"
    )


def search_table(
    rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str], names: Sequence[str] = ()
) -> str:
    """Make a table to sort by any column and to search, also for tens of thousands of rows.

    Parameters
    ----------
    rows, columns, names
        As of `plain_table`.
    """
    digits = [_digits(rows, name, text, names) for name, text in columns.items()]
    head = "".join(
        f'<th class="{"" if places is None else "number"}"><button>{escape(text)}</button>'
        "<span></span></th>"
        for text, places in zip(columns.values(), digits, strict=True)
    )
    cells = [
        [_rounded(row[name], places) for name, places in zip(columns, digits, strict=True)]
        for row in rows
    ]
    data = json.dumps(
        {"digits": digits, "rows": cells}, separators=(",", ":"), allow_nan=False
    ).replace("<", "\\u003c")  # a cell cannot end the script element that holds it
    return (
        '<div data-table><input type="search" placeholder="search: words that a row must hold" '
        'aria-label="search"> <span class="note screen"></span>\n'
        f'<div class="table"><table><thead><tr>{head}</tr></thead><tbody></tbody></table></div>\n'
        + (
            f'<p class="paper">The first {_ON_PAPER} of {len(rows):,} rows.</p>\n'
            if len(rows) > _ON_PAPER
            else ""
        )
        + f'<script type="application/json">{data}</script></div>'
    )


_NAME = -1
"""Stands for the digits of a number that is a name."""


def _digits(
    rows: Sequence[Mapping[str, Any]], name: str, text: str, names: Sequence[str]
) -> int | None:
    """Tell how many digits the figures of a column have behind the point; None: it has texts."""
    values = [row[name] for row in rows if row[name] is not None]
    if not values or not all(isinstance(value, int | float) for value in values):
        return None
    if name in names:
        return _NAME
    if "(%)" in text:
        return 2
    return decimals(values) if any(isinstance(value, float) for value in values) else 0


def _rounded(value: Any, digits: int | None) -> Any:
    return round(value, digits or 0) if isinstance(value, float) else value


def _cell(value: Any, digits: int | None) -> str:
    if value is None:
        return "<td></td>"
    if digits is None:
        return f"<td>{escape(str(value))}</td>"
    text = str(value) if digits == _NAME else f"{value:,.{digits}f}"
    return f'<td class="number">{text}</td>'
