"""Every link and every picture of the built site leads somewhere; links to other sites are only looked at.

python docs/check_site.py docs/_build/html
"""

import argparse
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

_LINKS = {"a": "href", "link": "href", "img": "src", "script": "src", "source": "src", "iframe": "src"}


class Page(HTMLParser):
    """What a page links to, and what on it can be linked to.

    Attributes:
        links: addresses, as they are written.
        anchors: names of places.
        unnamed: pictures that nobody who cannot see them is told of.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.anchors: set[str] = set()
        self.unnamed: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Takes in a tag."""
        known = dict(attrs)
        self.anchors |= {value for name, value in attrs if name in ("id", "name") and value}
        if (link := known.get(_LINKS.get(tag, ""))) is not None:
            self.links.append(link)
        if tag == "img" and not known.get("alt"):
            self.unnamed.append(str(known.get("src")))


def broken(site: Path) -> Iterator[str]:
    """What is wrong, a line each.

    Args:
        site: folder of the built pages.
    """
    pages = {path.resolve(): Page(path) for path in sorted(site.rglob("*.html"))}
    for path, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme in ("http", "https", "mailto", "data") or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            where = f"{path.relative_to(site.resolve())}: {link}"
            if not target.exists():
                yield f"{where}: no such file"
            elif parts.fragment and target in pages and unquote(parts.fragment) not in pages[target].anchors:
                yield f"{where}: no such place"
        yield from (f"{path.relative_to(site.resolve())}: {name} says nothing in its alt" for name in page.unnamed)


def main() -> None:
    """Visits every page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("site", type=Path, help="folder of the built pages")
    site = parser.parse_args().site
    if not (site / "index.html").is_file():
        sys.exit(f"site: {site} has no index.html; build it first: make docs")
    wrong = list(broken(site))
    print("\n".join(wrong) or f"{len(list(site.rglob('*.html')))} pages, all links and pictures lead somewhere")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
