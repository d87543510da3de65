"""Imports run one way: inference → models → l0bayes, and between the rooms of each without a cycle."""

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FLOORS = {"l0bayes": 0, "models": 1, "inference": 2}
SOURCES = sorted(path for floor in FLOORS for path in (ROOT / floor).rglob("*.py"))


def room(parts):
    """A folder within a floor, or a file that stands in none: ``("l0bayes", "structure")``, ``("models", "mlp")``."""
    return tuple(parts[:2]) if len(parts) > 1 else (parts[0], "__init__")


def place(module):
    """The parts of a module's path in the repository."""
    parts = module.split(".")
    return parts[1:] if parts[1:2] and parts[1] in FLOORS else parts


def imported(tree):
    """Modules of ours that a file imports, wherever it does."""
    for node in ast.walk(tree):
        modules = []
        if isinstance(node, ast.ImportFrom):
            modules = [node.module or ""]
        elif isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        yield from (place(module) for module in modules if module.partition(".")[0] == "l0bayes")


def graph():
    """Each room to the rooms it imports from; what a package's own ``__init__`` gathers is not counted."""
    found = {}
    for path in SOURCES:
        own = path.relative_to(ROOT).with_suffix("").parts
        if own[1] == "__init__":
            continue
        others = {room(parts) for parts in imported(ast.parse(path.read_text(encoding="utf-8")))}
        found.setdefault(room(own), set()).update(others - {room(own)})
    return found


def modules():
    """Each file to the files it imports from, an ``__init__`` among them: the same without rooms, and stricter."""
    names = {path.relative_to(ROOT).with_suffix("").parts: path for path in SOURCES}
    names |= {parts[:-1]: path for parts, path in names.items() if parts[-1] == "__init__"}
    found = {}
    for path in SOURCES:
        wanted = set()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                wanted |= {names.get(tuple(place(alias.name))) for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{path}: a relative import, which is not followed here"
                package = tuple(place(node.module))
                wanted |= {names.get((*package, alias.name), names.get(package)) for alias in node.names}
        found[path] = wanted - {path, None}
    return found


def test_no_import_goes_uphill():
    wrong = [
        f"{'/'.join(one)} imports {'/'.join(other)}"
        for one, others in graph().items()
        for other in others
        if FLOORS[other[0]] > FLOORS[one[0]]
    ]
    assert wrong == []


def test_rooms_have_no_cycle():
    try:
        order = list(TopologicalSorter(graph()).static_order())
    except CycleError as error:
        pytest.fail(" imports ".join("/".join(one) for one in reversed(error.args[1])))
    assert ("l0bayes", "structure") in order
    assert order.index(("l0bayes", "compat")) < order.index(("l0bayes", "structure"))


def test_modules_have_no_cycle():
    try:
        order = list(TopologicalSorter(modules()).static_order())
    except CycleError as error:
        pytest.fail(" imports ".join(str(one.relative_to(ROOT)) for one in reversed(error.args[1])))
    assert len(order) == len(SOURCES)
