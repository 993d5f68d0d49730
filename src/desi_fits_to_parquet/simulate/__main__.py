"""Write a tile or the demo's archive, as the command line says."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from desi_fits_to_parquet.simulate.archive import simulate_demo_archive
from desi_fits_to_parquet.simulate.coadd import MaskForm
from desi_fits_to_parquet.simulate.tile import RedrockColumns, simulate_tile
from desi_fits_to_parquet.tile import LAYOUTS, PROGRAMS, SURVEYS, Tile


def main(arguments: Sequence[str] | None = None) -> None:
    """Write a tile or the demo's archive, as the command line says."""
    parser = argparse.ArgumentParser(
        prog="python -m desi_fits_to_parquet.simulate",
        description="Write simulated DESI files: one tile, or the demo's archive.",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("tile", help="the folder of one tile")
    one.add_argument("folder", type=Path, help="where to write its files")
    one.add_argument("--survey", choices=SURVEYS, default="main")
    one.add_argument("--program", choices=PROGRAMS, default="dark")
    one.add_argument(
        "--healpix", type=int, default=10000, help="its number: the pixel (nside 64), or uniqpix"
    )
    one.add_argument("--targets", type=int, default=100, help="number of targets")
    one.add_argument("--quasar-share", type=float, default=0.12)
    one.add_argument("--mask-form", choices=get_args(MaskForm), default="int32")
    one.add_argument("--redrock-columns", choices=get_args(RedrockColumns), default="dr1")
    demo = commands.add_parser("demo", help="the archive of the demo: 26 small tiles")
    demo.add_argument("folder", type=Path, help="root of the archive")
    for command in (one, demo):
        command.add_argument("--seed", type=int, default=1)
        command.add_argument("--layout", choices=LAYOUTS, default="healpix")
    given = parser.parse_args(arguments)
    if given.command == "demo":
        tiles = simulate_demo_archive(given.folder, given.seed, layout=given.layout)
        for tile, outcome in tiles.items():
            print(f"{tile.name:<22}{outcome}")  # noqa: T201  (what a command line is for)
    else:
        done = simulate_tile(
            Tile(given.survey, given.program, given.healpix, given.layout),
            given.folder,
            given.targets,
            given.seed,
            quasar_share=given.quasar_share,
            mask_form=given.mask_form,
            redrock_columns=given.redrock_columns,
        )
        print(f"{done.n_targets} targets, {done.n_quasars} quasars in {done.folder}")  # noqa: T201  (too)


if __name__ == "__main__":
    main()
