"""Sum the markers of all tiles into tables and figures under `report/`."""

from pathlib import Path

from desi_fits_to_parquet.report.build import build_report
from desi_fits_to_parquet.run.job_log import job_log


def main(snakemake):
    results = Path(snakemake.input.tiles).parent
    with job_log(snakemake.log[0], "report"):
        build_report(results, results / "report", snakemake.config)


main(snakemake)
