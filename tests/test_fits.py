"""The FITS reader must agree with astropy on good files and name what is wrong with bad ones."""

import gzip
import io
import re
import warnings
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits as astropy_fits
from hypothesis import given
from hypothesis import strategies as st

from desi_fits_to_parquet.formats.fits import Fits, open_fits, read_fits
from desi_fits_to_parquet.formats.fits_header import (
    BLOCK,
    CARD,
    change_cards,
    format_card,
    parse_header,
)
from desi_fits_to_parquet.formats.fits_images import image_shape, inflate, read_image
from desi_fits_to_parquet.formats.fits_sums import verify_datasum
from desi_fits_to_parquet.formats.fits_tables import read_table
from desi_fits_to_parquet.formats.fits_write import write_hdu
from desi_fits_to_parquet.outcomes import BadTile

MASK = np.random.default_rng(1).integers(0, 3, (6, 40)).astype("i4")


def opened(data: bytes, source: str = "coadd.fits", **options: int) -> Fits:
    return read_fits(lambda start, length: data[start : start + length], len(data), source,
                          **options)  # fmt: skip


def file_bytes(*hdus: object) -> bytes:
    stream = io.BytesIO()
    astropy_fits.HDUList([astropy_fits.PrimaryHDU(), *hdus]).writeto(stream, checksum=True)
    return stream.getvalue()


@pytest.fixture
def table_hdu() -> astropy_fits.BinTableHDU:
    column = astropy_fits.Column
    return astropy_fits.BinTableHDU.from_columns(
        [
            column("TARGETID", "K", array=np.array([39633, -5, 2**62])),
            column("FLAG", "L", array=np.array([True, False, True])),
            column("NAME", "5A", array=np.array(["abc", "a b", "longe"])),
            column("COEFF", "3D", array=np.arange(9.0).reshape(3, 3)),
            column("COUNT", "J", bzero=2**31, array=np.array([0, 7, 2**32 - 1], "u4")),
            column("BIG", "K", bzero=2**63, array=np.array([0, 7, 2**64 - 1], "u8")),
            column("SMALL", "I", bzero=2**15, array=np.array([0, 7, 2**16 - 1], "u2")),
            column("SIGNED", "B", bzero=-128, array=np.array([-128, 0, 127], "i1")),
            column("Z", "E", unit="deg", array=np.array([np.nan, 1.5, -2], "f4")),
        ],
        name="T",
    )


def test_structure_values_and_checksums_of_real_files_agree_with_astropy(real_data: Path):
    paths = sorted(real_data.rglob("*.fits"))
    assert paths
    for path in paths:
        with open_fits(path) as ours, astropy_fits.open(path) as theirs:
            assert list(ours.hdus) == [hdu.name for hdu in theirs]
            for hdu in theirs:
                mine = ours.hdus[hdu.name]
                assert mine.data_start == hdu.fileinfo()["datLoc"]
                assert verify_datasum(ours, hdu.name) in (True, None)
                for key, value in mine.header.items():
                    assert hdu.header[key] == value, key
                if isinstance(hdu, astropy_fits.BinTableHDU):
                    check_table(read_table(ours, hdu.name), hdu)
                elif hdu.data is not None:
                    np.testing.assert_array_equal(read_image(ours, hdu.name), hdu.data)


def check_table(table: dict[str, np.ndarray], hdu: astropy_fits.BinTableHDU) -> None:
    assert list(table) == hdu.columns.names
    for name, values in table.items():
        expected = np.asarray(hdu.data[name])
        if expected.dtype.kind == "U":
            expected = np.char.rstrip(np.char.encode(expected, "ascii"))
        assert values.dtype.isnative
        np.testing.assert_array_equal(values, expected, err_msg=name)


def test_every_column_type_and_unsigned_integer_is_read_as_astropy_reads_it(table_hdu):
    data = file_bytes(table_hdu)
    check_table(read_table(opened(data), "T"), table_hdu)
    with astropy_fits.open(io.BytesIO(data)) as theirs:
        check_table(read_table(opened(data), "T"), theirs["T"])


