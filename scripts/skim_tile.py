"""Fetch the selected targets of a tile and keep them as FITS in DESI's own layout."""

import os
import sys
from pathlib import Path

from desi_fits_to_parquet.download.space import DiskLow, check_space, needed_bytes
from desi_fits_to_parquet.files import write_json
from desi_fits_to_parquet.paths import LOW_NOTE
from desi_fits_to_parquet.run.job import begin_job
from desi_fits_to_parquet.run.job_log import job_log
from desi_fits_to_parquet.run.lock import RUN_ID, end_with_run
from desi_fits_to_parquet.skim import skim_hdus, skim_tile
from desi_fits_to_parquet.tiles_csv import unpack_sources


def main():
    tile, results, settings, given = begin_job(__doc__, "sources", "marker")
    with job_log(given["log"], "skim_tile", tile.name) as log:
        sources = unpack_sources(given["sources"])
        needed = needed_bytes(sources, settings, skim_hdus(settings))
        try:
            check_space(results, needed, settings["resources"]["min_free_gb"])
        except DiskLow as low:
            log.info(str(low))
            (results / LOW_NOTE).write_text(str(low))  # the run ends when it finds this
            sys.exit(1)
        run = os.environ[RUN_ID]
        marker = skim_tile(tile, sources, settings, run, lambda: end_with_run(results))
        write_json(Path(given["marker"]), marker)
        log.info("done", extra={"figures": marker})


main()
