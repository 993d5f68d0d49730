"""Tell which links of the built site lead nowhere, without the network: `make docs` runs it."""

import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit


class Page(HTMLParser):
    """The links of a page, and the names that a link can lead to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: set[str] = set()
        self.names: set[str] = {""}
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note what the element links to and is called."""
        for key, value in attrs:
            if key in ("href", "src") and value:
                self.links.add(value)
            elif key in ("id", "name") and value:
                self.names.add(value)


def dead_links(site: Path) -> Iterator[str]:
    """Give a line for each link to a file or a place in a page that is not there."""
    pages = {
        path.resolve(): Page(path.read_text())
        for path in site.rglob("*.html")
        if "_static" not in path.parts
    }
    for path, page in sorted(pages.items()):
        for link in sorted(page.links):
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            there = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            there = there / "index.html" if there.is_dir() else there
            name = unquote(parts.fragment)
            if not there.exists():
                yield f"{path.relative_to(site.resolve())}: {link}: no such file"
            elif name and there in pages and name not in pages[there].names:
                yield f"{path.relative_to(site.resolve())}: {link}: no such place in that page"


def main() -> int:
    """Check the site named on the command line; return the exit code."""
    site = Path(sys.argv[1])
    count = len(list(site.rglob("*.html")))
    dead = list(dead_links(site))
    print("\n".join([*dead, f"{count} pages, {len(dead)} dead links"]))
    return int(bool(dead) or not count)


if __name__ == "__main__":
    sys.exit(main())
