"""`python -m desi_fits_to_parquet` is the command `desi-fits-to-parquet`."""

import sys

from desi_fits_to_parquet.cli import main

if __name__ == "__main__":
    sys.exit(main())
