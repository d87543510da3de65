"""Reading what is stored, and writing it as Markdown."""

import json
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parents[2] / "benchmarks" / "results"


@cache
def stored(name: str) -> dict[str, Any]:
    """A file of ``benchmarks/results``, by its path there without ``.json``."""
    found: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    return found


def results(name: str) -> Any:
    """What was measured, without what made it."""
    return stored(name)["results"]


def command(name: str) -> str:
    """What measures it."""
    return f"`{stored(name)['command']}`"


def table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Markdown, a line a row."""
    lines = [list(head), ["---"] * len(head), *([str(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def tables_of(name: str) -> list[str]:
    """The tables in ``<name>.md``, as the benchmark wrote them."""
    text = (RESULTS / f"{name}.md").read_text(encoding="utf-8").strip()
    return [part.strip() for part in text.split("\n\n") if part.lstrip().startswith("|")]


def share(cost: dict[str, int], places: int = 1) -> str:
    """What is left of it, in per cent."""
    return f"{cost['after'] / cost['before']:.{places}%}"
