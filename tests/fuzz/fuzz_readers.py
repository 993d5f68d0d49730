"""Feed broken files to the readers of FITS and HDF5, guided by coverage: `make fuzz`.

A file is changed at random, its headers card by card, and read. A reader may refuse it in the way
that it documents (`BadTile`, ValueError); it may not raise anything else, hang, or take much
memory. What breaks that rule is kept, and reproduced by `fuzz_readers.py fits FILE`.
"""

import argparse
import importlib.util
import os
import re
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

MEMORY_MB = 700
"""What the process may hold: a reader with its libraries takes 150 MB."""

ADDRESSES_MB = 4000
"""What it may reserve: a reader that asks for what a header claims is told so."""

TIMEOUT_S = 10
"""For one file: a good one of this size takes milliseconds."""

LARGEST = 30_000

NUMBERS = (
    b"0", b"1", b"-1", b"2", b"3", b"8", b"80", b"2880", b"99", b"1000000000000", b"0.5", b"-64",
    b"2147483648", b"9223372036854775807", b"-9223372036854775808", b"1E400", b"T", b"''",
    b"'1PB(9)  '", b"'3K      '", b"'0A      '", b"'999999999A'", b"'BINTABLE'", b"'IMAGE   '",
    b"'GZIP_1  '", b"'RICE_1  '", b"'&       '",
)  # fmt: skip
"""Values that keywords get."""


def read_fits_file(data: bytes) -> None:
    """Read all that there is in a FITS file."""
    import numpy as np

    from desi_fits_to_parquet.formats.fits import read_fits
    from desi_fits_to_parquet.formats.fits_header import change_cards
    from desi_fits_to_parquet.formats.fits_images import read_image
    from desi_fits_to_parquet.formats.fits_sums import verify_datasum
    from desi_fits_to_parquet.formats.fits_tables import read_table
    from desi_fits_to_parquet.outcomes import BadTile

    def read_at(offset: int, length: int) -> bytes:
        if offset < 0 or length < 0 or offset + length > len(data):
            raise AssertionError(f"{length} bytes at {offset} asked for of {len(data)}")
        return data[offset : offset + length]

    try:
        fits = read_fits(read_at, len(data), "file.fits")
    except BadTile:
        return
    some = np.array([1, 0])
    for name, hdu in fits.hdus.items():
        change_cards(hdu.cards, {"SRCKEY": "x", "CHECKSUM": None})
        for read in (verify_datasum, read_table, read_image, lambda *of: read_image(*of, some)):
            with suppress(BadTile):
                read(fits, name)


def read_hdf5_file(data: bytes) -> None:
    """Read what rrdetails has, the way in which the record does."""
    from h5py import h5g

    from desi_fits_to_parquet.formats.hdf5 import (
        find_object,
        hdf5_errors,
        open_hdf5,
        read_dataset,
        read_fit_tables,
    )
    from desi_fits_to_parquet.outcomes import BadTile

    path = Path(tempfile.gettempdir()) / f"fuzz-{os.getpid()}.h5"
    path.write_bytes(data)
    columns = {"z": "iuf", "chi2": "iuf", "spectype": "S"}

    def read_scans(root: Any) -> Any:
        group = find_object(find_object(root, "zscan"), "QSO")
        return read_dataset(group, "zchi2", 1 << 20, 2)[()]

    with suppress(BadTile), open_hdf5(path) as file:
        for read in (
            lambda root: read_fit_tables(file, (1, 2, -3), columns),
            lambda root: read_dataset(root, "targetids", 1 << 20, 1)[()],
            lambda root: read_dataset(root, "chunked", 1 << 20, 2)[()],
            read_scans,
        ):
            with suppress(BadTile), hdf5_errors("file.h5"):
                read(h5g.open(file.id, b"/"))


