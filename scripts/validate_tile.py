"""Compare a tile's Parquet with its FITS and write the marker: the tile's one outcome."""

from pathlib import Path

from desi_fits_to_parquet.files import read_json, write_json
from desi_fits_to_parquet.paths import FUSE_RECORD
from desi_fits_to_parquet.run.job import begin_job
from desi_fits_to_parquet.run.job_log import job_log
from desi_fits_to_parquet.validate import validate_tile


def main():
    tile, _, settings, given = begin_job(__doc__, "fits", "parquet", "marker")
    with job_log(given["log"], "validate_tile", tile.name) as log:
        fits = Path(given["fits"])
        record = read_json(fits / FUSE_RECORD)
        marker = validate_tile(tile, fits, Path(given["parquet"]), record, settings)
        write_json(Path(given["marker"]), marker)
        log.info("done", extra={"figures": marker})


main()
