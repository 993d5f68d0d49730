"""List the folders of the failed tiles anew and clear these tiles for the next run."""

import sys
from pathlib import Path

from desi_fits_to_parquet.archive.errors import ArchiveUnreachable
from desi_fits_to_parquet.discover import relist_tiles
from desi_fits_to_parquet.run.job_log import job_log
from desi_fits_to_parquet.run.repair import NoRun, check_results, clear_tile, find_failed
from desi_fits_to_parquet.run.skims import clear_skim, find_failed_skims


def main(snakemake):
    results = Path(snakemake.config["results"])
    archive = snakemake.config["archive"]
    with job_log(snakemake.log[0], "retry_failed") as log:
        try:
            check_results(results)
            failed = find_failed(results)
            skims = find_failed_skims(results)
            # the archive may have been mended since: other ETags, files that were missing
            relist_tiles(archive, results / "tiles.csv", [tile for tile, _ in (*failed, *skims)])
        except (ArchiveUnreachable, NoRun) as error:
            log.error(f"nothing was cleared: {error}")
            sys.exit(1)
        for tile, problem in failed:
            log.info(f"cleared {tile.name}", extra={"figures": {"problem": problem}})
            clear_tile(results, tile)
        for tile, problem in skims:
            log.info(f"cleared the skim of {tile.name}", extra={"figures": {"problem": problem}})
            clear_skim(results, archive, tile)
        cleared = {tile for tile, _ in (*failed, *skims)}
        summary = f"retry_failed: {len(cleared)} tiles cleared; the next run does them again"
        log.info(summary)
        print(summary, file=sys.stderr)


main(snakemake)
