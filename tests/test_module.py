"""The workflow is a module of another one, which adds a rule behind a tile's Parquet."""

import subprocess
import sys
from pathlib import Path

import yaml
from conftest import REPOSITORY
from running import write_tile

from desi_fits_to_parquet.settings_page import settings_page
from desi_fits_to_parquet.tile import Tile

TILES = (Tile("main", "dark", 10000), Tile("main", "dark", 10001))

SNAKEFILE = '''
configfile: "own.yaml"

module desi:
    snakefile: "{snakefile}"
    config: config["desi"]

use rule * from desi as desi_*

from pathlib import Path
from desi_fits_to_parquet.paths import parquet_folder
from desi_fits_to_parquet.tile import Tile

def counts(wildcards):
    """A file for each tile that the archive's list names: known behind the checkpoint."""
    markers = rules.desi_report.input.markers(wildcards)
    return [m.replace("validated", "counts").replace(".json", ".txt") for m in markers]

def parquet(wildcards):
    tile = Tile(wildcards.survey, wildcards.program, int(wildcards.healpix))
    return str(parquet_folder(Path("out"), tile))

rule all:
    default_target: True
    input:
        counts,

rule count_rows:
    input:
        marker="out/validated/{{survey}}/{{program}}/{{healpix}}.json",
        parquet=parquet,
    output:
        "out/counts/{{survey}}/{{program}}/{{healpix}}.txt",
    run:
        import pyarrow.parquet as pq
        Path(output[0]).write_text(str(pq.read_table(input.parquet, columns=["z"]).num_rows))
'''


def test_another_workflow_adds_a_rule_behind_the_parquet_of_a_tile(tmp_path: Path) -> None:
    archive = tmp_path / "archive"
    for tile in TILES:
        write_tile(archive, tile)
    own = tmp_path / "own"
    own.mkdir()
    # where the catalogue of workflows looks for it; it includes the one at the top
    (own / "Snakefile").write_text(
        SNAKEFILE.format(snakefile=REPOSITORY / "workflow/Snakefile").lstrip()
    )
    settings = {"results": "out", "archive": {"endpoint": str(archive)}}
    (own / "own.yaml").write_text(yaml.safe_dump({"desi": settings}))
    done = subprocess.run(
        [sys.executable, "-m", "snakemake", "--cores", "2"],
        cwd=own, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    counts = sorted((own / "out/counts/main/dark").iterdir())
    assert [path.stem for path in counts] == [str(tile.number) for tile in TILES]
    assert sum(int(path.read_text()) for path in counts) > 0
    assert not list(own.glob("out/fits/**/*.fits"))


def test_page_of_the_settings_is_made_from_the_schema() -> None:
    config = REPOSITORY / "config"
    schema = yaml.safe_load((config / "schema.yaml").read_text())
    assert (config / "README.md").read_text() == settings_page(schema), "make config-readme"


def test_what_is_deployed_from_the_catalogue_does_what_the_top_does(tmp_path: Path) -> None:
    planned = subprocess.run(
        [sys.executable, "-m", "snakemake", "-s", REPOSITORY / "workflow/Snakefile", "-n",
         "--cores", "1", "--config", f"archive={{endpoint: '{tmp_path}'}}"],
        cwd=tmp_path, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=True,
    ).stdout  # fmt: skip
    for rule in ("deployed", "discover_tiles", "catalog", "report"):
        assert f"\n{rule} " in planned


def test_catalogue_of_workflows_finds_what_it_asks_for() -> None:
    told = yaml.safe_load((REPOSITORY / ".snakemake-workflow-catalog.yml").read_text())["usage"]
    assert told.keys() == {"mandatory-flags", "software-stack-deployment", "report"}
    assert 'include: "../Snakefile"' in (REPOSITORY / "workflow/Snakefile").read_text()
    readme = (REPOSITORY / "README.md").read_text().lower()
    assert "snakemake" in readme
    assert "workflow" in readme
