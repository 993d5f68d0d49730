"""Text from elsewhere, made fit for messages: of files, of servers, of markers."""


def neutral(text: str) -> str:
    r"""Return a text with everything escaped that a terminal would obey or hide.

    Control characters, line ends and marks that turn the direction of writing become their escape
    sequences in Python, such as `\x1b`; letters of any script stay.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def shorten(text: str, most: int) -> str:
    """Cut a text in its middle to `most` characters: its end often tells the cause."""
    if len(text) <= most:
        return text
    end = 2 * most // 3
    return f"{text[: most - end - 5]} ... {text[-end:]}"
