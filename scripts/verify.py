"""Compare every Parquet with its marker's sha256; name and clear what is missing or altered."""

import sys
from pathlib import Path

from desi_fits_to_parquet.run.job_log import job_log
from desi_fits_to_parquet.run.repair import clear_tile, find_damaged


def main(snakemake):
    results = Path(snakemake.config["results"])
    with job_log(snakemake.log[0], "verify") as log:
        damaged = find_damaged(results)
        for tile, problem in damaged:
            log.warning(f"{tile.name}: {problem}")
            clear_tile(results, tile)
        summary = (
            f"verify: {len(damaged)} tiles cleared; the next run makes them again"
            if damaged
            else "verify: every Parquet is as its marker says"
        )
        log.info(summary)
        print(summary, file=sys.stderr)


main(snakemake)
