"""Copy the collection to the bucket that publish.destination names: changed files only."""

import sys
from pathlib import Path

from desi_fits_to_parquet.publish.copy import PublishError, publish
from desi_fits_to_parquet.run.job_log import job_log


def main(snakemake):
    results, settings = Path(snakemake.config["results"]), snakemake.config["publish"]
    destination = settings["destination"]
    with job_log(snakemake.log[0], "publish") as log:
        if destination is None:
            log.error(
                "say where to: --config publish=\"{destination: 's3://bucket/prefix', "
                'profile: NAME}"'
            )
            sys.exit(1)
        try:
            done = publish(
                results,
                destination,
                profile=settings["profile"],
                endpoint=settings["endpoint"],
                region=settings["region"],
            )
        except PublishError as error:
            log.error(str(error))
            sys.exit(1)
        log.info("done", extra={"figures": done._asdict()})
        print(
            f"publish: {done.sent:,} files ({done.bytes_sent / 1e6:,.1f} MB) sent to "
            f"{destination}, {done.unchanged:,} were there already, {done.removed:,} removed",
            file=sys.stderr,
        )


main(snakemake)
