"""Compare this release's targets with those of another one, whose results folder is named."""

import sys
from pathlib import Path

from desi_fits_to_parquet.compare.build import compare_releases
from desi_fits_to_parquet.run.job_log import job_log


def main(snakemake):
    results, other = Path(snakemake.config["results"]), snakemake.config["compare_with"]
    with job_log(snakemake.log[0], "compare_releases") as log:
        if other is None:
            log.error("say what to compare with: --config compare_with=FOLDER, results of another")
            sys.exit(1)
        try:
            summary = compare_releases(Path(other), results, results / "compare")
        except ValueError as error:
            log.error(str(error))
            sys.exit(1)
        log.info("done", extra={"figures": summary["total"]})
        counts = ", ".join(
            f"{summary['total'].get(name, 0):,} {name}"
            for name in ("new", "gone", "changed", "unknown")
        )
        print(f"compare_releases: {counts}; see {results}/compare/compare.html", file=sys.stderr)


main(snakemake)
