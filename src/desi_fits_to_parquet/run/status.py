"""How far a run is, for a command line: `make status`."""

import gc
import sys
from collections.abc import Sequence
from pathlib import Path

from desi_fits_to_parquet.run.summary import summarize_results
from desi_fits_to_parquet.run.wording import summary_lines
from desi_fits_to_parquet.text import neutral


def main(arguments: Sequence[str]) -> int:
    """Print the summary of a results folder, by default that of `config/config.yaml`."""
    if arguments:
        results = Path(arguments[0])
    else:
        import yaml

        results = Path(yaml.safe_load(Path("config/config.yaml").read_text())["results"])
    if not results.is_dir():
        message = f"{results}: no such folder; name the results: make status RESULTS=..."
        print(message)  # noqa: T201  (what a command line is for)
        return 2
    gc.disable()  # looking for garbage among the rows takes longer than reading a tenth of them
    try:
        text = "\n".join(summary_lines(summarize_results(results)))
        print(text, flush=True)  # noqa: T201  (its only output)
    except BrokenPipeError:  # `make status | head -1`
        sys.stdout = None
    except (OSError, ValueError) as error:  # a list or a marker that somebody cut
        print(neutral(str(error)))  # noqa: T201  (likewise)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
