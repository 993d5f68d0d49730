"""The command `desi-fits-to-parquet`: each subcommand is a function here that adds itself.

What a subcommand needs is imported when it runs: `--help` and completion are there at once.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from desi_fits_to_parquet import __version__
from desi_fits_to_parquet.command.stopped import Stopped
from desi_fits_to_parquet.paths import EXPLORER_PORT
from desi_fits_to_parquet.tile import LAYOUTS

PROGRAM = "desi-fits-to-parquet"

EXIT_CODES = """\
exit codes:
  0    all went well
  1    it did not: a sentence on stderr says what, where and what to do; of run, verify and
       retry-failed: a job failed, or verify found something
  2    the command line is wrong
  130  Ctrl-C, 143  SIGTERM
"""

SHELLS = ("bash", "zsh", "tcsh")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return the exit code.

    Parameters
    ----------
    arguments
        Those of the command line by default.

    Returns
    -------
    int
        See `EXIT_CODES`; `argparse` itself ends with 2 where the arguments are wrong.
    """
    given = vars(make_parser().parse_args(arguments))
    run = given.pop("run")
    try:
        return int(run(**given))
    except Stopped as stopped:
        print(stopped, file=sys.stderr)  # noqa: T201  (for the person who typed the command)
        return 1
    except ModuleNotFoundError as missing:
        print(_missing(missing), file=sys.stderr)  # noqa: T201  (likewise)
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # `... | head -1`
        sys.stdout = None
        return 0


def _missing(error: ModuleNotFoundError) -> str:
    """Say what to do where the package was installed for its reader alone."""
    name = (error.name or "").partition(".")[0]
    if name == __name__.partition(".")[0]:
        raise error
    return (
        f"{name} is not installed, which this command needs: pip install desi-fits-to-parquet (not "
        "--no-deps), or in a clone make env, then .venv/bin/desi-fits-to-parquet"
    )


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command line."""
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description="DESI spectra as Parquet that a laptop can query.",
        epilog=f"""\
examples:
  {PROGRAM} demo                             convert a small simulated archive, in a minute
  {PROGRAM} run --config sample=40           40 tiles of DESI's DR1
  {PROGRAM} status                           how far it is, from another shell
  {PROGRAM} serve results --open             look at the spectra in a browser
  {PROGRAM} show 39627279873081363           one spectrum in this terminal
  {PROGRAM} COMMAND --help                   more of each

{EXIT_CODES}""",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for add in (
        *(_add_demo, _add_run, _add_status, _add_verify, _add_retry_failed),
        *(_add_serve, _add_show, _add_info, _add_convert_tile, _add_completion),
    ):
        add(commands)
    return parser


def _add(
    commands: Any, name: str, run: Callable[..., int], help: str, text: str, *examples: str,
    **options: Any,
) -> argparse.ArgumentParser:  # fmt: skip
    """Add a subcommand: one line in the list of all, a text and examples in its own help."""
    lines = "".join(f"  {PROGRAM} {name} {example}".rstrip() + "\n" for example in examples)
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=help,
        description=text,
        epilog=f"examples:\n{lines}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        **options,
    )
    parser.set_defaults(run=run)
    return parser


def _add_demo(commands: Any) -> None:
    parser = _add(
        commands, "demo", _demo, "convert a small simulated archive",
        "Simulate a small archive, serve it on this machine and run the real workflow on it; the\n"
        "results are below results/demo. Needs no network and a minute or two.",
        "", "--layout uniqpix",
    )  # fmt: skip
    parser.add_argument(
        "--layout", choices=[*LAYOUTS], default="healpix",
        help="how the archive is laid out: healpix as up to DR2 (default), uniqpix as from DR3",
    )  # fmt: skip


def _demo(layout: str) -> int:
    from desi_fits_to_parquet.simulate.demo import main as demo

    return demo(["--layout", layout])


# Options of Snakemake go through as they are: with these prefix characters nothing typed is an
# option of the subcommand itself.
_ALL_THROUGH: dict[str, Any] = {"add_help": False, "prefix_chars": "\0"}


def _add_run(commands: Any) -> None:
    parser = _add(
        commands, "run", _through(_snakemake), "convert an archive, or go on with it",
        "Snakemake with this project's Snakefile and profile, in the present folder: all that\n"
        "follows is given to it, and its exit code is returned. Of a file config/... that is not\n"
        "here, the one that comes with this project is taken: config/config.yaml (the default),\n"
        "quasars.yaml, galaxies.yaml, stars.yaml, everything.yaml, releases/dr2.yaml and others.\n"
        "The same command again goes on after an interruption.",
        "--cores 8 --config sample=40", "--cores 8 --configfile config/quasars.yaml",
        "--dry-run", "--report report.html", "--workflow-profile slurm",
        **_ALL_THROUGH,
    )  # fmt: skip
    _add_through(parser, "options of Snakemake (snakemake --help)")


def _add_verify(commands: Any) -> None:
    parser = _add(
        commands, "verify", _through(_target, "verify"), "compare every Parquet with its checksum",
        "Compare every Parquet of the results with the checksum in its marker, and clear what is\n"
        "missing or altered, so that the next run makes it again. Ends with 1 where it found any.",
        "", "results/demo", "--config results=results/bright",
        **_ALL_THROUGH,
    )  # fmt: skip
    _add_through(parser, "the results folder (default: that of the configuration), then options")


def _add_retry_failed(commands: Any) -> None:
    parser = _add(
        commands, "retry-failed", _through(_target, "retry_failed"), "clear the tiles that failed",
        "List the folders of the failed tiles anew and clear these tiles, so that the next run\n"
        "does them again. Takes the options of the run, such as --configfile.",
        "", "results/bright", "--configfile config/quasars.yaml",
        **_ALL_THROUGH,
    )  # fmt: skip
    _add_through(parser, "the results folder (default: that of the configuration), then options")


def _add_through(parser: argparse.ArgumentParser, help: str) -> None:
    parser.add_argument("arguments", nargs=argparse.REMAINDER, metavar="ARGUMENT", help=help)
    parser.set_defaults(parser=parser)


def _through(act: Callable[..., int], *first: str) -> Callable[..., int]:
    """Return what runs a subcommand whose arguments are Snakemake's, but for its own `--help`."""

    def run(arguments: list[str], parser: argparse.ArgumentParser) -> int:
        if arguments[:1] in (["-h"], ["--help"]):
            parser.print_help()
            return 0
        return act(*first, arguments)

    return run


