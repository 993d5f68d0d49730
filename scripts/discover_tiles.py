"""List the archive into tiles.csv: a line a tile, with key, size and ETag of each of its files."""

import sys
from pathlib import Path

from desi_fits_to_parquet.archive.errors import ArchiveUnreachable, NothingFound
from desi_fits_to_parquet.discover import discover_tiles
from desi_fits_to_parquet.run.job_log import job_log
from desi_fits_to_parquet.run.skims import skim_differences


def main(snakemake):
    config = snakemake.config
    with job_log(snakemake.log[0], "discover_tiles") as log:
        if differences := skim_differences(config):
            log.warning(differences)
        try:
            count = discover_tiles(
                config["archive"],
                config["tiles"],
                config["sample"],
                Path(snakemake.output.tiles),
            )
        except (ArchiveUnreachable, NothingFound) as error:
            log.error(str(error))
            sys.exit(1)
        log.info("listed", extra={"figures": {"tiles": count}})


main(snakemake)
