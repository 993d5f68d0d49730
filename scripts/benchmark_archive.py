"""Measure the configured archive over 1 to 32 connections and print the settings to use."""

import sys
from pathlib import Path

from desi_fits_to_parquet.archive.benchmark import benchmark_archive, benchmark_text
from desi_fits_to_parquet.archive.errors import ArchiveUnreachable, NothingFound
from desi_fits_to_parquet.files import write_json
from desi_fits_to_parquet.run.job_log import job_log


def main(snakemake):
    results = Path(snakemake.config["results"])
    with job_log(snakemake.log[0], "benchmark_archive") as log:
        try:
            figures = benchmark_archive(snakemake.config, results / "tiles.csv")
        except (ArchiveUnreachable, NothingFound) as error:
            log.error(str(error))
            sys.exit(1)
        write_json(results / "benchmark" / "archive.json", figures)
        log.info("done", extra={"figures": figures})
        print(benchmark_text(figures), file=sys.stderr)


main(snakemake)
