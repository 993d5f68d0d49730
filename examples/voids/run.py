"""The whole example, without a network: convert the demo's bright galaxies, match them with voids.

    python examples/voids/run.py        (in the project's folder; half a minute)

The galaxies go to results/demo-galaxies, a simulated void catalogue and what comes out to
results/voids.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import match_voids
from astropy.cosmology import FlatLambdaCDM

from desi_fits_to_parquet import open_catalog
from desi_fits_to_parquet.simulate.archive import DEMO_BRIGHT, DEMO_PREFIXES, mend_demo_tile
from desi_fits_to_parquet.simulate.voids import OMEGA_M, simulate_voids

GALAXIES = Path("results/demo-galaxies")
OUTPUT = Path("results/voids")


def convert_galaxies(results: Path) -> int:
    """Run the workflow on the demo's tiles of main/bright, for their galaxies."""
    with tempfile.TemporaryDirectory(prefix="desi-voids-") as scratch:
        for tile in DEMO_BRIGHT:
            mend_demo_tile(Path(scratch), tile)
        command = [
            sys.executable, "-m", "snakemake", "--cores", "all",
            "--configfile", "config/demo.yaml", "--config", f"results={results}",
            f"archive={{endpoint: '{scratch}', prefix: '{DEMO_PREFIXES['healpix']}'}}",
            "tiles={surveys: [main], programs: [bright]}", "selection={spectypes: [GALAXY]}",
        ]  # fmt: skip
        return subprocess.run(command, check=False).returncode


def simulate(results: Path, folder: Path) -> None:
    """Write a void catalogue over the demo's galaxies, which V2's zones hold."""
    known = open_catalog(results).where("is_primary and z < 0.24").to_pandas(
        ["targetid", "ra", "dec", "redshift"]
    )  # fmt: skip
    cosmology = FlatLambdaCDM(H0=100, Om0=OMEGA_M)
    galaxies = {name: known[name].to_numpy() for name in ("targetid", "ra", "dec")}
    galaxies["r"] = cosmology.comoving_distance(known["redshift"].to_numpy()).value
    simulate_voids(folder, galaxies=galaxies)


def main() -> int:
    """Do all of it; return the exit code."""
    if not Path("Snakefile").is_file():
        print("Run the example in the project's own folder, where the Snakefile is.")
        return 2
    if code := convert_galaxies(GALAXIES):
        return code
    simulate(GALAXIES, OUTPUT / "desivast")
    for kind in match_voids.KINDS:
        folder = OUTPUT / "desivast"
        if code := match_voids.main([str(GALAXIES), str(folder), "--kind", kind]):
            return code
    return 0


if __name__ == "__main__":
    sys.exit(main())