@pytest.mark.parametrize("compression", [None, "GZIP_1", "GZIP_2", "RICE_1"])
@pytest.mark.parametrize("unsigned", [False, True])
def test_mask_rows_are_the_same_in_every_form_of_image(compression, unsigned):
    mask = MASK.astype("u4") + np.uint32(2**31) if unsigned else MASK
    hdu = (
        astropy_fits.CompImageHDU(mask, name="B_MASK", compression_type=compression)
        if compression
        else astropy_fits.ImageHDU(mask, name="B_MASK")
    )
    ours = opened(file_bytes(hdu))
    rows = np.array([4, 5, 0, 2])
    assert image_shape(ours, "B_MASK") == mask.shape
    np.testing.assert_array_equal(read_image(ours, "B_MASK", rows), mask[rows])
    np.testing.assert_array_equal(read_image(ours, "B_MASK"), mask)


def test_neighbouring_rows_are_read_with_one_request():
    data = file_bytes(astropy_fits.ImageHDU(MASK, name="B_MASK"))
    requests: list[tuple[int, int]] = []

    def read_at(start: int, length: int) -> bytes:
        requests.append((start, length))
        return data[start : start + length]

    ours = read_fits(read_at, len(data), "coadd.fits")
    requests.clear()
    read_image(ours, "B_MASK", np.array([0, 1, 2, 4]))
    assert [length for _, length in requests] == [3 * 160, 160]


def test_header_longer_than_what_is_read_ahead_is_read_to_its_end():
    hdu = astropy_fits.ImageHDU(MASK, name="B_MASK")
    for i in range(200):
        hdu.header[f"KEY{i}"] = i
    ours = opened(file_bytes(hdu), ahead=1)
    assert ours.hdus["B_MASK"].header["KEY199"] == 199


@given(
    st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=300)
    .map(str.rstrip)
    # of the second astropy 8.0 makes text and a comment
    .filter(lambda text: not text.endswith("&") and not re.search("' */", text))
)
def test_any_string_survives_in_a_card_for_us_and_for_astropy(text):
    cards = format_card("SOURCE", text)
    assert len(cards) % CARD == 0
    assert parse_header(cards).get("SOURCE") == text
    assert astropy_fits.Header.fromstring(cards.decode())["SOURCE"] == text


@pytest.mark.parametrize("value", [True, False, 0, -7, 2**40, 1.5, -1e-30, 3e200])
def test_any_number_survives_in_a_card_for_us_and_for_astropy(value):
    card = format_card("VALUE", value, "what it is")
    assert parse_header(card)["VALUE"] == value
    assert astropy_fits.Header.fromstring(card.decode())["VALUE"] == value


def test_changed_header_keeps_all_other_cards_as_they_were(real_data: Path):
    path = next(real_data.rglob("coadd-*.fits"))
    with open_fits(path) as ours:
        cards = ours.hdus["PRIMARY"].cards
    changed = change_cards(cards, {"DEPVER21": None, "SURVEY": "main", "NEW": 5})
    header = parse_header(changed)
    assert header["SURVEY"] == "main"
    assert header["NEW"] == 5
    before = parse_header(cards)
    assert {k: v for k, v in header.items() if k not in ("SURVEY", "NEW")} == {
        k: v for k, v in before.items() if k not in ("SURVEY", "DEPVER21")
    }
    assert len(changed) == len(cards) - 2 * CARD + CARD  # DEPVER21 goes on in CONTINUE


