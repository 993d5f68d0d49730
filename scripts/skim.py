"""Sum up the skimmed tiles in `skim/skim.json` and `skim/tiles.csv`."""

import sys
from pathlib import Path

from desi_fits_to_parquet.run.job_log import job_log
from desi_fits_to_parquet.run.skims import write_skim_summary


def main(snakemake):
    results = Path(snakemake.config["results"])
    with job_log(snakemake.log[0], "skim") as log:
        summary = write_skim_summary(results, snakemake.config)
        log.info("done", extra={"figures": summary})
    outcomes = ", ".join(f"{n:,} {name}" for name, n in summary["outcomes"].items() if n)
    print(
        f"skim: {summary['n_rows']:,} targets in {summary['bytes_skim'] / 1e6:,.1f} MB of FITS in "
        f"{results}/skim; tiles: {outcomes}",
        file=sys.stderr,
    )


main(snakemake)
