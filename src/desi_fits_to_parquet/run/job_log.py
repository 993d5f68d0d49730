"""The log of one job: one JSON object a line, so that `grep` and DuckDB both read it.

Each line has `time` (UTC), `level`, `stage`, `tile`, `event` and `cpu_s`; if there are, `figures`;
after a crash `error`, the class of the exception, and `traceback`. `docs/logs.md` shows its use.
"""

import json
import logging
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

from desi_fits_to_parquet.text import neutral

LOGGER = "desi_fits_to_parquet"


class _JsonLines(logging.Formatter):
    def __init__(self, stage: str, tile: str) -> None:
        super().__init__()
        self.fixed = {"stage": stage, "tile": tile}

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(record.created)),
            "level": record.levelname.lower(),
            **self.fixed,
            "event": record.getMessage(),
            "cpu_s": round(time.process_time(), 3),
        }
        if figures := getattr(record, "figures", None):
            line["figures"] = figures
        if record.exc_info:
            line["error"] = getattr(record.exc_info[0], "__name__", "")
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


class _Neutral(logging.Formatter):
    """For a terminal: messages may quote files and servers."""

    def format(self, record: logging.LogRecord) -> str:
        return neutral(super().format(record))


def _print_neutral(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    """Print what ends the process as Python does, but with nothing in it that a terminal obeys."""
    text = "".join(traceback.format_exception(kind, error, trace))
    print("\n".join(map(neutral, text.rstrip().split("\n"))), file=sys.stderr)  # noqa: T201


@contextmanager
def job_log(path: str | Path, stage: str, tile: str = "") -> Iterator[logging.Logger]:
    """Write what the job logs to `path`; an exception is logged there, then raised on.

    The first line says `started`: a log that ends without `done` and without `error` is that of a
    job that was killed. Figures go along as
    `logger.info("fetched", extra={"figures": {"bytes": 10}})`. Warnings and errors are shown on
    standard error too.

    Parameters
    ----------
    path
        The log's file, begun anew: it tells of the last try.
    stage
        Name of the rule.
    tile
        Name of the tile, empty for a job that concerns all.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    file = logging.FileHandler(path, mode="w")
    file.setFormatter(_JsonLines(stage, tile))
    screen = logging.StreamHandler(sys.stderr)
    screen.setLevel(logging.WARNING)
    screen.setFormatter(_Neutral(f"{stage} {tile}: %(message)s".replace(" :", ":")))
    logger = logging.getLogger(LOGGER)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    logger.handlers = [file, screen]
    logger.info("started")
    try:
        yield logger
    except Exception:
        screen.setLevel(logging.CRITICAL)  # the traceback is printed as the process ends
        sys.excepthook = _print_neutral
        logger.exception("the job crashed")
        raise
    finally:
        logger.handlers = []
        file.close()