@given(st.lists(st.binary(max_size=40).map(lambda b: b[: len(b) // 4 * 4]), max_size=5))
def test_written_hdu_passes_astropys_checksums(chunks):
    size = sum(map(len, chunks))
    cards = b"".join(
        [
            format_card("XTENSION", "IMAGE"),
            format_card("BITPIX", 8),
            format_card("NAXIS", 1),
            format_card("NAXIS1", size),
            format_card("PCOUNT", 0),
            format_card("GCOUNT", 1),
            format_card("EXTNAME", "DATA"),
        ]
    )
    stream = io.BytesIO(file_bytes())
    stream.seek(0, io.SEEK_END)
    write_hdu(stream, cards, chunks)
    data = stream.getvalue()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with astropy_fits.open(io.BytesIO(data), checksum=True) as theirs:
            found = theirs["DATA"].data
            assert (b"" if found is None else found.tobytes()) == b"".join(chunks)
    assert verify_datasum(opened(data), "DATA") is True


def test_flipped_bit_in_the_data_is_seen_by_datasum(table_hdu):
    data = bytearray(file_bytes(table_hdu))
    hdu = opened(bytes(data)).hdus["T"]
    data[hdu.data_start + 3] ^= 4
    assert verify_datasum(opened(bytes(data)), "T") is False


def image() -> bytes:
    return file_bytes(astropy_fits.ImageHDU(MASK, name="B_MASK"))


def damaged_card(key: bytes, card: bytes) -> bytes:
    data = image()
    start = data.index(key.ljust(8) + b"=", BLOCK)
    return data[:start] + card.ljust(CARD) + data[start + CARD :]


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"", "empty"),
        (b"<html>not here</html>", "not FITS"),
        (image()[: BLOCK - 100], "cut short"),
        (image()[: BLOCK + 500], "cut short"),
        (image()[:-BLOCK], "HDU B_MASK needs 6720 bytes, the file has 5760: it is cut short"),
        (image() + b"x" * BLOCK, "no HDU at byte 8640"),
        (image() + b"XTENSION= 'IMAGE   '".ljust(BLOCK), "no END: the file is cut short"),
        (image() + image()[BLOCK:], "two HDUs are called B_MASK"),
        (damaged_card(b"NAXIS2", b"NAXIS2  = 1000000000000"), "cut short"),
        (damaged_card(b"NAXIS2", b"NAXIS2  = -1"), "NAXIS2 is -1"),
        (damaged_card(b"NAXIS2", b"NAXIS2  = 'six'"), "NAXIS2 is 'six'"),
        (damaged_card(b"BITPIX", b"BITPIX  = 12"), "BITPIX is 12"),
    ],
)
def test_broken_structure_is_corrupt_source_with_file_and_cause(data, sentence):
    with pytest.raises(BadTile) as caught:
        opened(data)
    assert caught.value.outcome == "corrupt_source"
    assert caught.value.reason.startswith("coadd.fits: ")
    assert sentence in caught.value.reason


def test_missing_hdu_column_and_row_are_named(table_hdu):
    ours = opened(file_bytes(table_hdu, astropy_fits.ImageHDU(MASK, name="B_MASK")))
    with pytest.raises(BadTile, match="HDU FIBERMAP is missing"):
        read_table(ours, "FIBERMAP")
    with pytest.raises(BadTile, match="HDU T has no column OBJTYPE"):
        read_table(ours, "T", ["TARGETID", "OBJTYPE"])
    with pytest.raises(BadTile, match="HDU B_MASK is not a binary table"):
        read_table(ours, "B_MASK")
    with pytest.raises(BadTile, match="HDU T is not an image"):
        read_image(ours, "T")
    with pytest.raises(BadTile, match="has no row 6"):
        read_image(ours, "B_MASK", np.array([6]))


def test_compressed_row_that_unpacks_to_more_is_refused():
    bomb = io.BytesIO()
    with gzip.GzipFile(fileobj=bomb, mode="wb") as stream:
        stream.write(b"\0" * 10_000_000)
    with pytest.raises(ValueError, match="another size than 160 bytes"):
        inflate(bomb.getvalue(), 160)


def test_compressed_row_outside_the_heap_is_refused():
    data = bytearray(
        file_bytes(astropy_fits.CompImageHDU(MASK, name="B_MASK", compression_type="GZIP_1"))
    )
    hdu = opened(bytes(data)).hdus["B_MASK"]
    data[hdu.data_start + 4 : hdu.data_start + 8] = (10**9).to_bytes(4, "big")
    with pytest.raises(BadTile, match="row 0: its compressed tile is empty or outside the heap"):
        read_image(opened(bytes(data)), "B_MASK")
