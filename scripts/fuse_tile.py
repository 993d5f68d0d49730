"""Fuse a tile's FITS into one Parquet; the record says how many rows it has, or why none."""

from pathlib import Path

from desi_fits_to_parquet.files import write_json
from desi_fits_to_parquet.fuse import fuse_tile
from desi_fits_to_parquet.joblog import job_log
from desi_fits_to_parquet.lock import join_run
from desi_fits_to_parquet.tile import FUSE_RECORD, Tile


def main(snakemake):
    names = snakemake.wildcards
    tile = Tile(names.survey, names.program, int(names.healpix))
    with job_log(snakemake.log[0], "fuse_tile", tile.name) as log:
        join_run(Path(snakemake.config["results"]) / ".lock")
        fits = Path(snakemake.input.fits)
        record = fuse_tile(
            tile,
            fits,
            Path(snakemake.output.parquet),
            snakemake.config,
        )
        write_json(fits / FUSE_RECORD, record)
        log.info("done", extra={"figures": record})


main(snakemake)