def fits_seeds() -> list[bytes]:
    """Small files that hold a table with each form of column, and each form of image."""
    import io

    import numpy as np
    from astropy.io import fits

    column = fits.Column
    rows = np.arange(3)
    table = fits.BinTableHDU.from_columns([
        column("TARGETID", "K", array=rows), column("FLAG", "L", array=rows > 1),
        column("NAME", "5A", array=np.array(["abc", "", "longe"])),
        column("COEFF", "3D", array=np.arange(9.0).reshape(3, 3)),
        column("COUNT", "J", bzero=2**31, array=rows.astype("u4")),
        column("HEAP", "PJ()", array=np.array([rows, rows[:1], rows], object)),
    ], name="T")  # fmt: skip
    image = np.arange(40, dtype="i4").reshape(4, 10)
    files = []
    for hdus in (
        [table],
        [fits.ImageHDU(image.astype("f4"), name="FLUX"), fits.ImageHDU(rows.astype("u4"))],
        [fits.CompImageHDU(image, name="MASK", compression_type="GZIP_1")],
        [fits.CompImageHDU(image, name="MASK", compression_type="GZIP_2", tile_shape=(2, 5))],
        [fits.CompImageHDU(image.astype("u4"), name="MASK", compression_type="RICE_1")],
    ):
        stream = io.BytesIO()
        fits.HDUList([fits.PrimaryHDU(), *hdus]).writeto(stream, checksum=True)
        files.append(stream.getvalue())
    return files


def hdf5_seeds() -> list[bytes]:
    """Small files with the layout of rrdetails, written in different ways."""
    import h5py
    import numpy as np

    kind = np.dtype([("z", "f8"), ("chi2", "f8"), ("spectype", "S6"), ("coeff", "f8", (3,))])
    files = []
    path = Path(tempfile.gettempdir()) / f"seed-{os.getpid()}.h5"
    for version in ("earliest", "v108", "latest"):
        for options in ({}, {"chunks": True, "compression": "gzip", "shuffle": True},
                        {"chunks": True, "fletcher32": True}):  # fmt: skip
            with h5py.File(path, "w", libver=version) as file:
                file.create_dataset("targetids", data=np.array([1, 2, -3]), **options)
                for target in (1, 2, -3):
                    table = np.ones(4, kind)
                    file.create_dataset(f"zfit/{target}/zfit", data=table, **options)
                file.create_dataset("zscan/QSO/zchi2", data=np.eye(3), **options)
                file.create_dataset("chunked", data=np.eye(4), chunks=(2, 3),
                                    maxshape=(None, 9), compression="gzip")  # fmt: skip
            files.append(path.read_bytes())
    path.unlink()
    return files


def change_fits(data: bytes, largest: int, seed: int) -> bytes:
    """Change a card, a block or a few bytes of a FITS file."""
    import random

    import atheris

    rng = random.Random(seed)
    if rng.random() < 0.3 or len(data) < 160:
        return bytes(atheris.Mutate(data, largest))
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4))):
        at = rng.randrange(len(changed) // 80) * 80
        other = rng.randrange(len(changed) // 80) * 80
        what = rng.random()
        if what < 0.6 and changed[at + 8 : at + 10] == b"= ":
            changed[at + 10 : at + 80] = rng.choice(NUMBERS).rjust(20).ljust(70)
        elif what < 0.7:
            changed[at : at + 80] = changed[other : other + 80]
        elif what < 0.8:
            changed[at : at + 8] = changed[other : other + 8]
        elif what < 0.9:
            block, times = at // 2880 * 2880, rng.choice((0, 2))
            changed[block : block + 2880] = bytes(changed[block : block + 2880]) * times
        else:
            changed[at] = rng.randrange(256)
        if len(changed) < 160:
            break
    return bytes(changed[:largest])


def change_hdf5(data: bytes, largest: int, seed: int) -> bytes:
    """Change a few numbers of an HDF5 file in place: what moves its bytes leaves no file."""
    import random

    import atheris

    rng = random.Random(seed)
    if rng.random() < 0.1 or len(data) < 16:
        return bytes(atheris.Mutate(data, largest))
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4))):
        # most of a file is zeros that nobody reads: begin near a byte that is none
        at = rng.randrange(len(changed))
        at = next((i for i in range(at, len(changed)) if changed[i]), at)
        at = max(0, min(at + rng.randrange(-2, 3), len(changed) - 8))
        size = rng.choice((1, 1, 2, 4, 8))
        other = rng.randrange(len(changed) - 8)
        number = rng.choice((0, 1, 2, 3, 8, 255, -1, 1 << 31, 1 << 62, other, rng.getrandbits(64)))
        piece = number.to_bytes(9, "little", signed=True)[:size] if number < 1 << 63 else b"\xff"
        changed[at : at + size] = piece if rng.random() < 0.8 else changed[other : other + size]
    return bytes(changed[:largest])


