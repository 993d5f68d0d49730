"""Files of any layout that FITS and HDF5 allow are read as astropy and h5py read them.

The files are written here byte by byte or with options drawn at random: all forms of columns,
scaled and unsigned numbers, headers in any order with long strings, HDUs of other kinds in between.
"""

import io
import re
import warnings
import zlib
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from astropy.io import fits as astropy_fits
from fuzz.fuzz_readers import READERS
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from desi_fits_to_parquet.formats.fits import Fits, read_fits
from desi_fits_to_parquet.formats.fits_header import parse_header
from desi_fits_to_parquet.formats.fits_images import image_shape, read_image
from desi_fits_to_parquet.formats.fits_tables import read_table
from desi_fits_to_parquet.formats.hdf5 import open_hdf5, read_dataset, read_fit_tables
from desi_fits_to_parquet.outcomes import BadTile

pytestmark = pytest.mark.filterwarnings("ignore::astropy.utils.exceptions.AstropyUserWarning")

BLOCK = 2880

often = settings(
    max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True
)

# ------------------------------------------------------------------------------- FITS, by hand

FORMS = {
    "L": "S1", "X": "u1", "B": "u1", "I": ">i2", "J": ">i4", "K": ">i8", "A": "S1",
    "E": ">f4", "D": ">f8", "C": ">c8", "M": ">c16", "P": ">i4", "Q": ">i8",
}  # fmt: skip
UNSIGNED = {"B": -(2**7), "I": 2**15, "J": 2**31, "K": 2**63}

plain = st.characters(min_codepoint=32, max_codepoint=126)
keywords = st.from_regex(r"[A-Z][A-Z0-9_-]{1,7}", fullmatch=True).filter(
    lambda key: not key.startswith((
        "NAXIS", "BITPIX", "PCOUNT", "GCOUNT", "XTENSION", "EXT", "T", "SIMPLE", "END", "COMMENT",
        "HISTORY", "CONTINUE", "Z", "BSCALE", "BZERO", "BLANK", "GROUPS", "HIERARCH", "INHERIT",
        "CHECKSUM", "DATASUM", "BUNIT", "DATE", "WCS", "CRVAL",
    ))
)  # fmt: skip
reals = st.floats(allow_nan=False, allow_infinity=False, width=32).map(float)
values = st.one_of(
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    reals,
    st.text(plain, max_size=120)
    .map(str.rstrip)
    # of the second astropy makes text and a comment
    .filter(lambda text: not text.endswith("&") and not re.search("' */", text)),
)


@st.composite
def cards(draw: st.DrawFn, key: str, value: Any) -> bytes:
    """A keyword in one of the ways in which FITS lets it be written."""
    if isinstance(value, str):
        text = value.replace("'", "''")
        if len(text) > 60:
            return long_string(draw, key, value)
        text = f"'{text.ljust(draw(st.integers(0, 8)))}'"
    elif isinstance(value, bool):
        text = "T" if value else "F"
    elif isinstance(value, float):
        text = repr(value).upper()
        if draw(st.booleans()):
            text = text.replace("E", "D")
    else:
        text = draw(st.sampled_from(["", "+" if value >= 0 else ""])) + str(value)
    if draw(st.booleans()):
        text = text.rjust(20) if not isinstance(value, str) else text
    # of quotes behind an empty string astropy makes text
    comments = ["", "/no blank", " / it's = 5", " / 'quoted'"]
    comment = draw(st.sampled_from(comments[: 2 if value == "" else 4]))
    return f"{key:<8}= {text}{comment}"[:80].ljust(80).encode()


def long_string(draw: st.DrawFn, key: str, value: str) -> bytes:
    """A string in pieces of any length, with CONTINUE."""
    pieces, rest = [], value
    while rest:
        size = draw(st.integers(0 if pieces and len(pieces) < 9 else 1, 30))
        pieces.append(rest[:size])
        rest = rest[size:]
    lead, text = f"{key:<8}= ", ""
    for i, piece in enumerate(pieces):
        more = "&" if i + 1 < len(pieces) else ""
        text += f"{lead}'{piece.replace(chr(39), chr(39) * 2)}{more}'".ljust(80)
        lead = "CONTINUE  "
    return text.encode()