def _snakemake(arguments: list[str]) -> int:
    from desi_fits_to_parquet.command.snakemake import run_snakemake

    run_snakemake(arguments)


def _target(target: str, arguments: list[str]) -> int:
    from desi_fits_to_parquet.command.snakemake import target_arguments
    from desi_fits_to_parquet.run.repair import NoRun, check_results

    if arguments and not arguments[0].startswith("-"):
        try:
            check_results(Path(arguments[0]))
        except NoRun as error:
            raise Stopped(str(error)) from error
    return _snakemake(target_arguments(target, arguments))


def _add_status(commands: Any) -> None:
    parser = _add(
        commands, "status", _status, "say how far a run is, also from another shell",
        "Count the tiles of a results folder by their outcome, and say how fast a run goes that\n"
        "is under way.",
        "", "results/demo",
    )  # fmt: skip
    parser.add_argument(
        "results", type=Path, nargs="?",
        help="folder of the results (default: that of config/config.yaml, or results)",
    )  # fmt: skip


def _status(results: Path | None) -> int:
    from desi_fits_to_parquet.run.status import main as status

    if results is None and not Path("config/config.yaml").is_file():
        results = Path("results")
    if results and not results.is_dir():
        raise Stopped(f"{results}: no such folder; name that of the results")
    return min(status([str(results)] if results else []), 1)


def _add_serve(commands: Any) -> None:
    parser = _add(
        commands, "serve", _serve, "show the results in a browser",
        "Serve a results folder and the explorer on this machine, until Ctrl-C.",
        "results/demo --open",
    )  # fmt: skip
    parser.add_argument("results", type=Path, help="folder of the results")
    parser.add_argument(
        "--port",
        type=int,
        default=EXPLORER_PORT,
        help=f"0: any free one (default: {EXPLORER_PORT})",
    )
    parser.add_argument("--open", action="store_true", help="open the page in a browser")


def _serve(results: Path, port: int, open: bool) -> int:
    import webbrowser

    from desi_fits_to_parquet.explorer.serve import make_server, page_address
    from desi_fits_to_parquet.paths import COLLECTION

    if not (results / COLLECTION).is_file():
        raise Stopped(
            f"{results / COLLECTION} is not there: name a results folder whose run has ended"
        )
    try:
        server = make_server(results, port)
    except (OSError, OverflowError) as error:
        raise Stopped(
            f"port {port} cannot be used ({error}): choose another with --port"
        ) from error
    with server:
        address = page_address(server)
        _print(f"{results} is at {address} (Ctrl-C ends)")
        if open:
            webbrowser.open(address)
        server.serve_forever()
    return 0


