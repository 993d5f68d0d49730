"""Telling people of a run through Apprise: Slack, e-mail, Teams, Matrix, webhooks by one URL each.

The URLs hold passwords. They come from the environment or from a file outside the repository, and
go to the process that sends (`python -m desi_fits_to_parquet.run.notify`) through its standard
input.
What that process and its libraries write goes nowhere, so no log can hold a URL; it is killed when
it takes too long, so no server can hold up a run.
"""

import json
import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from desi_fits_to_parquet.run.summary import Summary
from desi_fits_to_parquet.run.wording import outage_text, summary_lines
from desi_fits_to_parquet.settings import NotifySettings

VARIABLE = "DESI_NOTIFY_URLS"
"""Environment variable that holds Apprise URLs, separated by blanks or lines."""

SEND_S = 20.0
"""So long may one notification take, to all its addresses."""

SHARE_OF = 20
"""A share of failures is taken of at least so many tiles (or all, where a run has fewer)."""

PROJECT = "desi-fits-to-parquet"


class NotifyError(Exception):
    """The addresses cannot be had; the message says why and holds none of them."""


class Notice(NamedTuple):
    """One notification."""

    kind: Literal["info", "success", "warning", "failure"]
    title: str
    body: str


class Told(NamedTuple):
    """What was told of a run already.

    Attributes
    ----------
    since
        Unix seconds when the number of its tiles was known first.
    percent
        Milestones reached: whole multiples of `every_percent`.
    failing, slow, waiting
        Whether the alert was given and still holds.
    """

    since: float | None = None
    percent: int = 0
    failing: bool = False
    slow: bool = False
    waiting: bool = False


def read_addresses(
    urls_file: str | None, environment: Mapping[str, str], repository: Path
) -> list[str]:
    """Read the Apprise URLs from the environment variable `DESI_NOTIFY_URLS` and from a file.

    Parameters
    ----------
    urls_file
        A file with one URL a line (`#` begins a comment), or None.
    environment
        Of this process.
    repository
        Folder in which the file must not lie.

    Raises
    ------
    NotifyError
        Where the file cannot be read or lies in the repository.
    """
    addresses = environment.get(VARIABLE, "").split()
    if urls_file is None:
        return addresses
    if "://" in urls_file:
        raise NotifyError(
            "notify.urls_file holds a URL (not shown here); it must name a file that holds it, "
            f"or leave it null and put the URL into the environment variable {VARIABLE}"
        )
    path = Path(urls_file).expanduser()
    if path.resolve().is_relative_to(repository.resolve()):
        raise NotifyError(
            f"notify.urls_file names {urls_file}, which lies in the repository, where it could be "
            "committed; move it, for example to ~/.config, and make it readable by you alone"
        )
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise NotifyError(f"notify.urls_file names {urls_file}, which cannot be read: "
                          f"{type(error).__name__}") from None  # fmt: skip
    found = [line.strip() for line in lines if line.strip() and not line.strip().startswith("#")]
    return addresses + found


def due_notices(
    summary: Summary, told: Told, settings: NotifySettings
) -> tuple[list[Notice], Told]:
    """Say what is to be told now: milestones, too many failures, too little speed, outages.

    Parameters
    ----------
    summary
        The state of the run.
    told
        What was told before.
    settings
        Section `notify` of the configuration.

    Returns
    -------
    notices : list of Notice
        To be sent.
    told : Told
        For the next call.
    """
    run = summary.run
    notices = []
    if summary.outage and not told.waiting:
        notices.append(_notice("warning", outage_text(summary.outage), summary))
    if told.waiting and not summary.outage:
        notices.append(_notice("info", "the archive answers again", summary))
    told = told._replace(waiting=summary.outage is not None)
    if run is None or run.to_do is None or summary.left is None:
        return notices, told
    done = run.to_do - summary.left
    told = told._replace(since=summary.now if told.since is None else told.since)

    every = settings["every_percent"]
    percent = int(100 * done / run.to_do / every) if every and run.to_do else 0
    if percent > told.percent and summary.left:
        title = f"{done:,} of {run.to_do:,} tiles done ({100 * done / run.to_do:.0f} %)"
        notices.append(_notice("info", title, summary))
    told = told._replace(percent=percent)

    failing = too_many_failed(summary, settings["failed_percent"])
    if failing and not told.failing:
        notices.append(_notice("failure", failure_text(summary, settings), summary))
    told = told._replace(failing=failing)

    slow = False
    least = settings["min_mb_s"]
    if (
        least
        and summary.left
        and not summary.outage
        and summary.now - (told.since or 0) >= run.recent_s
    ):
        speed = summary.mb_per_s[0] if summary.mb_per_s else 0.0
        slow = speed < least
        if slow and not told.slow:
            title = f"only {speed:.2g} MB/s, less than notify.min_mb_s = {least:g}"
            notices.append(_notice("warning", title, summary))
    return notices, told._replace(slow=slow)


