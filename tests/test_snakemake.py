"""What is begun is finished first, however few of the ready jobs are looked at."""

from typing import NamedTuple

from desi_fits_to_parquet.run.snakemake import choose_followers_too


class Job(NamedTuple):
    stage: str
    tile: int

    @property
    def priority(self) -> int:
        return {"download": 0, "fuse": 10, "validate": 20}[self.stage]


class Graph(NamedTuple):
    """Snakemake's graph of some tiles, as far as it is used."""

    ready_jobs: set[Job]
    depending: dict[Job, list[Job]]

    def finish(self, job: Job) -> None:
        """Make the next job of the tile ready."""
        if job.stage != "validate":
            self.ready_jobs.add(self.depending[job][0])


def graph_of(tiles: range) -> Graph:
    depending = {}
    for tile in tiles:
        fuse, validate = Job("fuse", tile), Job("validate", tile)
        depending |= {Job("download", tile): [fuse, validate], fuse: [validate]}
    return Graph({Job("download", tile) for tile in tiles}, depending)


def test_tile_that_is_begun_is_finished_before_another_is():
    graph, running = graph_of(range(1000)), set[Job]()
    order = []

    def best(jobs: set[Job]) -> list[Job]:
        return [max(jobs, key=lambda job: job.priority)]

    choose = choose_followers_too(best, graph, running)
    for _ in range(30):
        fresh = next(job for job in graph.ready_jobs if job.stage == "download")
        (job,) = choose({fresh})
        graph.ready_jobs.remove(job)
        running.add(job)
        order.append(job)
        running.remove(job)
        graph.finish(job)
    stages = [job.stage for job in order]
    assert stages == ["download", "fuse", "validate"] * 10
    assert [order[i].tile for i in range(0, 30, 3)] == [order[i].tile for i in range(2, 30, 3)]


def test_tiles_that_a_run_before_left_half_done_come_first():
    graph, seen = graph_of(range(100)), []
    left = {Job("fuse", 500), Job("validate", 501)}
    graph.ready_jobs.update(left)

    def none(jobs: set[Job]) -> list[Job]:
        seen.append(jobs)
        return []

    choose_followers_too(none, graph, set())({Job("download", 3)})
    assert seen == [{Job("download", 3), *left}]


def test_job_that_failed_is_forgotten_and_its_followers_never_offered():
    graph, offered = graph_of(range(3)), []

    def first(jobs: set[Job]) -> list[Job]:
        offered.append(set(jobs))
        return sorted(jobs)[:1]

    choose = choose_followers_too(first, graph, set())
    choose({Job("download", 0)})
    graph.ready_jobs.remove(Job("download", 0))  # it fails: nothing becomes ready
    choose({Job("download", 1)})
    graph.ready_jobs.add(Job("fuse", 0))  # not by its doing, and so not in the sample either
    choose({Job("download", 2)})
    assert offered[1:] == [{Job("download", 1)}, {Job("download", 2)}]
