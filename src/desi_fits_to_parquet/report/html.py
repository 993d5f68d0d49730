"""HTML pages that stand alone: tables to sort and to search, without any other file or network."""

import json
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

_STYLE = """
body { font: 14px/1.45 system-ui, sans-serif; color: #111; background: #fff; margin: 1.2em; }
h1 { font-size: 1.3em; } h2 { font-size: 1.1em; margin-top: 1.6em; }
table { border-collapse: collapse; margin: .6em 0; }
th, td { border-bottom: 1px solid #ddd; padding: .25em .7em; text-align: left;
  vertical-align: top; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; }
th { border-bottom: 2px solid #111; position: sticky; top: 0; background: #fff; }
th button { font: inherit; font-weight: bold; border: 0; background: none; padding: 0;
  cursor: pointer; }
td:last-child:not(.number) { overflow-wrap: anywhere; min-width: 14em; }
tbody tr:hover { background: #f2f6fa; }
pre { background: #f5f5f5; border: 1px solid #ddd; padding: .7em; overflow-x: auto; }
input { font: inherit; padding: .25em .5em; width: 24em; max-width: 90%; }
.note { color: #444; }
"""

# Rows stay data until they are shown, and go into the page as text: no cell can carry markup.
_SCRIPT = """
const SHOWN = 200;
for (const box of document.querySelectorAll("[data-table]")) {
  const data = JSON.parse(box.querySelector("script").textContent);
  const search = box.querySelector("input"), note = box.querySelector(".note");
  const body = box.querySelector("tbody"), heads = [...box.querySelectorAll("th")];
  const texts = data.rows.map(row => row.join(" ").toLowerCase());
  let order = data.rows.map((_, i) => i), limit = SHOWN, sorted = -1, down = false;
  const show = () => {
    const words = search.value.toLowerCase().split(/\\s+/).filter(word => word);
    const found = order.filter(i => words.every(word => texts[i].includes(word)));
    body.replaceChildren(...found.slice(0, limit).map(i => {
      const line = document.createElement("tr");
      data.rows[i].forEach((value, k) => {
        const cell = line.insertCell();
        cell.className = data.numbers[k] ? "number" : "";
        cell.textContent = value;
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
      (a < b ? -1 : 1) * (down ? -1 : 1);
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
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}'
        f"</title><style>{_STYLE}</style></head>\n<body><h1>{escape(title)}</h1>\n"
        + "\n".join(parts)
        + f"\n<script>{_SCRIPT}</script></body></html>\n"
    )


def heading(text: str) -> str:
    """Make a heading within a page."""
    return f"<h2>{escape(text)}</h2>"


def paragraph(text: str) -> str:
    """Make a paragraph of plain text."""
    return f"<p>{escape(text)}</p>"


def preformatted(text: str) -> str:
    """Show text as it stands, for commands and settings."""
    return f"<pre>{escape(text)}</pre>"


def plain_table(rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str]) -> str:
    """Make a table without script, for few rows.

    Parameters
    ----------
    rows
        The cells by column name; None gives an empty cell.
    columns
        Names of the columns to show, and their headings (with units).
    """
    head = "".join(
        f'<th class="{"number" if _is_number(rows, name) else ""}">{escape(text)}</th>'
        for name, text in columns.items()
    )
    lines = "".join(f"<tr>{''.join(_cell(row[name]) for name in columns)}</tr>\n" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>\n{lines}</tbody></table>"


def search_table(rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str]) -> str:
    """Make a table to sort by any column and to search, also for tens of thousands of rows.

    Parameters
    ----------
    rows
        The cells by column name: text, numbers or None.
    columns
        Names of the columns to show, and their headings (with units). Fractions are shown with
        six significant digits.
    """
    numbers = [_is_number(rows, name) for name in columns]
    head = "".join(
        f'<th class="{"number" if number else ""}"><button>{escape(text)}</button><span></span>'
        "</th>"
        for text, number in zip(columns.values(), numbers, strict=True)
    )
    data = json.dumps(
        {"numbers": numbers, "rows": [[_short(row[name]) for name in columns] for row in rows]},
        separators=(",", ":"),
        allow_nan=False,
    ).replace("<", "\\u003c")  # a cell cannot end the script element that holds it
    return (
        '<div data-table><input type="search" placeholder="search: words that a row must hold" '
        'aria-label="search"> <span class="note"></span>\n'
        f"<table><thead><tr>{head}</tr></thead><tbody></tbody></table>\n"
        f'<script type="application/json">{data}</script></div>'
    )


def _is_number(rows: Sequence[Mapping[str, Any]], name: str) -> bool:
    values = [row[name] for row in rows if row[name] is not None]
    return bool(values) and all(isinstance(value, int | float) for value in values)


def _short(value: Any) -> Any:
    return float(f"{value:.6g}") if isinstance(value, float) else value


def _cell(value: Any) -> str:
    if value is None:
        return "<td></td>"
    if isinstance(value, int | float):
        text = f"{value:,}" if isinstance(value, int) else f"{value:,.6g}"
        return f'<td class="number">{text}</td>'
    return f"<td>{escape(str(value))}</td>"
