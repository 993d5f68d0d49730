"""Compare every Parquet with its marker, and that with its place; name and clear what is wrong."""

import sys
from pathlib import Path

from desi_fits_to_parquet.run.job_log import job_log
from desi_fits_to_parquet.run.repair import NoRun, check_results, clear_tile, find_damaged
from desi_fits_to_parquet.run.skims import clear_skim, find_damaged_skims


def main(snakemake):
    results = Path(snakemake.config["results"])
    with job_log(snakemake.log[0], "verify") as log:
        try:
            check_results(results)
        except NoRun as error:
            log.error(str(error))
            sys.exit(1)
        damaged, strange = find_damaged(results)
        archive = snakemake.config["archive"]
        skims = find_damaged_skims(results, archive)
        for tile, problem in damaged:
            log.warning(f"{tile.name}: {problem}")
            clear_tile(results, tile)
        for tile, problem in skims:
            log.warning(f"{tile.name}: {problem}")
            clear_skim(results, archive, tile)
        for path in strange:
            log.warning(f"{path} is no tile's marker; remove it")
        if not damaged and not strange and not skims:
            summary = "verify: every Parquet is as its marker says"
            log.info(summary)
            print(summary, file=sys.stderr)
            return
        cleared = {tile for tile, _ in (*damaged, *skims)}
        log.warning(f"{len(cleared)} tiles cleared; the next run makes them again")
        sys.exit(1)


main(snakemake)
