"""Write the catalogue of all targets, its index and margin, and what makes them a collection."""

from pathlib import Path

from desi_fits_to_parquet.collection.build import build_collection
from desi_fits_to_parquet.explorer.page import write_page
from desi_fits_to_parquet.run.job_log import job_log
from desi_fits_to_parquet.tiles_csv import list_tiles


def main(snakemake):
    listed = Path(snakemake.input.tiles)
    with job_log(snakemake.log[0], "catalog") as log:
        write_page(listed.parent)
        figures = build_collection(listed.parent, list_tiles(listed), snakemake.config)
        log.info("done", extra={"figures": figures})


main(snakemake)
