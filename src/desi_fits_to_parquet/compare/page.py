"""The page that shows what a second release has changed."""

from collections.abc import Iterable, Sequence
from typing import Any

from desi_fits_to_parquet.compare.targets import CHANGES, LARGE_KM_S
from desi_fits_to_parquet.report.html import (
    heading,
    html_page,
    paragraph,
    plain_table,
    preformatted,
    search_table,
)


def compare_page(summary: dict[str, Any], largest: Sequence[dict[str, Any]]) -> str:
    """Write what changed by survey and program, what is in doubt, the largest changes of redshift.

    Parameters
    ----------
    summary
        As in `summary.json`.
    largest
        Rows of `targets.parquet`.
    """
    before, after = (summary[name] for name in ("before", "after"))
    columns = {
        "survey": "survey", "program": "program", "targets_before": "targets before",
        "targets_after": "after", "in_both": "in both", "new": "new", "gone": "gone",
        "changed": "changed", "unknown": "unknown", "changed_z": "another redshift",
        "changed_z_large": f"by more than {LARGE_KM_S:,.0f} km/s",
        "changed_spectype": "another class", "changed_coadd_numexp": "other exposures",
    }  # fmt: skip
    total = {**dict.fromkeys(columns), **summary["total"], "survey": "all"}
    shown = {
        "survey": "survey", "program": "program", "targetid": "TARGETID", "z_before": "z before",
        "z_after": "z after", "dv_km_s": "difference (km/s)", "spectype_before": "class before",
        "spectype_after": "class after", "coadd_numexp_before": "exposures before",
        "coadd_numexp_after": "exposures after",
    }  # fmt: skip
    # a TARGETID has more digits than a number of JavaScript
    rows = [row | {"targetid": str(row["targetid"])} for row in largest]
    return html_page(
        f"{after['archive']} against {before['archive']}",
        plain_table([*summary["programs"], total], columns),
        *(paragraph(f"{change}: {meaning}.") for change, meaning in CHANGES.items()),
        *map(paragraph, _warnings(summary)),
        heading("Largest changes of redshift"),
        search_table(rows, shown),
        heading("All of them"),
        preformatted(
            "duckdb -c \"FROM 'targets.parquet' WHERE change = 'changed' "
            'ORDER BY abs(dv_km_s) DESC LIMIT 20"'
        ),
    )


def _warnings(summary: dict[str, Any]) -> Iterable[str]:
    """Say what keeps the two releases from being compared in full."""
    if not summary["same_selection"]:
        yield (
            "The two were converted with different selections: what is new or gone may be so "
            "because other targets were asked for."
        )
    for name, other in (("before", "after"), ("after", "before")):
        if only := summary[f"only_{name}"]:
            yield (
                f"Only {summary[name]['archive']} has {', '.join(only)}: not compared. Convert "
                f"them of {summary[other]['archive']} too, where it has them."
            )
        facts = summary[name]
        bad = facts["tiles"] - facts["outcomes"]["converted"] - facts["outcomes"]["no_targets"]
        if bad:
            of = f"{facts['tiles']:,} tiles of {facts['archive']}"
            yield f"{bad:,} of the {of} are not converted."
