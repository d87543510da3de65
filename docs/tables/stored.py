"""Tables that a benchmark has written beside its numbers, as they are."""

from collections.abc import Callable
from functools import partial

from tables.reading import RESULTS, command, results, tables_of

# place to the file, and which of its tables
_WRITTEN = {
    "landing": ("landing", 0),
    "targets": ("targets_lenet5", 0),
    "seeds": ("questions", 0),
    "returning": ("questions", 1),
    "elbo-found": ("questions", 2),
    "draws-a-step": ("questions", 3),
    "predicting": ("questions", 4),
    "gradients": ("gradients", 0),
    "zoo-transformers": ("zoo_transformers", 0),
    "warnings": ("inclusion_warnings", 0),
}
_COMMANDS = (
    "demo",
    "draws",
    "forward",
    "gibbs",
    "gradients",
    "inclusion",
    "inclusion_warnings",
    "landing",
    "memory",
    "questions",
    "step",
    "step_overhead",
    "targets_lenet5",
    "zoo",
    "zoo_transformers",
)


def _table(name: str, number: int) -> str:
    return tables_of(name)[number]


def _said_below(name: str) -> str:
    """What a benchmark has written below its tables."""
    text = (RESULTS / f"{name}.md").read_text(encoding="utf-8").strip()
    return text.rpartition("\n\n")[2].rstrip(".")


def _draws() -> str:
    return f"{results('draws')['ratio_to_plain_torch']['hard_concrete_validated']:.2f}"


PLACES: dict[str, Callable[[], str]] = {
    **{place: partial(_table, *where) for place, where in _WRITTEN.items()},
    **{f"command-{name.replace('_', '-')}": partial(command, name) for name in _COMMANDS},
    "draws": _draws,
    "zoo-transformers-sum": partial(_said_below, "zoo_transformers"),
}
