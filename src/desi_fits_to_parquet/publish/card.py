"""The card of a published collection: what it holds, where it came from, how to open and cite it.

Its head is what Hugging Face's hub reads of a dataset; everybody else reads the rest.
"""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from desi_fits_to_parquet import __version__
from desi_fits_to_parquet.files import read_json
from desi_fits_to_parquet.paths import CATALOG, COLLECTION, PARQUET
from desi_fits_to_parquet.records import PROVENANCE_KEY

_CITATIONS = {
    "edr": ("The Early Data Release of the Dark Energy Spectroscopic Instrument", "2306.06308"),
    "dr1": ("Data Release 1 of the Dark Energy Spectroscopic Instrument", "2503.14745"),
}
"""Paper of each release, title and arXiv number, by the first part of its folder."""


def write_card(results: Path, destination: str, endpoint: str | None, region: str) -> str:
    """Write the card of a collection (Markdown).

    Parameters
    ----------
    results
        The folder of the results of a run that has ended.
    destination, endpoint, region
        Where the collection will be, for the lines that open it.

    Returns
    -------
    str
        The same for the same results and place.
    """
    properties = _properties(results / COLLECTION)
    name = properties["obs_title"]
    release = name.removeprefix("DESI ").split("/")[0]
    catalog = pq.read_schema(results / CATALOG / "dataset/_common_metadata")
    groups = properties.get("all_extensions", "").split()[::2]
    spectra = [pq.read_schema(results / PARQUET / g / "dataset/_common_metadata") for g in groups]
    n_rows = sum(
        int(_properties(results / PARQUET / group / "hats.properties")["hats_nrows"])
        for group in groups
    )
    parts = [
        _head(name, groups),
        f"# {name}: spectra as Parquet\n\n{n_rows:,} spectra of {', '.join(groups) or 'no tile'}, "
        "converted from the FITS files of the Dark Energy Spectroscopic Instrument by "
        f"desi-fits-to-parquet {__version__}. A HATS collection: `{CATALOG}/` holds the scalars of "
        f"all targets, `{PARQUET}/` the same with the spectra, a file for each HEALPix tile. "
        "`checksums.sha256` lists every file; `sha256sum -c checksums.sha256` checks a copy.",
        _opening(destination, endpoint, region),
        _table("Fields of the spectra", spectra[0] if spectra else pa.schema([])),
        _table(
            "Fields that the catalogue adds",
            pa.schema([f for f in catalog if not spectra or f.name not in spectra[0].names]),
        ),
        _provenance(results, groups),
        "## Licence\n\nThe data are those of the DESI Collaboration, licensed under "
        "[CC BY 4.0](https://creativecommons.org/licenses/by/4.0/): use them with attribution, "
        "and say what you changed. What was changed here: selected targets, arms joined, pixels "
        "rounded within the bounds that the settings below name. The acknowledgements that DESI "
        "asks for: https://data.desi.lbl.gov/doc/acknowledgments/",
        _citation(release),
    ]
    return "\n\n".join(parts) + "\n"


def _properties(path: Path) -> dict[str, str]:
    return dict(line.split("=", 1) for line in path.read_text().splitlines() if "=" in line)


def _head(name: str, groups: list[str]) -> str:
    lines = ["license: cc-by-4.0", f"pretty_name: {json.dumps(name)}", "tags:"]
    lines += [f"- {tag}" for tag in ("astronomy", "spectroscopy", "desi", "hats", "parquet")]
    lines += ["configs:", "- config_name: catalog", "  default: true"]
    lines += [f"  data_files: {CATALOG}/dataset/Norder=*/Dir=*/*.parquet"]
    for group in groups:
        lines += [f"- config_name: {group}"]
        lines += [f"  data_files: {PARQUET}/{group}/dataset/Norder=*/Dir=*/Npix=*/*.parquet"]
    return "\n".join(["---", *lines, "---"])


def _opening(destination: str, endpoint: str | None, region: str) -> str:
    place = destination.rstrip("/")
    more = f', region="{region}"' + (f', endpoint="{endpoint}"' if endpoint else "")
    return f"""## Opening it

```python
from desi_fits_to_parquet import open_catalog

catalog = open_catalog("{place}"{more})  # not signed
spectra = catalog.where("z > 2.1").head(10).spectra()
```

```python
import lsdb
from obstore.fsspec import register
from upath import UPath

register("s3")
catalog = lsdb.open_catalog(UPath("{place}", skip_signature=True{more}))
```"""


def _table(title: str, schema: pa.Schema) -> str:
    rows = ["| field | type | unit | meaning |", "| --- | --- | --- | --- |"]
    for field in schema:
        metadata = field.metadata or {}
        unit, words = (
            metadata.get(key, b"").decode().replace("|", "\\|") for key in (b"unit", b"description")
        )
        kind = "struct of lists" if pa.types.is_struct(field.type) else str(field.type)
        rows.append(f"| `{field.name}` | {kind} | {unit} | {words} |".replace("element: ", ""))
    return f"## {title}\n\n" + "\n".join(rows)


def _provenance(results: Path, groups: list[str]) -> str:
    """Tell of the sources and settings, of the first tile where they are those of all."""
    lines = ["## Provenance", ""]
    files = (p for g in groups for p in sorted((results / PARQUET / g).rglob("Npix=*/*.parquet")))
    if path := next(files, None):
        told: dict[str, Any] = json.loads(pq.read_metadata(path).metadata[PROVENANCE_KEY.encode()])
        pipeline = told["pipeline"].get("coadd", {})
        versions = ", ".join(f"{key} {value}" for key, value in sorted(pipeline.items()))
        lines += [
            "- every file names in its metadata the archive's files that it was made from, with "
            f"their ETags and checksums, under the key `{PROVENANCE_KEY}`",
            f"- the archive's own software: {versions}" if versions else "",
            f"- converted by desi-fits-to-parquet {told['version']}",
            "- settings:",
            "",
            "```json",
            json.dumps(told["settings"], indent=1, sort_keys=True),
            "```",
        ]
    summary = results / "report/summary.json"
    if summary.is_file():
        totals = read_json(summary)
        outcomes = ", ".join(f"{n:,} {name}" for name, n in totals["outcomes"].items() if n)
        lines += [
            "",
            f"Of {totals['tiles']:,} tiles by outcome: {outcomes}. {totals['n_targets']:,} targets "
            f"were looked at, {totals['n_rows']:,} selected; {totals['bytes_archive']:,} bytes in "
            f"the archive became {totals['bytes_parquet']:,} bytes. `report/tiles.parquet` tells "
            "of each tile.",
        ]
    return "\n".join(line for line in lines)


def _citation(release: str) -> str:
    lines = ["## Citation", ""]
    if release in _CITATIONS:
        title, number = _CITATIONS[release]
        lines += [
            "```bibtex",
            f"@article{{desi_{release},",
            f"  title = {{{title}}},",
            "  author = {{DESI Collaboration}},",
            f"  eprint = {{{number}}},",
            "  archivePrefix = {arXiv},",
            "}",
            "```",
        ]
    else:
        lines += ["The paper of the release: https://data.desi.lbl.gov/doc/releases/"]
    lines += ["", "The conversion: desi-fits-to-parquet, see its CITATION.cff."]
    return "\n".join(lines)
