"""Fetch what is needed of a tile's files; `download.json` beside them says what happened."""

import os
import sys
from pathlib import Path

from desi_fits_to_parquet.download.outage import download_patiently
from desi_fits_to_parquet.download.space import DiskLow, check_space, needed_bytes
from desi_fits_to_parquet.files import atomic_folder
from desi_fits_to_parquet.paths import LOW_NOTE
from desi_fits_to_parquet.run.job import begin_job
from desi_fits_to_parquet.run.job_log import job_log
from desi_fits_to_parquet.run.lock import RUN_ID, end_with_run
from desi_fits_to_parquet.tiles_csv import unpack_sources


def main():
    tile, results, settings, given = begin_job(__doc__, "sources", "fits")
    with job_log(given["log"], "download_tile", tile.name) as log:
        sources = unpack_sources(given["sources"])
        try:
            needed = needed_bytes(sources, settings)
            check_space(results, needed, settings["resources"]["min_free_gb"])
        except DiskLow as low:
            log.info(str(low))
            (results / LOW_NOTE).write_text(str(low))  # the run ends when it finds this
            sys.exit(1)
        # The folder gets its name when it is complete: on a cluster Snakemake keeps what a killed
        # group leaves (profiles/slurm), and takes a folder that is there for a whole one.
        with atomic_folder(Path(given["fits"])) as partial:
            record = download_patiently(
                tile, sources, settings, partial, os.environ[RUN_ID], lambda: end_with_run(results)
            )
        log.info("done", extra={"figures": record})


main()
