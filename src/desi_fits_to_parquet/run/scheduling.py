"""Which ready jobs Snakemake chooses from: those that finish a tile that is begun, before others.

To choose among 30,000 ready jobs takes too long, so Snakemake draws some at random and only then
looks at their priorities (`--scheduler-subsample`). A tile that was fetched then waits until it is
drawn: with a sample of a tenth, ten tiles of FITS wait on disk for each that is being worked on.
Here the jobs that follow upon those that were started are added to each sample.
"""

from collections.abc import Callable, Collection, Sequence
from typing import Any

Job = Any
"""A job of Snakemake's, of which the library knows no more than that it has a `priority`."""

Choice = Callable[[set[Job]], Sequence[Job]]
"""Chooses those of some ready jobs that are to be started now."""


def choose_followers_too(choose: Choice, graph: Any, running: Collection[Job]) -> Choice:
    """Return a function that chooses as `choose` does, from more jobs.

    Parameters
    ----------
    choose
        Snakemake's own choice.
    graph
        Snakemake's graph: its `ready_jobs`, which change as jobs finish, and for each job those
        `depending` on it.
    running
        The jobs that were started and did not finish yet.
    """
    waiting = {job for job in graph.ready_jobs if job.priority}  # left by a run before
    started: set[Job] = set()

    def choose_more(sample: set[Job]) -> Sequence[Job]:
        nonlocal started, waiting
        ready = graph.ready_jobs
        for job in started:
            waiting.update(graph.depending.get(job, ()))
        waiting = {job for job in waiting if job in ready}
        chosen = choose(sample | waiting)
        started = {job for job in started if job in running}.union(chosen)
        return chosen

    return choose_more
