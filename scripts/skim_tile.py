"""Fetch the selected targets of a tile and keep them as FITS in DESI's own layout."""

import os
import sys
from pathlib import Path

from desi_fits_to_parquet.download.space import DiskLow, check_space, needed_bytes
from desi_fits_to_parquet.files import write_json
from desi_fits_to_parquet.paths import LOW_NOTE
from desi_fits_to_parquet.run.job_log import job_log
from desi_fits_to_parquet.run.lock import RUN_ID, end_with_run, join_run
from desi_fits_to_parquet.skim import skim_hdus, skim_tile
from desi_fits_to_parquet.tile import tile_of
from desi_fits_to_parquet.tiles_csv import unpack_sources


def main(snakemake):
    tile = tile_of(dict(snakemake.wildcards.items()), snakemake.params.layout)
    config = snakemake.config
    results = Path(config["results"])
    join_run(results)
    with job_log(snakemake.log[0], "skim_tile", tile.name) as log:
        sources = unpack_sources(snakemake.params.sources)
        needed = needed_bytes(sources, config, skim_hdus(config))
        try:
            check_space(results, needed, config["resources"]["min_free_gb"])
        except DiskLow as low:
            log.error(str(low))
            (results / LOW_NOTE).write_text(str(low))  # the run ends when it finds this
            sys.exit(1)
        run = os.environ[RUN_ID]
        marker = skim_tile(tile, sources, config, run, lambda: end_with_run(results))
        write_json(Path(snakemake.output.marker), marker)
        log.info("done", extra={"figures": marker})


main(snakemake)
