"""Writing HDUs of FITS files."""

from collections.abc import Iterable
from typing import BinaryIO

from desi_fits_to_parquet.formats.fits_header import format_card, pad_header, padded
from desi_fits_to_parquet.formats.fits_sums import encode_checksum, ones_complement_sum


def write_hdu(stream: BinaryIO, cards: bytes, chunks: Iterable[bytes] = ()) -> None:
    """Write an HDU whose data come in chunks, with right CHECKSUM and DATASUM.

    Parameters
    ----------
    stream
        A file opened for writing that can seek; nothing but the header is held in memory.
    cards
        The header without CHECKSUM, DATASUM and END; its sizes must be those of the data.
    chunks
        The data in FITS's byte order; all but the last a multiple of four bytes long.
    """
    start = stream.tell()
    stream.write(close_header(cards, 0))
    total = size = 0
    for chunk in chunks:
        stream.write(chunk)
        total = ones_complement_sum(chunk, total)
        size += len(chunk)
    stream.write(b"\0" * (padded(size) - size))
    end = stream.tell()
    stream.seek(start)
    stream.write(close_header(cards, total))
    stream.seek(end)


def close_header(cards: bytes, datasum: int) -> bytes:
    """Return a whole header with right CHECKSUM and DATASUM (4.4.2.7); its length needs neither.

    Parameters
    ----------
    cards
        The header without CHECKSUM, DATASUM and END.
    datasum
        The sum of the padded data (`ones_complement_sum`).
    """
    text = format_card("DATASUM", str(datasum))
    blank = pad_header(cards + format_card("CHECKSUM", "0" * 16) + text)
    checksum = encode_checksum(ones_complement_sum(blank, datasum))
    return pad_header(cards + format_card("CHECKSUM", checksum) + text)
