"""Fetch what is needed of a tile's files; `download.json` beside them says what happened."""

from pathlib import Path

from desi_fits_to_parquet.download import download_tile
from desi_fits_to_parquet.joblog import job_log
from desi_fits_to_parquet.tile import Tile


def main(snakemake):
    names = snakemake.wildcards
    tile = Tile(names.survey, names.program, int(names.healpix))
    with job_log(snakemake.log[0], "download_tile", tile.name) as log:
        record = download_tile(
            tile,
            snakemake.params.sources,
            snakemake.config,
            Path(snakemake.output.fits),
        )
        log.info("done", extra={"figures": record})


main(snakemake)
