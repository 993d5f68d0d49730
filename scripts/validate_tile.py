"""Compare a tile's Parquet with its FITS and write the marker: the tile's one outcome."""

from pathlib import Path

from desi_fits_to_parquet.files import read_json, write_json
from desi_fits_to_parquet.paths import FUSE_RECORD
from desi_fits_to_parquet.run.job_log import job_log
from desi_fits_to_parquet.run.lock import join_run
from desi_fits_to_parquet.tile import tile_of
from desi_fits_to_parquet.validate import validate_tile


def main(snakemake):
    tile = tile_of(dict(snakemake.wildcards.items()), snakemake.params.layout)
    join_run(Path(snakemake.config["results"]))
    with job_log(snakemake.log[0], "validate_tile", tile.name) as log:
        fits = Path(snakemake.input.fits)
        marker = validate_tile(
            tile,
            fits,
            Path(snakemake.input.parquet),
            read_json(fits / FUSE_RECORD),
            snakemake.config,
        )
        write_json(Path(snakemake.output.marker), marker)
        log.info("done", extra={"figures": marker})


main(snakemake)