@st.composite
def extra_cards(draw: st.DrawFn) -> dict[str, tuple[Any, bytes]]:
    """Keywords that nobody asked for, each with its value and its cards."""
    chosen = draw(st.dictionaries(keywords, values, max_size=6))
    return {key: (value, draw(cards(key, value))) for key, value in chosen.items()}


NOISE = (
    b"COMMENT = 'not a value'", b"HISTORY and so on", b"", b"HIERARCH long keyword = 3",
    b"        = 5", b"UNDEF   =", b"NOVALUE   no equals sign",
)  # fmt: skip


@st.composite
def headers(draw: st.DrawFn, structure: list[bytes], more: list[bytes]) -> bytes:
    """A header: what must come first, the rest in any order among other cards, END, blanks."""
    noise = draw(st.lists(st.sampled_from(NOISE), max_size=4))
    rest = draw(st.permutations([*more, *(text.ljust(80) for text in noise)]))
    text = b"".join([*structure, *rest]) + b"END".ljust(80)
    return text.ljust(-(-len(text) // BLOCK) * BLOCK)


def card(key: str, value: Any) -> bytes:
    if isinstance(value, str):
        text = f"'{value:<8}'"
    else:
        text = ("T" if value is True else repr(value).upper()).rjust(20)
    return f"{key:<8}= {text}".ljust(80).encode()


def padded(data: bytes, fill: bytes = b"\0") -> bytes:
    return data.ljust(-(-len(data) // BLOCK) * BLOCK, fill)


@st.composite
def tables(draw: st.DrawFn, name: str) -> bytes:
    """A binary table whose cells are any bytes that their form allows."""
    n_rows = draw(st.integers(0, 5))
    forms = draw(st.lists(st.sampled_from(sorted(FORMS)), min_size=1, max_size=6))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    columns, more, heap_size = [], [], 0
    for i, form in enumerate(forms, 1):
        repeat = draw(st.integers(1, 4)) if form not in "PQ" else 1
        if form == "A":
            repeat = draw(st.integers(1, 12))
        count = -(-repeat // 8) if form == "X" else 2 * repeat if form in "PQ" else repeat
        dtype = np.dtype(FORMS[form])
        cells = rng.bytes(n_rows * count * dtype.itemsize)
        if form == "L":
            cells = bytes(rng.choice(list(b"TF"), n_rows * count).tolist())
        elif form == "A":
            letters = rng.choice(list(b" abcXYZ09'"), (n_rows, count)).astype("u1")
            for row, stop in enumerate(rng.integers(0, count + 1, n_rows)):
                letters[row, stop:] = rng.choice([0, 32])  # NULs or blanks behind the text
            cells = letters.tobytes()
        elif form in "PQ":
            cells = np.zeros((n_rows, count), dtype).tobytes()
            heap_size = draw(st.integers(0, 40))
        columns.append(np.frombuffer(cells, np.uint8).reshape(n_rows, count * dtype.itemsize))
        bare = repeat == 1 and draw(st.booleans())
        suffix = "E(1)" if form in "PQ" else ""
        more += [card(f"TFORM{i}", f"{'' if bare else repeat}{form}{suffix}")]
        more.append(card(f"TTYPE{i}", f"C{i}_{draw(st.sampled_from(['FLUX', 'MgII', 'z']))}"))
        if form in UNSIGNED and draw(st.booleans()):
            more.append(card(f"TZERO{i}", UNSIGNED[form]))  # of a 32768.0 astropy makes an error
            if draw(st.booleans()):
                more.append(card(f"TSCAL{i}", draw(st.sampled_from([1, 1.0]))))
        elif form in "BIJED" and draw(st.booleans()):
            more.append(card(f"TSCAL{i}", draw(st.sampled_from([0.5, 2, -1.25, 1]))))
            more.append(card(f"TZERO{i}", draw(st.sampled_from([0, 3, -0.5, 100.0]))))
        if draw(st.booleans()):
            more.append(card(f"TUNIT{i}", "deg"))
    if draw(st.booleans()):
        more.append(card("EXTNAME", name))
    data = np.concatenate(columns, axis=1).tobytes()
    width = sum(column.shape[1] for column in columns)
    gap = draw(st.integers(0, 9)) if heap_size else 0
    if gap:
        more.append(card("THEAP", len(data) + gap))
    data += bytes(gap) + rng.bytes(heap_size)
    structure = [card("XTENSION", "BINTABLE"), card("BITPIX", 8), card("NAXIS", 2),
                 card("NAXIS1", width), card("NAXIS2", n_rows), card("PCOUNT", gap + heap_size),
                 card("GCOUNT", 1), card("TFIELDS", len(forms))]  # fmt: skip
    more += [text for _, text in draw(extra_cards()).values()]
    return draw(headers(structure, more)) + padded(data)


BITPIX = {8: "u1", 16: ">i2", 32: ">i4", 64: ">i8", -32: ">f4", -64: ">f8"}


@st.composite
def images(draw: st.DrawFn, name: str | None) -> bytes:
    """A plain image of up to three axes; without a name the primary one."""
    bitpix = draw(st.sampled_from(sorted(BITPIX)))
    axes = draw(st.lists(st.integers(1, 7), max_size=3))
    size = int(np.prod(axes)) * abs(bitpix) // 8 if axes else 0
    data = np.random.default_rng(draw(st.integers(0, 2**32))).bytes(size)
    first = card("SIMPLE", True) if name is None else card("XTENSION", "IMAGE")
    structure = [first, card("BITPIX", bitpix), card("NAXIS", len(axes))]
    structure += [card(f"NAXIS{i}", n) for i, n in enumerate(axes, 1)]
    more = [text for _, text in draw(extra_cards()).values()]
    if name is not None:
        structure += [card("PCOUNT", 0), card("GCOUNT", 1)]
        more.append(card("EXTNAME", name))
    if axes:
        zero = {8: -128, 16: 2**15, 32: 2**31, 64: 2**63}.get(bitpix)
        scaling = [(0, 1), (0, 2.5), (-3, 0.5)] if bitpix != 64 else [(0, 1)]
        if zero:
            scaling += [(zero, 1), (zero, 1.0)]
        chosen_zero, scale = draw(st.sampled_from(scaling))
        if (chosen_zero, scale) != (0, 1) or draw(st.booleans()):
            more += [card("BZERO", chosen_zero), card("BSCALE", scale)]
    return draw(headers(structure, more)) + padded(data)


@st.composite
def foreign(draw: st.DrawFn) -> bytes:
    """An HDU of a kind that DESI has not: skipped by its size."""
    kind = draw(st.sampled_from(["TABLE", "FOREIGN"]))
    axes = draw(st.lists(st.integers(0, 50), min_size=2, max_size=2))
    pcount = draw(st.integers(0, 100)) if kind != "TABLE" else 0
    structure = [card("XTENSION", kind), card("BITPIX", 8), card("NAXIS", 2),
                 card("NAXIS1", axes[0]), card("NAXIS2", axes[1]), card("PCOUNT", pcount),
                 card("GCOUNT", 1)]  # fmt: skip
    size = axes[0] * axes[1] + (pcount if axes[0] * axes[1] or kind != "TABLE" else 0)
    if kind == "TABLE":
        structure.append(card("TFIELDS", 0))
    return draw(headers(structure, [])) + padded(b" " * size, b" ")


@st.composite
def fits_files(draw: st.DrawFn) -> bytes:
    kinds = draw(st.lists(st.sampled_from("TTIF"), max_size=4))
    names = [f"{draw(st.sampled_from(['FLUX', 'b_mask', 'Z']))}{i}" for i in range(len(kinds))]
    parts = [draw(images(None))]
    for kind, name in zip(kinds, names, strict=True):
        chosen = {"T": tables(name), "I": images(name), "F": foreign()}[kind]
        parts.append(draw(chosen))
    return b"".join(parts)


def opened(data: bytes) -> Fits:
    return read_fits(lambda at, n: data[at : at + n], len(data), "file.fits", ahead=BLOCK)


def file_of(cards_of_hdu: list[bytes], data: bytes = b"") -> bytes:
    """A file whose only extension has these cards and data."""
    primary = [card("SIMPLE", True), card("BITPIX", 8), card("NAXIS", 0)]
    end = b"END".ljust(80)
    headers_of_file = (padded(b"".join([*part, end]), b" ") for part in (primary, cards_of_hdu))
    return b"".join(headers_of_file) + padded(data)


def same(ours: Any, theirs: Any, what: str) -> None:
    """Compare arrays; scaled numbers to the precision of a float32."""
    assert ours.dtype.isnative
    if ours.dtype.kind in "fc" and theirs.dtype.kind in "fc":
        with np.errstate(all="ignore"):
            np.testing.assert_allclose(ours, theirs, rtol=3e-7, equal_nan=True, err_msg=what)
    else:
        np.testing.assert_array_equal(ours, theirs, err_msg=what)


@often
@given(fits_files())
def test_any_fits_file_is_read_as_astropy_reads_it(data: bytes) -> None:
    ours = opened(data)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with astropy_fits.open(io.BytesIO(data), character_as_bytes=True) as theirs:
            assert len(ours.hdus) == len(theirs)
            for mine, hdu in zip(ours.hdus.values(), theirs, strict=True):
                assert mine.data_start == hdu.fileinfo()["datLoc"], mine.name
                if hdu.name and mine.header_start:
                    assert mine.name == hdu.name.upper()
                if isinstance(hdu, astropy_fits.BinTableHDU):
                    check_table(ours, mine.name, hdu)
                elif isinstance(hdu, astropy_fits.ImageHDU | astropy_fits.PrimaryHDU):
                    shape = () if hdu.data is None else hdu.data.shape
                    assert image_shape(ours, mine.name) == shape
                    if shape:
                        same(read_image(ours, mine.name), hdu.data, mine.name)
                        rows = np.arange(shape[0])[::-2]
                        same(read_image(ours, mine.name, rows), hdu.data[rows], mine.name)


def check_table(ours: Fits, name: str, hdu: astropy_fits.BinTableHDU) -> None:
    table = read_table(ours, name)
    raw = np.asarray(hdu.data)
    assert len(table) == len(hdu.columns)
    for (column, found), form in zip(table.items(), hdu.columns, strict=True):
        letter = form.format.lstrip("0123456789")[0]
        expected = raw[form.name] if letter in "XPQ" else np.asarray(hdu.data[form.name])
        if letter == "A":
            expected = np.array([text.rstrip() for text in expected.tolist()] or [b""])[: len(raw)]
        width = int(np.prod(found.shape[1:], dtype=int))
        same(found, expected.reshape(len(raw), width).reshape(found.shape), column)


@often
@given(extra_cards(), st.data())
def test_any_header_is_read_as_astropy_reads_it(
    extra: dict[str, tuple[Any, bytes]], data: st.DataObject
) -> None:
    text = data.draw(headers([card("SIMPLE", True)], [text for _, text in extra.values()]))
    ours = parse_header(text[: text.index(b"END".ljust(80))])
    theirs = astropy_fits.Header.fromstring(text.decode())
    for key, (value, _) in extra.items():
        assert ours[key] == value
        assert theirs[key] == value
        assert type(ours[key]) is type(value)


@pytest.mark.parametrize("value", ["first", 1])
def test_of_a_keyword_that_stands_twice_the_first_counts_as_for_astropy(value: Any) -> None:
    text = card("KEY", value) + card("KEY", "second")
    assert parse_header(text)["KEY"] == value
    assert astropy_fits.Header.fromstring(text.decode())["KEY"] == value


def test_a_table_with_two_columns_of_one_name_is_refused() -> None:
    more = [card("TFORM1", "J"), card("TTYPE1", "Z"), card("TFORM2", "J"), card("TTYPE2", "Z")]
    structure = [card("XTENSION", "BINTABLE"), card("BITPIX", 8), card("NAXIS", 2),
                 card("NAXIS1", 8), card("NAXIS2", 1), card("PCOUNT", 0), card("GCOUNT", 1),
                 card("TFIELDS", 2), card("EXTNAME", "T")]  # fmt: skip
    with pytest.raises(BadTile, match="two columns are called Z"):
        read_table(opened(file_of([*structure, *more], bytes(8))), "T")


@often
@given(
    st.sampled_from(["GZIP_1", "GZIP_2", "RICE_1"]),
    st.sampled_from(["u1", "i2", "i4", "u2", "u4"]),
    st.tuples(st.integers(1, 9), st.integers(1, 40)),
    st.tuples(st.integers(1, 9), st.integers(1, 40)),
    st.integers(0, 2**32),
)
def test_any_compressed_image_is_read_as_it_was_written(
    form: str, dtype: str, shape: tuple[int, int], tile: tuple[int, int], seed: int
) -> None:
    image = np.random.default_rng(seed).integers(0, 100, shape).astype(dtype)
    tile = (min(tile[0], shape[0]), min(tile[1], shape[1]))
    hdu = astropy_fits.CompImageHDU(image, name="M", compression_type=form, tile_shape=tile)
    stream = io.BytesIO()
    astropy_fits.HDUList([astropy_fits.PrimaryHDU(), hdu]).writeto(stream)
    ours = opened(stream.getvalue())
    rows = np.arange(shape[0])[::-1]
    np.testing.assert_array_equal(read_image(ours, "M"), image)
    np.testing.assert_array_equal(read_image(ours, "M", rows), image[rows])


@pytest.mark.parametrize("reader", READERS)
def test_the_files_that_fuzzing_begins_with_are_read(reader: str) -> None:
    read, seeds, _ = READERS[reader]
    files = seeds()
    assert len(files) > 4
    for data in files:
        read(data)
        read(data[: len(data) // 2])  # refused, without another exception


# what `make fuzz` found: each of these ended a job in a traceback, or asked for gigabytes


def compressed(form: str, **cards_of: Any) -> bytes:
    """A compressed image with some keywords replaced; None takes one away."""
    image = np.arange(40, dtype="i4").reshape(4, 10)
    hdu = astropy_fits.CompImageHDU(image, name="M", compression_type=form)
    stream = io.BytesIO()
    astropy_fits.HDUList([astropy_fits.PrimaryHDU(), hdu]).writeto(stream)
    data = stream.getvalue()
    for key, value in cards_of.items():
        at = data.index(f"{key:<8}=".encode(), BLOCK)
        data = data[:at] + card(key, value) + data[at + 80 :]
    return data


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (compressed("GZIP_1", ZNAXIS=0), "compressed image without axes"),
        (compressed("GZIP_1", ZNAXIS2=2**31), "claims 2147483648 rows"),
        (compressed("GZIP_1", ZNAXIS1=2**40, ZTILE1=2**40), "would unpack to more than"),
        (compressed("GZIP_1", NAXIS="A", NAXIS2="A"), "NAXIS is 'A'"),
        (compressed("RICE_1", ZNAXIS1=11, ZNAXIS2=3), "HDU M"),
        (compressed("RICE_1", TFIELDS=10**12), "TFIELDS is 1000000000000"),  # astropy counts to it
        (compressed("RICE_1", ZNAME1=-64.0), "cannot be unpacked"),
        (compressed("RICE_1", ZVAL1="&"), "cannot be unpacked"),
        (compressed("RICE_1", ZTILE1="0"), "cannot be unpacked"),
        (compressed("GZIP_2").replace(b"\x1f\x8b\x08", b"\x1f\x8b\x09"), "cannot be unpacked"),
        (compressed("GZIP_2")[:-BLOCK] + bytes(BLOCK), "compressed tile is empty"),
    ],
)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_broken_compressed_image_is_refused_and_takes_no_memory(data: bytes, words: str) -> None:
    with pytest.raises(BadTile, match=words) as caught:
        read_image(opened(data), "M")
    assert caught.value.outcome == "corrupt_source"


def test_an_image_of_rows_without_width_is_refused() -> None:
    structure = [card("XTENSION", "IMAGE"), card("BITPIX", -32), card("NAXIS", 2),
                 card("NAXIS1", 0), card("NAXIS2", 2**31), card("PCOUNT", 0), card("GCOUNT", 1),
                 card("EXTNAME", "M")]  # fmt: skip
    with pytest.raises(BadTile, match="claims 2147483648 rows"):
        read_image(opened(file_of(structure)), "M")


@pytest.mark.parametrize("width", ["9" * 13, "9" * 5000])
def test_a_column_of_a_width_that_no_number_tells_is_refused(width: str) -> None:
    pieces = [width[i : i + 60] for i in range(0, len(width), 60)]
    text = [f"TFORM1  = '{pieces[0]}&'"] + [f"CONTINUE  '{piece}&'" for piece in pieces[1:]]
    structure = [card("XTENSION", "BINTABLE"), card("BITPIX", 8), card("NAXIS", 2),
                 card("NAXIS1", 8), card("NAXIS2", 1), card("PCOUNT", 0), card("GCOUNT", 1),
                 card("TFIELDS", 1), card("EXTNAME", "M"),
                 *(line.ljust(80).encode() for line in [*text, "CONTINUE  'J'"])]  # fmt: skip
    with pytest.raises(BadTile, match="which FITS does not have"):
        read_table(opened(file_of(structure, bytes(8))), "M")


# ------------------------------------------------------------------------------------- HDF5

NUMBERS = [f"{order}{kind}" for order in "<>" for kind in ("i2", "i4", "i8", "u4", "f4", "f8")]


@st.composite
def options(draw: st.DrawFn, shape: tuple[int, ...]) -> dict[str, Any]:
    """How h5py is to lay out a dataset."""
    if not draw(st.booleans()):
        return {}
    chosen: dict[str, Any] = {"chunks": tuple(draw(st.integers(1, n + 2)) for n in shape)}
    chosen["maxshape"] = tuple(draw(st.sampled_from([None, n + 2])) for n in shape)
    chosen["shuffle"] = draw(st.booleans())
    chosen["fletcher32"] = draw(st.booleans())
    if draw(st.booleans()):
        chosen |= {"compression": "gzip", "compression_opts": draw(st.integers(0, 9))}
    return chosen


libver = st.sampled_from(["earliest", "v108", "v110", "latest", ("earliest", "v110")])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("hdf5")


@often
@given(libver, st.sampled_from(NUMBERS), st.lists(st.integers(1, 30), min_size=1, max_size=2),
       st.integers(0, 2**32), st.sampled_from([0, 512, 1024]), st.data())  # fmt: skip
def test_any_dataset_is_read_as_h5py_reads_it(
    folder: Path,
    version: Any,
    kind: str,
    sizes: list[int],
    seed: int,
    userblock: int,
    data: st.DataObject,
) -> None:
    path, shape = folder / "numbers.h5", tuple(sizes)
    raw = np.random.default_rng(seed).bytes(int(np.prod(shape)) * np.dtype(kind).itemsize)
    values = np.frombuffer(raw, kind).reshape(shape)
    with h5py.File(path, "w", libver=version, userblock_size=userblock) as file:
        group = file.create_group("a", track_order=data.draw(st.booleans()))
        for i in range(data.draw(st.sampled_from([0, 3, 30]))):
            group[f"other{i}"] = i
        chosen = data.draw(options(shape))
        dataset = group.create_dataset("b", shape, kind, **chosen)
        part = data.draw(st.integers(0, shape[0]))  # the rest is never written: a fill value
        dataset[:part] = values[:part]
        if chosen.get("compression") and not chosen["fletcher32"] and data.draw(st.booleans()):
            # a filter that does not pay may be left out for a chunk
            chunk = np.zeros(chosen["chunks"], kind)
            dataset.id.write_direct_chunk((0,) * len(shape), chunk.tobytes(), 0xFFFFFFFF)
        if data.draw(st.booleans()):
            dataset.attrs["unit"] = "x" * data.draw(st.integers(0, 3000))
    with h5py.File(path) as theirs, open_hdf5(path) as ours:
        found = read_dataset(ours["a"].id, "b", 1 << 20, len(shape))[()]
        np.testing.assert_array_equal(found, theirs["a/b"][()])


@pytest.mark.parametrize("maxshape", [(4, None), (None, 4), (None, None), (2, 3)])
@pytest.mark.parametrize("version", ["earliest", "latest"])
def test_a_chunked_dataset_is_read_whichever_of_its_axes_grows(
    tmp_path: Path, version: str, maxshape: tuple[int | None, ...]
) -> None:
    values = np.arange(6).reshape(2, 3)
    with h5py.File(tmp_path / "file.h5", "w", libver=version) as file:
        file.create_dataset("b", data=values, chunks=(1, 2), maxshape=maxshape, compression="gzip")
    with open_hdf5(tmp_path / "file.h5") as ours:
        np.testing.assert_array_equal(read_dataset(ours["/"].id, "b", 1 << 20, 2)[()], values)


def test_a_chunk_that_gzip_left_as_it_was_is_read(tmp_path: Path) -> None:
    values = np.arange(4)
    with h5py.File(tmp_path / "file.h5", "w") as file:
        table = file.create_dataset("b", (4,), "i8", chunks=(4,), compression="gzip")
        table.id.write_direct_chunk((0,), values.tobytes(), 1)
        table = file.create_dataset("short", (4,), "i8", chunks=(4,), compression="gzip")
        table.id.write_direct_chunk((0,), values.tobytes()[:8], 1)
        table = file.create_dataset("packed", (4,), "i8", chunks=(4,), compression="gzip")
        table.id.write_direct_chunk((0,), zlib.compress(values.tobytes()[:8]))
    with open_hdf5(tmp_path / "file.h5") as ours:
        np.testing.assert_array_equal(read_dataset(ours["/"].id, "b", 1 << 20, 1)[()], values)
        for name, words in (("short", "chunk of 8 bytes"), ("packed", "another size than 32")):
            with pytest.raises(ValueError, match=words):  # HDF5 reads on behind such a chunk
                read_dataset(ours["/"].id, name, 1 << 20, 1)


members = st.permutations(["z", "chi2", "zwarn", "spectype", "coeff"])


@often
@given(libver, members, st.booleans(), st.integers(1, 8),
       st.lists(st.integers(-(2**63), 2**63 - 1), max_size=5, unique=True), st.data())  # fmt: skip
def test_any_tables_of_fits_are_read_as_h5py_reads_them(
    folder: Path,
    version: Any,
    names: list[str],
    align: bool,
    n: int,
    targets: list[int],
    data: st.DataObject,
) -> None:
    path = folder / "fits.h5"
    kinds: dict[str, Any] = {
        "z": data.draw(st.sampled_from(["<f8", ">f4"])),
        "chi2": "<f8",
        "zwarn": data.draw(st.sampled_from(["<i8", "<i2", ">u4"])),
        "spectype": f"S{data.draw(st.integers(1, 9))}",
        "coeff": ("<f8", (data.draw(st.integers(1, 4)),)),
    }
    dtype = np.dtype([(name, *np.atleast_1d(np.array(kinds[name], object))) for name in names],
                     align=align)  # fmt: skip
    rng = np.random.default_rng(len(targets))
    written = {}
    with h5py.File(path, "w", libver=version) as file:
        for target in targets:
            table = np.zeros(n, dtype)
            for name in set(names) - {"spectype"}:
                table[name] = rng.integers(0, 99, table[name].shape)
            table["spectype"] = rng.choice([b"QSO", b"", b"GALAXY"], n)
            written[target] = table
            group = file.create_group(f"zfit/{target}")
            group.create_dataset("zfit", data=table, **data.draw(options((n,))))
    wanted = {"z": "f", "chi2": "f", "zwarn": "iu", "spectype": "S"}
    with open_hdf5(path) as ours:
        found = read_fit_tables(ours, [*targets, 5, 6], wanted)
    assert set(found) == set(targets)
    for target, table in found.items():
        for name in names:
            np.testing.assert_array_equal(table[name], written[target][name], err_msg=name)


@pytest.mark.parametrize("how", [{"compression": "lzf"}, {"scaleoffset": 3}])
def test_a_compression_that_is_not_bounded_is_refused(tmp_path: Path, how: dict[str, Any]) -> None:
    with h5py.File(tmp_path / "file.h5", "w") as file:
        file.create_dataset("b", data=np.arange(100), chunks=(10,), **how)
    with (
        open_hdf5(tmp_path / "file.h5") as ours,
        pytest.raises(ValueError, match="compressed in an unusual way"),
    ):
        read_dataset(ours["/"].id, "b", 1 << 20, 1)
