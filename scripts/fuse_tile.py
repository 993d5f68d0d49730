"""Fuse a tile's FITS into one Parquet; the record says how many rows it has, or why none."""

from pathlib import Path

from desi_fits_to_parquet.files import atomic_folder, write_json
from desi_fits_to_parquet.fuse.tile import fuse_tile
from desi_fits_to_parquet.paths import FUSE_RECORD
from desi_fits_to_parquet.run.job_log import job_log
from desi_fits_to_parquet.run.lock import join_run
from desi_fits_to_parquet.tile import tile_of


def main(snakemake):
    tile = tile_of(dict(snakemake.wildcards.items()), snakemake.params.layout)
    join_run(Path(snakemake.config["results"]))
    with job_log(snakemake.log[0], "fuse_tile", tile.name) as log:
        fits = Path(snakemake.input.fits)
        # The folder gets its name when it is complete and the record is written: behind a
        # checkpoint Snakemake does not notice that a killed job left it.
        with atomic_folder(Path(snakemake.output.parquet)) as partial:
            record = fuse_tile(tile, fits, partial, snakemake.config)
            write_json(fits / FUSE_RECORD, record)
        log.info("done", extra={"figures": record})


main(snakemake)
