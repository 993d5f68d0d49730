"""Headers of FITS files: reading cards, changing them, writing them."""

import re
from collections.abc import Mapping

BLOCK = 2880
"""FITS files are made of blocks of this many bytes (3.1)."""

CARD = 80

Value = str | int | float | bool


def padded(size: int) -> int:
    """Round a size up to whole FITS blocks."""
    return -(-size // BLOCK) * BLOCK


_VALUE = re.compile(
    r"""\s*(?: '(?P<text>(?:[^']|'')*)' | (?P<flag>[TF])(?=\s|/|$)
        | (?P<number>[+-]?(?:\d+\.?\d*|\.\d+)(?:[EeDd][+-]?\d+)?) )?""",
    re.VERBOSE,
)


def parse_header(cards: bytes) -> dict[str, Value]:
    """Return the keywords of a header and their values.

    Long strings (CONTINUE, 4.2.1.2) are joined; of a keyword that stands twice the first counts, as
    for other readers. Comments, undefined values and values that are no
    FITS value are left out: of DESI's headers only a few keywords matter here.
    """
    header: dict[str, Value] = {}
    continued = ""
    text = cards.decode("latin-1")
    for start in range(0, len(text), CARD):
        card = text[start : start + CARD]
        key = card[:8].rstrip()
        if key == "CONTINUE" and continued:
            match = _VALUE.match(card[8:])
            part = match["text"] if match else None
            if part is not None:
                header[continued] = str(header[continued])[:-1] + part.replace("''", "'").rstrip()
                if not str(header[continued]).endswith("&"):
                    continued = ""
            continue
        continued = ""
        if card[8:10] != "= " or key in header:
            continue
        match = _VALUE.match(card[10:])
        if match is None:
            continue
        if match["text"] is not None:
            value = match["text"].replace("''", "'").rstrip()
            header[key] = value
            if value.endswith("&"):
                continued = key
        elif match["flag"]:
            header[key] = match["flag"] == "T"
        elif match["number"]:
            number = match["number"].upper().replace("D", "E")
            header[key] = float(number) if "." in number or "E" in number else int(number)
    return header


def format_card(key: str, value: Value, comment: str = "") -> bytes:
    """Return one keyword as a card; a string too long for it goes on in CONTINUE cards.

    Raises
    ------
    ValueError
        Where the keyword or the value cannot stand in a FITS header.
    """
    if not re.fullmatch(r"[A-Z0-9_-]{1,8}", key):
        raise ValueError(f"{key!r} is no FITS keyword")
    if isinstance(value, str):
        if not value.isascii() or not value.isprintable():
            raise ValueError(f"{key}: FITS headers hold printable ASCII only, not {value!r}")
        quoted = value.replace("'", "''")
        if len(quoted) > 68:
            return _long_string_cards(key, value)
        text = f"{key:<8}= '{quoted:<8}'"
    else:
        number = {True: "T", False: "F"}[value] if isinstance(value, bool) else repr(value).upper()
        text = f"{key:<8}= {number:>20}"
    if comment:
        text = f"{text:<30} / {comment}"
    return f"{text:<{CARD}}"[:CARD].encode("ascii")


def _long_string_cards(key: str, value: str) -> bytes:
    parts = [value[i : i + 33] for i in range(0, len(value), 33)]  # 33 quotes double to 66
    cards = []
    for i, part in enumerate(parts):
        more = "&" if i + 1 < len(parts) else ""
        lead = f"{key:<8}= " if i == 0 else "CONTINUE  "
        quoted = part.replace("'", "''") + more
        cards.append(f"{lead}'{quoted}'".ljust(CARD))
    return "".join(cards).encode("ascii")


def change_cards(cards: bytes, changes: Mapping[str, Value | None]) -> bytes:
    """Return header cards with some keywords changed, dropped (None) or added at the end.

    All other cards stay as they are, comments and order included.
    """
    kept: list[bytes] = []
    todo = dict(changes)
    dropping = False
    for start in range(0, len(cards), CARD):
        card = cards[start : start + CARD]
        key = card[:8].decode("latin-1").rstrip()
        if key == "CONTINUE" and dropping:
            continue
        dropping = key in changes
        if not dropping:
            kept.append(card)
            continue
        value = todo.pop(key, None)
        if value is not None:
            kept.append(format_card(key, value))
    kept += [format_card(key, value) for key, value in todo.items() if value is not None]
    return b"".join(kept)


def pad_header(cards: bytes) -> bytes:
    """Return cards with END, padded with blanks to whole blocks."""
    return (cards + b"END".ljust(CARD)).ljust(padded(len(cards) + CARD), b" ")
