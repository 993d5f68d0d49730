"""Checksums of FITS files."""

import numpy as np

from desi_fits_to_parquet.formats.fits import Fits, find_hdu


def ones_complement_sum(data: bytes | bytearray | memoryview, total: int = 0) -> int:
    """Add data to a FITS checksum: 32-bit ones' complement sum of big-endian words (J.1).

    The length must be a multiple of four for all but the last piece, which is padded with zeros.
    """
    whole = len(data) // 4 * 4
    total += int(np.frombuffer(data, ">u4", whole // 4).sum(dtype=np.uint64))
    if whole < len(data):
        total += int.from_bytes(bytes(data[whole:]).ljust(4, b"\0"), "big")
    while total >> 32:
        total = (total & 0xFFFFFFFF) + (total >> 32)
    return total


def encode_checksum(total: int) -> str:
    """Return the 16 characters that make an HDU's sum vanish, given its sum without them (J.2)."""
    complement = ~total & 0xFFFFFFFF
    letters = [[0] * 4 for _ in range(4)]
    for i in range(4):
        byte = complement >> (24 - 8 * i) & 0xFF
        four = [byte // 4 + ord("0")] * 4
        four[0] += byte % 4
        while any(not chr(code).isalnum() for code in four):
            for j in (0, 2):  # shifting one up and one down keeps the sum
                if not (chr(four[j]).isalnum() and chr(four[j + 1]).isalnum()):
                    four[j] += 1
                    four[j + 1] -= 1
        for j in range(4):
            letters[j][i] = four[j]
    text = "".join(chr(code) for group in letters for code in group)
    return text[-1] + text[:-1]


def verify_datasum(fits: Fits, name: str) -> bool | None:
    """Compare the data of an HDU with its DATASUM; None where the header has none."""
    hdu = find_hdu(fits, name)
    expected = hdu.header.get("DATASUM")
    if not isinstance(expected, str) or not expected.strip().isdigit():
        return None
    total = 0
    step = 4 << 20
    for offset in range(0, hdu.data_size, step):
        part = fits.read_at(hdu.data_start + offset, min(step, hdu.data_size - offset))
        total = ones_complement_sum(part, total)
    return total == int(expected)
