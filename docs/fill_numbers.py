"""Fills every number of README and of the documentation from what is stored in ``benchmarks/results``.

    python docs/fill_numbers.py           # fill
    python docs/fill_numbers.py --check   # say what is not as stored, and fail if anything is

A place for a number is a pair of comments, which Markdown does not show, around a table or a phrase:

    <!-- numbers: NAME -->anything<!-- end -->

Names and what fills them are in ``docs/tables``: :data:`tables.PLACES`.
"""

import argparse
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from tables import PLACES

DOCS = Path(__file__).resolve().parent
PLACE = re.compile(r"<!-- numbers: (?P<name>[\w-]+) -->.*?<!-- end -->", re.DOTALL)


def pages() -> Iterator[Path]:
    """README, and every page that somebody wrote."""
    yield DOCS.parent / "README.md"
    built = {DOCS / "notebooks", DOCS / "reference" / "generated", DOCS / "_build"}
    yield from (path for path in sorted(DOCS.rglob("*.md")) if not built & set(path.parents))


def filled(text: str) -> str:
    """The text with all its places filled.

    Args:
        text: Markdown.

    Returns:
        The same with what is stored; a table has lines of its own.

    Raises:
        ValueError: if a name is unknown, a place is not closed, or a phrase begins a line: Markdown would take that
            line for HTML.
    """

    def fill(match: re.Match[str]) -> str:
        name = match["name"]
        if name not in PLACES:
            raise ValueError(f"nothing fills {name!r}; there are {', '.join(sorted(PLACES))}")
        content = PLACES[name]()
        begins = match.start() == 0 or text[match.start() - 1] == "\n"
        if "\n" not in content and begins:
            raise ValueError(f"the phrase {name!r} begins a line; put a word before it")
        within = f"\n\n{content}\n\n" if "\n" in content else content
        return f"<!-- numbers: {name} -->{within}<!-- end -->"

    if text.count("<!-- numbers:") != len(PLACE.findall(text)):
        raise ValueError("a place is not closed by <!-- end -->")
    return PLACE.sub(fill, text)


def main() -> None:
    """Fills, or checks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing, fail if something would change")
    check = parser.parse_args().check
    other = []
    for path in pages():
        text = path.read_text(encoding="utf-8")
        try:
            wanted = filled(text)
        except ValueError as error:
            sys.exit(f"{path.name}: {error}")
        if wanted != text:
            other.append(path.relative_to(DOCS.parent))
            if not check:
                path.write_text(wanted, encoding="utf-8")
    for path in other:
        print(f"{path}: {'not as stored; run python docs/fill_numbers.py' if check else 'filled'}")
    sys.exit(bool(other and check))


if __name__ == "__main__":
    main()
