"""Measure how long the void example takes for 1.5 million objects.

Run by `make benchmark-voids`. Writes results/benchmark/voids.json and prints the same as a table.
The objects fill a quarter of the sky to z = 0.24 evenly, the spheres too; each number of spheres is
a process of its own, in which scipy's KD-tree then does the same. A sample of the objects is
compared with brute force.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from needs import check_needs

from desi_fits_to_parquet.files import write_json

REPOSITORY = Path(__file__).resolve().parents[1]

OBJECTS = 1_500_000

SPHERES = (5_000, 50_000, 300_000)

GOALS: dict[str, tuple[str, Callable[[float], bool], str]] = {
    "voids_300000_s": ("<= 15", lambda v: v <= 15, "1.5 million objects against 300,000 spheres"),
    "voids_300000_mib": ("<= 1907", lambda v: v <= 1907, "peak memory of that (2 GB)"),
}
"""Figures asked for: goal, test, meaning."""

MEASURE = """
import json, sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import numpy as np
import pyarrow as pa
from match_voids import deepest_sphere

objects, spheres = int(sys.argv[2]), int(sys.argv[3])
rng = np.random.default_rng(4)

def places(count):
    r = np.cbrt(rng.uniform(90**3, 687**3, count))
    way = rng.standard_normal((count, 3))
    way[:, 1:] = np.abs(way[:, 1:])
    return way / np.linalg.norm(way, axis=1)[:, None] * r[:, None]

xyz, centre = places(objects), places(spheres)
radius = np.clip(rng.normal(12, 4, spheres), 5, 25)
started, cpu = time.monotonic(), time.process_time()
found = deepest_sphere(xyz, pa.table([*centre.T, radius], ["x", "y", "z", "radius"]))
seconds, cpu = time.monotonic() - started, time.process_time() - cpu
status = Path("/proc/self/status").read_text().split()
mib = int(status[status.index("VmHWM:") + 1]) / 1024
inside = np.zeros(objects, bool)
inside[found["place"]] = True
some = rng.permutation(objects)[:500]
depth = (radius - np.linalg.norm(xyz[some, None] - centre, axis=2)).max(axis=1)
assert ((depth >= 0) == inside[some]).all()

from scipy.spatial import KDTree
started = time.monotonic()
tree = KDTree(xyz)
member = np.zeros(objects, bool)
for first in range(0, spheres, 10_000):
    here = slice(first, first + 10_000)
    for near in tree.query_ball_point(centre[here], radius[here], workers=-1):
        member[near] = True
tree_s = time.monotonic() - started
assert (member == inside).all()
measured = {"s": seconds, "cpu_s": cpu, "mib": mib, "tree_s": tree_s}
print(json.dumps({**measured, "inside": int(inside.sum())}))
"""


def main() -> None:
    """Measure everything, print it, write it."""
    check_needs(1, Path(tempfile.gettempdir()))
    figures: dict[str, float] = {}
    for spheres in SPHERES:
        command = [
            sys.executable, "-c", MEASURE, str(REPOSITORY / "examples/voids"),
            str(OBJECTS), str(spheres),
        ]  # fmt: skip
        measured = json.loads(subprocess.check_output(command))
        figures |= {f"voids_{spheres}_{name}": value for name, value in measured.items()}
    for key, (goal, reached, meaning) in GOALS.items():
        verdict = "reached" if reached(figures[key]) else "MISSED"
        print(f"{key:24} {figures[key]:12.5g}  goal {goal:9} {verdict:8} {meaning}")
    for key in sorted(set(figures) - set(GOALS)):
        print(f"{key:24} {figures[key]:12.5g}")
    path = REPOSITORY / "results/benchmark/voids.json"
    write_json(path, figures)
    print(f"written to {path.relative_to(REPOSITORY)}")


if __name__ == "__main__":
    main()
