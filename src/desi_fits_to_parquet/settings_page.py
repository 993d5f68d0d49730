"""The reference of the settings, made from their schema: `make config-readme`."""

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from desi_fits_to_parquet.config import allowed_text
from desi_fits_to_parquet.files import write_atomically
from desi_fits_to_parquet.workflow import workflow_folder

HEAD = """\
# Configuration

`config/config.yaml` is the production run; each other file here is laid over it with
`--configfile`, and single settings with `--config`: `snakemake --cores 8 --configfile
config/quasars.yaml --config sample=40`. A setting that is not named has its default; one that does
not fit is refused with a sentence.

| file | what it is |
| --- | --- |
| `config.yaml` | the quasars of DESI DR1, survey main, program dark: SPECTYPE QSO, ZWARN 0 |
| `quasars.yaml`, `galaxies.yaml`, `stars.yaml`, `everything.yaml` | a selection and its columns |
| `releases/*.yaml` | EDR, DR1, DR2, DR3 (docs/releases.md) |
| `demo.yaml` | the demo, over an archive that is served on this machine |
| `schema.yaml` | every setting: what this page is made from (`make config-readme`) |

As a module of another workflow: install the library of the same version beside Snakemake (`pip
install desi-fits-to-parquet`, or `make env` in a clone), give the settings as `config`, and take
the tiles from `rules.desi_report.input.markers`, which waits for the archive's list:

```python
module desi:
    snakefile: github("OWNER/desi-fits-to-parquet", path="workflow/Snakefile", tag="v0.2.0")
    config: config["desi"]

use rule * from desi as desi_*

def mine(wildcards):
    markers = rules.desi_report.input.markers(wildcards)  # results/validated/main/dark/10000.json
    return [marker.replace("validated", "mine") for marker in markers]
```

`tests/test_module.py` is such a workflow, with a rule behind a tile's Parquet. The live view,
notifications and the end of a run in good order belong to this project's own Snakefile; as a
module it has Snakemake's.
"""


def settings_page(schema: Mapping[str, Any]) -> str:
    """Return the page, in Markdown: a table of the settings of each section.

    Parameters
    ----------
    schema
        `config/schema.yaml`.
    """
    top = {k: part for k, part in schema["properties"].items() if "properties" not in part}
    lines = [HEAD, *_table("The run as a whole", "", top, schema)]
    for name, part in schema["properties"].items():
        if "properties" in part:
            lines += _table(f"`{name}`", f"{name}.", part["properties"], schema)
    return "\n".join(lines)


def _table(
    title: str, prefix: str, settings: Mapping[str, Any], schema: Mapping[str, Any]
) -> Iterator[str]:
    yield f"## {title}\n\n| setting | default | allowed | meaning |\n| --- | --- | --- | --- |"
    for name, setting in settings.items():
        form = (
            {**schema["$defs"][setting["$ref"].rpartition("/")[2]], **setting}
            if ("$ref" in setting)
            else setting
        )
        allowed = " or ".join(allowed_text(each) for each in form.get("anyOf", [form]))
        default = f"`{json.dumps(form['default'])}`"
        yield f"| `{prefix}{name}` | {default} | {allowed} | {form['description']} |"
    yield ""


def main() -> int:
    """Write `config/README.md`."""
    import yaml

    config = workflow_folder() / "config"
    schema = yaml.safe_load((config / "schema.yaml").read_text())
    write_atomically(Path(config, "README.md"), settings_page(schema))
    return 0


if __name__ == "__main__":
    sys.exit(main())