def too_many_failed(summary: Summary, percent: float | None) -> bool:
    """Say whether more than that share of this run's tiles failed or crashed.

    One failure among the first few tiles is no share yet: it is taken of at least `SHARE_OF` tiles.
    """
    run = summary.run
    if percent is None or run is None:
        return False
    least = SHARE_OF if run.to_do is None else min(run.to_do, SHARE_OF)
    return summary.failed > percent / 100 * max(summary.done + run.crashed, least)


def failure_text(summary: Summary, settings: NotifySettings) -> str:
    """Name the share of failures and the limit that it passed."""
    count = summary.done + (summary.run.crashed if summary.run else 0)
    return (
        f"{summary.failed:,} of {count:,} tiles failed ({100 * summary.failed / count:.1f} %), "
        f"more than notify.failed_percent = {settings['failed_percent']:g}"
    )


def start_notice(summary: Summary, what: str) -> Notice:
    """Tell that a run began; `what` says what is asked of it."""
    return _notice("info", "run started", summary, what)


def end_notice(summary: Summary) -> Notice:
    """Tell how a run ended, with its totals."""
    good = not summary.left and not (summary.run and summary.run.crashed)
    kind: Literal["success", "failure"] = "success" if good else "failure"
    how = summary.run.ended if summary.run and summary.run.ended else "ended"
    return _notice(kind, how, summary)


def _notice(
    kind: Literal["info", "success", "warning", "failure"],
    title: str,
    summary: Summary,
    *more: str,
) -> Notice:
    return Notice(kind, f"{PROJECT}: {title}", "\n".join([*more, *summary_lines(summary)]))


class Sender:
    """Sends notifications one after the other, beside the run.

    Parameters
    ----------
    addresses
        Apprise URLs; without any, nothing is ever sent.
    complain
        Called with a sentence where a notification was not delivered; it names no address.
    """

    def __init__(self, addresses: Sequence[str], complain: Callable[[str], None]) -> None:
        self._addresses = list(addresses)
        self._complain = complain
        self._waiting: queue.SimpleQueue[Notice | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._send_all, name="notify", daemon=True)
        if addresses:
            self._thread.start()

    def send(self, notice: Notice) -> None:
        """Put a notification into the line; returns at once."""
        if self._addresses:
            self._waiting.put(notice)

    def finish(self, patience_s: float = 2 * SEND_S) -> None:
        """Wait until all are sent, but not longer than that."""
        if self._thread.is_alive():
            self._waiting.put(None)
            self._thread.join(patience_s)

    def _send_all(self) -> None:
        while (notice := self._waiting.get()) is not None:
            problem = send_notice(notice, self._addresses)
            if problem:
                self._complain(f"notification '{notice.title}': {problem}")


def send_notice(notice: Notice, addresses: Sequence[str], patience_s: float = SEND_S) -> str | None:
    """Send one notification in a process of its own.

    Returns
    -------
    str or None
        What went wrong, without any address; None where all received it.
    """
    message = json.dumps({"addresses": list(addresses), **notice._asdict()})
    try:
        done = subprocess.run(  # noqa: S603  (our own module)
            [sys.executable, "-m", __name__],
            input=message.encode(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=patience_s,
            start_new_session=True,  # Ctrl-C ends the run, not the message that says so
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"not delivered within {patience_s:g} s"
    except OSError as error:
        return f"could not be sent: {error.strerror}"
    return _PROBLEMS.get(done.returncode, "could not be sent")


_PROBLEMS = {
    0: None,
    3: f"an address in {VARIABLE} or notify.urls_file is none that Apprise understands",
    4: "not delivered to every address; `apprise -vv` with that address says why",
}


def main() -> int:
    """Send the message that stands on standard input."""
    import apprise

    message = json.load(sys.stdin)
    server = apprise.Apprise()
    understood = [server.add(address) for address in message["addresses"]]
    sent = server.notify(
        body=message["body"],
        title=message["title"],
        notify_type=message["kind"],
        body_format=apprise.NotifyFormat.TEXT,
    )
    if not all(understood):
        return 3
    return 0 if sent else 4


if __name__ == "__main__":
    sys.exit(main())
