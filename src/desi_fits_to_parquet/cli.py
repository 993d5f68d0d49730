"""The command `desi-fits-to-parquet`: each subcommand is a function here that adds itself."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from desi_fits_to_parquet import __version__


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return the exit code.

    Parameters
    ----------
    arguments
        Those of the command line by default.

    Returns
    -------
    int
        0 where all went well; 1 where it did not, with a sentence on stderr; 2 where the arguments
        are wrong (by `argparse`).
    """
    parser = argparse.ArgumentParser(
        prog="desi-fits-to-parquet", description="DESI spectra as Parquet: what is there to do."
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for add in (_add_serve,):
        add(commands)
    given = vars(parser.parse_args(arguments))
    run = given.pop("run")
    try:
        return int(run(**given))
    except KeyboardInterrupt:
        return 130


def _add_serve(commands: Any) -> None:
    parser = commands.add_parser(
        "serve",
        help="show the results in a browser",
        description="Serve a results folder and the explorer on this machine, until Ctrl-C.",
        epilog="example: desi-fits-to-parquet serve results/demo --open",
    )
    parser.add_argument("results", type=Path, help="folder of the results")
    parser.add_argument("--port", type=int, default=8765, help="0: any free one (default: 8765)")
    parser.add_argument("--open", action="store_true", help="open the page in a browser")
    parser.set_defaults(run=_serve)


def _serve(results: Path, port: int, open: bool) -> int:
    import webbrowser

    from desi_fits_to_parquet.explorer.serve import make_server, page_address
    from desi_fits_to_parquet.paths import COLLECTION

    if not (results / COLLECTION).is_file():
        return _stop(
            f"{results / COLLECTION} is not there: name a results folder whose run has ended"
        )
    try:
        server = make_server(results, port)
    except (OSError, OverflowError) as error:
        return _stop(f"port {port} cannot be used ({error}): choose another with --port")
    with server:
        address = page_address(server)
        print(f"{results} is at {address} (Ctrl-C ends)", flush=True)  # noqa: T201  (its output)
        if open:
            webbrowser.open(address)
        server.serve_forever()
    return 0


def _stop(sentence: str) -> int:
    print(sentence, file=sys.stderr)  # noqa: T201  (for the person who typed the command)
    return 1
