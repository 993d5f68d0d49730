"""Compare every Parquet with its marker, and that with its place; name and clear what is wrong."""

import sys
from pathlib import Path

from desi_fits_to_parquet.run.job_log import job_log
from desi_fits_to_parquet.run.repair import NoRun, check_results, clear_tile, find_damaged


def main(snakemake):
    results = Path(snakemake.config["results"])
    with job_log(snakemake.log[0], "verify") as log:
        try:
            check_results(results)
        except NoRun as error:
            log.error(str(error))
            sys.exit(1)
        damaged, strange = find_damaged(results)
        for tile, problem in damaged:
            log.warning(f"{tile.name}: {problem}")
            clear_tile(results, tile)
        for path in strange:
            log.warning(f"{path} is no tile's marker; remove it")
        if not damaged and not strange:
            summary = "verify: every Parquet is as its marker says"
            log.info(summary)
            print(summary, file=sys.stderr)
            return
        log.warning(f"{len(damaged)} tiles cleared; the next run makes them again")
        sys.exit(1)


main(snakemake)
