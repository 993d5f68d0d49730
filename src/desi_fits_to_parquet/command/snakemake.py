"""The workflow by Snakemake, wherever this package is installed."""

import importlib.util
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from desi_fits_to_parquet.run.stop import COMMAND, command_text
from desi_fits_to_parquet.workflow import workflow_folder

_SNAKEFILE = ("-s", "--snakefile")
_CONFIGFILE = ("--configfile", "--configfiles")
_CONFIG = ("-C", "--config")


def run_snakemake(arguments: Sequence[str]) -> NoReturn:
    """Become Snakemake with this project's Snakefile: signals and exit code are its own.

    Parameters
    ----------
    arguments
        Snakemake's; see `complete`.

    Raises
    ------
    ModuleNotFoundError
        Where Snakemake is not installed.
    """
    if importlib.util.find_spec("snakemake") is None:
        raise ModuleNotFoundError("No module named 'snakemake'", name="snakemake")
    sys.stdout.flush()
    os.environ.setdefault(COMMAND, command_text())  # what goes on with a run that was stopped
    command = [sys.executable, "-m", "snakemake", *complete(arguments, workflow_folder())]
    os.execv(sys.executable, command)  # noqa: S606  (what the user typed, without a shell)


def complete(arguments: Sequence[str], workflow: Path) -> list[str]:
    """Return Snakemake's arguments with the Snakefile, and the configurations that come with it.

    Parameters
    ----------
    arguments
        As typed. A Snakefile among them stays. A file behind `--configfile` that is not there is
        looked for among those of the workflow.
    workflow
        The folder of the workflow.
    """
    completed = list(arguments)
    for place, argument in enumerate(completed):
        option, equals, value = argument.partition("=")
        if equals and option in _CONFIGFILE:
            completed[place] = f"{option}={_find_config(value, workflow)}"
        elif argument in _CONFIGFILE:
            for behind in range(place + 1, len(completed)):
                if completed[behind].startswith("-"):
                    break
                completed[behind] = _find_config(completed[behind], workflow)
    if not any(argument.partition("=")[0] in _SNAKEFILE for argument in arguments):
        completed = ["--snakefile", str(workflow / "Snakefile"), *completed]
    return completed


def _find_config(name: str, workflow: Path) -> str:
    packed = workflow / name
    return str(packed) if packed.is_file() and not Path(name).exists() else name


def target_arguments(target: str, arguments: Sequence[str]) -> list[str]:
    """Return Snakemake's arguments for a target: a folder that comes first is that of the results.

    Parameters
    ----------
    target
        Name of a rule.
    arguments
        As typed: `[RESULTS] [options of Snakemake]`.
    """
    if not arguments or arguments[0].startswith("-"):
        return [target, *arguments]
    results, *rest = arguments
    for place, argument in enumerate(rest):
        if argument in _CONFIG:  # Snakemake takes the last one alone
            return [target, *rest[: place + 1], f"results={results}", *rest[place + 1 :]]
    return [target, *rest, "--config", f"results={results}"]