def _add_show(commands: Any) -> None:
    parser = _add(
        commands, "show", _show, "draw the spectrum of a target",
        "Draw the spectrum of a TARGETID with characters in this terminal, or as a picture. Of a\n"
        "target in several surveys and programs, the best spectrum.",
        "39627279873081363", "39627279873081363 --results results/demo --png quasar.png",
        "39627279873081363 --results https://data.example.org/desi/dr1",
        "39627279873081363 --where \"program = 'bright'\"",
    )  # fmt: skip
    parser.add_argument(
        "targetid", type=int, metavar="TARGETID", help="DESI's number of the target"
    )
    parser.add_argument(
        "--results", default="results",
        help="folder of the results, s3://bucket/prefix or https://... (default: results)",
    )  # fmt: skip
    parser.add_argument(
        "--png", type=Path, metavar="FILE", help="write a picture (.png, .pdf, .svg)"
    )
    parser.add_argument(
        "--smooth", type=int, default=5, metavar="PIXELS",
        help="pixels that the picture averages over (default: 5)",
    )  # fmt: skip
    parser.add_argument("--where", help="condition in SQL that chooses among several spectra")


def _show(targetid: int, results: str, png: Path | None, smooth: int, where: str | None) -> int:
    import shutil

    from desi_fits_to_parquet.command.show import describe, draw_text, find_spectrum, save_picture

    spectrum, count = find_spectrum(results, targetid, where)
    if png:
        save_picture(spectrum, png, smooth)
        _print(str(png))
    else:
        _print(draw_text(spectrum, shutil.get_terminal_size().columns))
    _print(describe(spectrum))
    if count > 1:
        _print(f"The best of {count} spectra; --where \"program = '...'\" chooses another.")
    return 0


def _add_info(commands: Any) -> None:
    parser = _add(
        commands, "info", _info, "say what a Parquet holds and where it came from",
        "What a Parquet file of this project holds, which files of the archive it came from, with\n"
        "which settings, and its checksums.",
        "results/demo/parquet/*/dataset/*/*/*/main-dark-10000.parquet", "FILE --columns",
        "FILE --json",
    )  # fmt: skip
    parser.add_argument(
        "files", type=Path, metavar="FILE", nargs="+", help="a tile's file, or the catalogue's"
    )
    parser.add_argument("--columns", action="store_true", help="each column, its unit and meaning")
    parser.add_argument("--json", action="store_true", help="everything, a JSON object a line")


def _info(files: list[Path], columns: bool, json: bool) -> int:
    from json import dumps

    from desi_fits_to_parquet.command.info import info_lines, read_info

    for file in files:
        info = read_info(file)
        _print(dumps(info) if json else "\n".join(info_lines(info, columns)))
    return 0


def _add_convert_tile(commands: Any) -> None:
    parser = _add(
        commands, "convert-tile", _convert_tile, "convert one tile's FITS on this disk",
        "Convert the FITS of one tile, in a folder under their DESI names such as\n"
        "redrock-main-dark-10000.fits, to Parquet, and compare it with them; no Snakemake, no\n"
        "network. The same settings as in a run decide what is selected and how it is rounded.",
        "healpix/main/dark/100/10000", "healpix/main/dark/100/10000 --output quasars.parquet",
        "FOLDER --configfile config/galaxies.yaml --set precision.mode=lossless",
    )  # fmt: skip
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="folder of the tile's FITS")
    parser.add_argument(
        "--output", "-o", type=Path, default=Path(),
        help="folder of the Parquet, or its name (default: this folder)",
    )  # fmt: skip
    parser.add_argument(
        "--configfile", type=Path, nargs="+", default=[], help="settings that are not the defaults"
    )
    parser.add_argument(
        "--set", nargs="+", default=[], metavar="NAME=VALUE", help="single settings, over those"
    )


def _convert_tile(folder: Path, output: Path, configfile: list[Path], set: list[str]) -> int:
    from desi_fits_to_parquet.command.convert import convert_tile, marker_text, read_settings

    marker, path = convert_tile(folder, output, read_settings(configfile, set))
    if marker["sha256"] is None:
        raise Stopped(marker_text(marker, path))
    _print(marker_text(marker, path))
    return 0


def _add_completion(commands: Any) -> None:
    parser = _add(
        commands, "completion", _completion, "print what completes this command in a shell",
        "Print the completion of this command for a shell.",
        "bash > ~/.local/share/bash-completion/completions/desi-fits-to-parquet",
        "zsh > ~/.zfunc/_desi-fits-to-parquet",
    )  # fmt: skip
    parser.add_argument("shell", choices=SHELLS, help="whose")


def _completion(shell: str) -> int:
    import shtab

    parser = make_parser()
    (commands,) = (a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
    for command in commands.choices.values():
        for action in command._actions:
            if action.type is Path or action.dest in ("results", "arguments"):
                action.complete = shtab.FILE  # how shtab is told
    _print(shtab.complete(parser, shell))
    return 0


def _print(text: str) -> None:
    print(text, flush=True)  # noqa: T201  (its output)
