"""Which part of what a network returns is meant: outputs that are mappings, objects with fields, or tuples."""

from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from torch import Tensor

from l0bayes.errors import DataError

Which = str | int | Callable[[Any], Any]


def chosen(outputs: Any, which: Which | None, argument: str = "output") -> Tensor:
    """One tensor of what a network returned.

    Args:
        outputs: what it returned.
        which: the name of a field, the place in a tuple, or a function of the whole; ``None`` if it is a tensor.
        argument: the name that ``which`` has for the user.

    Returns:
        The tensor.

    Raises:
        DataError: if there is no such part, or it is no tensor.
    """
    part = outputs
    if isinstance(which, int):
        part = outputs[which] if _has_place(outputs, which) else None
    elif isinstance(which, str):
        part = outputs.get(which) if isinstance(outputs, Mapping) else getattr(outputs, which, None)
    elif which is not None:
        part = which(outputs)
    if isinstance(part, Tensor):
        return part
    found = f"the network returns a {type(outputs).__name__}{_parts(outputs)}"
    if which is None:
        raise DataError(
            f"{found}; one tensor is needed. Say which by {argument}=: the name of a field, a place, or a function"
        )
    raise DataError(f"{argument}: {found}, of which {which!r} gives a {type(part).__name__} and no tensor")


def _has_place(outputs: Any, place: int) -> bool:
    return isinstance(outputs, tuple | list) and -len(outputs) <= place < len(outputs)


def _parts(outputs: Any) -> str:
    if isinstance(outputs, Mapping):
        return f" with {', '.join(map(repr, outputs))}"
    if is_dataclass(outputs):
        return f" with {', '.join(repr(own.name) for own in fields(outputs))}"
    return f" of {len(outputs)}" if isinstance(outputs, tuple | list) else ""
