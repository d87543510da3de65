"""Inclusion probabilities against what is exact, or longer."""

from collections.abc import Callable

from tables.reading import results, table, tables_of

_CALLED = {"| resampled |": "| importance |"}  # names of before, in what is stored
_DESIGNS = {
    "independent": "independent",
    "AR .8": "autoregressive, .8",
    "equicorrelated .9": "equicorrelated, .9",
    "blocks .95": "blocks of 5, .95",
    "pairs .999": "pairs, .999",
}


def _inclusion() -> str:
    (text,) = tables_of("inclusion")
    for old, new in _CALLED.items():
        text = text.replace(old, new)
    return text.replace("| guide |", "| method |", 1)


def _gibbs() -> str:
    found = results("gibbs")["designs"]
    sizes = list(found)
    rows = []
    for name, title in _DESIGNS.items():
        errors = [
            f"{found[size][name][method]['largest_error']:.3f}" for size in sizes for method in ("gibbs", "plain")
        ]
        rows.append([title, *errors])
    seconds = []
    for size in sizes:
        for method in ("gibbs", "plain"):
            times = sorted(found[size][name][method]["cpu_seconds"] for name in _DESIGNS)
            seconds.append(f"{times[0]:.1f}–{times[-1]:.1f}")
    rows.append(["CPU seconds", *seconds])
    head = [f"{size} columns: {name}" for size in sizes for name in ("ours", "plain")]
    return table(["", *head], rows)


def _wide() -> str:
    return tables_of("gibbs")[1]


PLACES: dict[str, Callable[[], str]] = {"inclusion": _inclusion, "gibbs": _gibbs, "gibbs-wide": _wide}
