"""Files made to harm who reads them: each function spoils one file of a simulated tile in place."""

import re
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from astropy.io import fits as astropy_fits

BOMB_BYTES = 2 << 30
"""What a bomb unpacks to: more than the memory that the test allows."""

HUGE = 10**12


def _cards(kind: str, hdu: str, **values: object) -> Callable[[Path], None]:
    """Replace keywords of an HDU's header, without care for anything else."""

    def spoil(path: Path) -> None:
        data = path.read_bytes()
        at = data.index(f"EXTNAME = '{hdu}".encode())
        first, last = data.rindex(b"XTENSION=", 0, at), data.index(b"END".ljust(80), at)
        header = data[first:last]
        for key, value in values.items():
            text = f"{key:<8}= {value!r:>20}".ljust(80).encode()
            header, count = re.subn(rf"{key:<8}= .{{70}}".encode(), text, header)
            assert count == 1, key
        for key in (b"CHECKSUM", b"DATASUM "):  # they would give it away
            header = header.replace(key, b"COMMENT ")
        path.write_bytes(data[:first] + header + data[last:])

    spoil.__name__ = kind
    return spoil


def _endless_header(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[:2880].replace(b"END".ljust(80), b"COMMENT".ljust(80)) * 1000)


def _overlap(path: Path) -> None:
    """Say of a table that it is shorter than it is: the next HDU would begin within it."""
    with astropy_fits.open(path) as hdus:
        width = hdus["FIBERMAP"].header["NAXIS1"]
    _cards("coadd", "FIBERMAP", NAXIS1=width - 1)(path)


def bomb(head: bytes) -> bytes:
    """About two MB of deflate, behind the head of its format, that unpack to `BOMB_BYTES`."""
    packer = zlib.compressobj(9, wbits=-15)
    block = packer.compress(bytes(1 << 24)) + packer.flush(zlib.Z_FULL_FLUSH)
    return head + block * (BOMB_BYTES >> 24) + packer.flush() + bytes(8)


GZIP_HEAD = b"\x1f\x8b\x08\0\0\0\0\0\0\x03"
ZLIB_HEAD = b"\x78\xda"


def _mask_bomb(form: str) -> Callable[[Path], None]:
    def spoil(path: Path) -> None:
        with astropy_fits.open(path, disable_image_compression=True, memmap=False) as hdus:
            header = hdus["B_MASK"].header
            shape = header["ZNAXIS2"], header["ZNAXIS1"]
            bombs = np.empty(shape[0], object)
            for row in range(shape[0]):
                bombs[row] = np.frombuffer(bomb(GZIP_HEAD), np.uint8)
            column = astropy_fits.Column("COMPRESSED_DATA", "1PB()", array=bombs)
            new = astropy_fits.BinTableHDU.from_columns([column], name="B_MASK")
            for key, value in {
                "ZIMAGE": True, "ZCMPTYPE": form, "ZBITPIX": 32, "ZNAXIS": 2,
                "ZNAXIS1": shape[1], "ZNAXIS2": shape[0], "ZTILE1": shape[1], "ZTILE2": 1,
            }.items():  # fmt: skip
                new.header[key] = value
            hdus[hdus.index_of("B_MASK")] = new
            hdus.writeto(path, overwrite=True)

    return spoil


def _details(change: Callable[[h5py.File, str], None]) -> Callable[[Path], None]:
    """Change the fits of every target."""

    def spoil(path: Path) -> None:
        with h5py.File(path, "r+") as details:
            for target in list(details["zfit"]):
                change(details, target)

    return spoil


def _replace(details: h5py.File, target: str, **options: Any) -> h5py.Dataset:
    table = details[f"zfit/{target}/zfit"]
    dtype = options.pop("dtype", table.dtype)
    del details[f"zfit/{target}/zfit"]
    return details.create_dataset(f"zfit/{target}/zfit", dtype=dtype, **options)


