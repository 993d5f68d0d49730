"""Fetch what is needed of a tile's files; `download.json` beside them says what happened."""

import sys
from pathlib import Path

from desi_fits_to_parquet.download import download_tile
from desi_fits_to_parquet.joblog import job_log
from desi_fits_to_parquet.lock import join_run
from desi_fits_to_parquet.space import LOW_NOTE, DiskLow, check_space, needed_bytes
from desi_fits_to_parquet.tile import Tile


def main(snakemake):
    names = snakemake.wildcards
    tile = Tile(names.survey, names.program, int(names.healpix))
    with job_log(snakemake.log[0], "download_tile", tile.name) as log:
        config, sources = snakemake.config, snakemake.params.sources
        results = Path(config["results"])
        join_run(results / ".lock")
        try:
            check_space(results, needed_bytes(sources, config), config["resources"]["min_free_gb"])
        except DiskLow as low:
            log.error(str(low))
            (results / LOW_NOTE).write_text(str(low))  # the run ends when it finds this
            sys.exit(1)
        record = download_tile(tile, sources, config, Path(snakemake.output.fits))
        log.info("done", extra={"figures": record})


main(snakemake)
