"""Fuse a tile's FITS into one Parquet; the record says how many rows it has, or why none."""

from pathlib import Path

from desi_fits_to_parquet.files import atomic_folder, write_json
from desi_fits_to_parquet.fuse.tile import fuse_tile
from desi_fits_to_parquet.paths import FUSE_RECORD
from desi_fits_to_parquet.run.job import begin_job
from desi_fits_to_parquet.run.job_log import job_log


def main():
    tile, _, settings, given = begin_job(__doc__, "fits", "parquet")
    with job_log(given["log"], "fuse_tile", tile.name) as log:
        fits = Path(given["fits"])
        # The folder gets its name when it is complete and the record is written: behind a
        # checkpoint Snakemake does not notice that a killed job left it.
        with atomic_folder(Path(given["parquet"])) as partial:
            record = fuse_tile(tile, fits, partial, settings)
            write_json(fits / FUSE_RECORD, record)
        log.info("done", extra={"figures": record})


main()