def _claims_much(details: h5py.File, target: str) -> None:
    """Never written, so a few bytes stand for a terabyte of zeros."""
    _replace(details, target, shape=(HUGE // 1000,), chunks=(10_000,), compression="gzip")


def _large_chunk(details: h5py.File, target: str) -> None:
    table = _replace(details, target, shape=(6,), maxshape=(None,), chunks=(9_000_000,),
                     compression="gzip")  # fmt: skip
    assert table.chunks


def _chunk_bomb(details: h5py.File, target: str) -> None:
    table = _replace(details, target, shape=(6,), chunks=(6,), compression="gzip")
    table.id.write_direct_chunk((0,), bomb(ZLIB_HEAD))


def _external_link(details: h5py.File, target: str) -> None:
    del details[f"zfit/{target}/zfit"]
    details[f"zfit/{target}/zfit"] = h5py.ExternalLink("elsewhere.h5", "/zfit")


def _soft_link(details: h5py.File, target: str) -> None:
    del details[f"zfit/{target}/zfit"]
    details[f"zfit/{target}/zfit"] = h5py.SoftLink(f"/zfit/{target}/zfit")


def _external_data(details: h5py.File, target: str) -> None:
    dtype = details[f"zfit/{target}/zfit"].dtype
    _replace(details, target, shape=(6,), external=[("/etc/passwd", 0, 6 * dtype.itemsize)])


def _virtual(details: h5py.File, target: str) -> None:
    table = details[f"zfit/{target}/zfit"]
    dtype = table.dtype
    del details[f"zfit/{target}/zfit"]
    layout = h5py.VirtualLayout((6,), dtype)
    layout[:] = h5py.VirtualSource("elsewhere.h5", "zfit", (6,))
    details.create_virtual_dataset(f"zfit/{target}/zfit", layout)


def _references(details: h5py.File, target: str) -> None:
    dtype = np.dtype([("z", "f8"), ("zerr", "f8"), ("chi2", h5py.ref_dtype)])
    _replace(details, target, shape=(6,), dtype=dtype)


def _variable_text(details: h5py.File, target: str) -> None:
    old = details[f"zfit/{target}/zfit"].dtype
    dtype = np.dtype([(n, h5py.string_dtype() if n == "spectype" else old[n]) for n in old.names])
    _replace(details, target, shape=(6,), dtype=dtype)


def _no_group(details: h5py.File, target: str) -> None:
    del details[f"zfit/{target}"]
    details[f"zfit/{target}"] = np.zeros(3)


def _targetids(details: h5py.File) -> None:
    del details["targetids"]
    details.create_dataset("targetids", (HUGE,), "i8", chunks=(1000,), compression="gzip")


def _scans(details: h5py.File) -> None:
    for group in details["zscan"].values():
        del group["zchi2"]
        group.create_dataset("zchi2", (5, HUGE), "f8", chunks=(1, 1000), compression="gzip")


def _once(change: Callable[[h5py.File], None]) -> Callable[[Path], None]:
    def spoil(path: Path) -> None:
        with h5py.File(path, "r+") as details:
            change(details)

    return spoil


FITS: dict[str, tuple[str, Callable[[Path], None]]] = {
    "redrock with 10^12 rows": ("redrock", _cards("redrock", "REDSHIFTS", NAXIS2=HUGE)),
    "fibermap with 10^12 rows": ("coadd", _cards("coadd", "FIBERMAP", NAXIS2=HUGE)),
    "flux with 10^12 rows": ("coadd", _cards("coadd", "B_FLUX", NAXIS2=HUGE)),
    "flux of no width with 10^12 rows": (
        "coadd",
        _cards("coadd", "B_FLUX", NAXIS1=0, NAXIS2=HUGE),
    ),
    "rows without width": ("redrock", _cards("redrock", "REDSHIFTS", NAXIS1=0, NAXIS2=HUGE)),
    "heap of negative size": ("coadd", _cards("coadd", "FIBERMAP", PCOUNT=-1000)),
    "heap larger than the file": ("redrock", _cards("redrock", "REDSHIFTS", PCOUNT=HUGE)),
    "10^9 columns": ("redrock", _cards("redrock", "REDSHIFTS", TFIELDS=10**9)),
    "text 10^11 wide": ("redrock", _cards("redrock", "REDSHIFTS", TFORM1="99999999999A")),
    "TARGETID a text": ("redrock", _cards("redrock", "REDSHIFTS", TFORM1="8A")),
    "TARGETID of eight bytes each": ("redrock", _cards("redrock", "REDSHIFTS", TFORM1="8B")),
    "number of columns a text": ("redrock", _cards("redrock", "REDSHIFTS", TFIELDS="many")),
    "header without end": ("coadd", _endless_header),
    "HDUs that overlap": ("coadd", _overlap),
    "zip bomb in a mask": ("coadd", _mask_bomb("GZIP_1")),
    "zip bomb in a mask in two halves": ("coadd", _mask_bomb("GZIP_2")),
    "mask in an unknown compression": ("coadd", _mask_bomb("HCOMPRESS_1")),
}
HDF5: dict[str, tuple[str, Callable[[Path], None]]] = {
    "fits that claim a terabyte": ("rrdetails", _details(_claims_much)),
    "fits in a chunk of gigabytes": ("rrdetails", _details(_large_chunk)),
    "fits that are a zip bomb": ("rrdetails", _details(_chunk_bomb)),
    "fits in another file": ("rrdetails", _details(_external_link)),
    "fits that link to themselves": ("rrdetails", _details(_soft_link)),
    "fits that are /etc/passwd": ("rrdetails", _details(_external_data)),
    "fits from other files": ("rrdetails", _details(_virtual)),
    "fits of references": ("rrdetails", _details(_references)),
    "fits with text of any length": ("rrdetails", _details(_variable_text)),
    "fits where a group should be": ("rrdetails", _details(_no_group)),
}
SCANS: dict[str, tuple[str, Callable[[Path], None]]] = {
    "targetids of terabytes": ("rrdetails", _once(_targetids)),
    "scans of terabytes": ("rrdetails", _once(_scans)),
}