READERS: dict[
    str,
    tuple[Callable[[bytes], None], Callable[[], list[bytes]], Callable[[bytes, int, int], bytes]],
] = {
    "fits": (read_fits_file, fits_seeds, change_fits),
    "hdf5": (read_hdf5_file, hdf5_seeds, change_hdf5),
}


def fuzz(reader: str, seconds: int, folder: Path) -> int:
    """Fuzz a reader in this process, which libFuzzer ends; returns only where that goes wrong."""
    import atheris

    with atheris.instrument_imports(include=["desi_fits_to_parquet"]):
        import desi_fits_to_parquet.formats.fits_images
        import desi_fits_to_parquet.formats.fits_sums
        import desi_fits_to_parquet.formats.hdf5  # noqa: F401
    read, _, change = READERS[reader]
    arguments = [
        sys.argv[0], str(folder / "corpus"), f"-artifact_prefix={folder}/found-",
        f"-max_total_time={seconds}", f"-timeout={TIMEOUT_S}", f"-rss_limit_mb={MEMORY_MB}",
        f"-max_len={LARGEST}", "-print_final_stats=1",
    ]  # fmt: skip
    atheris.Setup(arguments, read, custom_mutator=change)
    atheris.Fuzz()
    return 1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("reader", choices=[*READERS, "all"])
    parser.add_argument("file", type=Path, nargs="?", help="read this file once")
    parser.add_argument("--seconds", type=int, default=120, help="for all readers together")
    parser.add_argument("--folder", type=Path, default=Path("results/fuzz"))
    given = parser.parse_args()
    limit = ADDRESSES_MB << 20
    if given.file:
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        READERS[given.reader][0](given.file.read_bytes())
        return 0
    if given.reader != "all":
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        return fuzz(given.reader, given.seconds, given.folder)
    if not importlib.util.find_spec("atheris"):
        print("atheris is missing, which `make fuzz` installs (wheels: Linux, x86_64)")
        return 1
    return max([_fuzz_apart(reader, given) for reader in READERS])


def _fuzz_apart(reader: str, given: argparse.Namespace) -> int:
    """Fuzz a reader in a process of its own and tell what came of it."""
    folder, seconds = given.folder.resolve() / reader, max(1, given.seconds // len(READERS))
    (folder / "corpus").mkdir(parents=True, exist_ok=True)
    for i, data in enumerate(READERS[reader][1]()):
        (folder / f"corpus/seed{i}").write_bytes(data)
    print(f"Feeding broken files to the reader of {reader} for {seconds} s", flush=True)
    command = [
        sys.executable, __file__, reader, "--seconds", str(seconds), "--folder", str(folder)
    ]  # fmt: skip
    with tempfile.TemporaryDirectory() as scratch:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace",
                              check=False, env={**os.environ, "TMPDIR": scratch})  # fmt: skip
    told = done.stdout + done.stderr
    (folder / "log.txt").write_text(told)
    count = re.search(r"number_of_executed_units: (\d+)", told)
    print(f"  {int(count[1]) if count else 0:,} files read, exit code {done.returncode}")
    if done.returncode or not count:
        lines = (line for line in told.splitlines() if not line.startswith(("#", "INFO", "stat")))
        print("\n".join(lines))
        print(f"  the file: {folder}/found-*; to read it again: {__file__} {reader} FILE")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
