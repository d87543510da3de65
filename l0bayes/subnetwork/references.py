"""What a module refers to besides its submodules: its layers in a list, a method of one, an object around one.

A copy of a network has to refer to its own layers there, as :func:`copy.deepcopy` would let it, and to the very same
things everywhere else.
"""

import copy
import types
from collections import deque
from collections.abc import Collection
from functools import partial
from operator import is_
from typing import Any

import torch
from torch import Tensor, nn

# Kinds of values that refer to nothing, as most are.
PLAIN = frozenset({
    *(type(None), bool, int, float, complex, str, bytes, type, types.ModuleType),
    *(types.FunctionType, types.BuiltinFunctionType),
    *(Tensor, nn.Parameter, torch.Size, torch.dtype, torch.device, torch.Generator),
})  # fmt: skip
_CONTAINERS = (dict, list, tuple, set, frozenset, deque)
_UNCHANGING = (tuple, frozenset)


def contents(container: Any) -> list[Any]:
    """What a container holds; of a dict, its keys and then its values."""
    return [*container, *container.values()] if isinstance(container, dict) else list(container)


def alike(one: Collection[Any], other: Collection[Any]) -> bool:
    """Whether two rows consist of the very same things, one by one."""
    return len(one) == len(other) and all(map(is_, one, other))


def refill(container: Any, items: list[Any]) -> None:
    """Lets a container that can be changed hold other things, in the order of :func:`contents`."""
    container.clear()
    if isinstance(container, dict):
        half = len(items) // 2
        container.update(zip(items[:half], items[half:], strict=True))
    elif isinstance(container, set):
        container.update(items)
    else:
        container.extend(items)


class References:
    """Values with their references to some objects turned to others.

    Followed are lists, tuples, dicts, sets and deques, bound methods, partials, and the attributes of one object; not
    what functions close over.

    Args:
        table: id of an object to the one that takes its place.

    Attributes:
        containers: containers that were met and can be changed, each with the one in its place, or itself if it
            refers to none of those objects, and what that holds.
        objects: likewise objects with attributes, their copies, and the attributes of those; only where they differ.
    """

    def __init__(self, table: dict[int, Any]) -> None:
        self._table = table
        self.containers: list[tuple[Any, Any, list[Any]]] = []
        self.objects: list[tuple[Any, Any, dict[str, Any]]] = []

    def __call__(self, value: Any, *, within: bool = False) -> Any:
        """A value with its references turned; the very same if there are none.

        Args:
            value: anything.
            within: whether it is an attribute of such an object already, so that others are left as they are.
        """
        kind = type(value)
        if kind in PLAIN or (kind is tuple and PLAIN.issuperset(map(type, value))):  # such as a convolution's stride
            return value
        if id(value) in self._table:
            return self._table[id(value)]
        if isinstance(value, _CONTAINERS):
            return self._container(value, within=within)
        if isinstance(value, types.MethodType | partial):
            return self._bound(value, within=within)
        return value if within or not hasattr(value, "__dict__") else self._object(value)

    def _container(self, value: Any, *, within: bool) -> Any:
        self._table[id(value)] = value  # it may hold itself
        new, items = value, contents(value)
        if not PLAIN.issuperset(map(type, items)):
            turned = [self(item, within=within) for item in items]
            if not alike(turned, items):
                new, items = _like(value, turned), turned
                self._table[id(value)] = new
        if not isinstance(value, _UNCHANGING):
            self.containers.append((value, new, items))
        return new

    def _bound(self, value: Any, *, within: bool) -> Any:
        """A bound method or a partial function."""
        method = isinstance(value, types.MethodType)
        parts = [value.__func__, value.__self__] if method else [value.func, value.args, value.keywords]
        turned = [self(part, within=within) for part in parts]
        if alike(turned, parts):
            return value
        if method:
            return types.MethodType(*turned)
        function, args, keywords = turned
        new = partial(function, *args, **keywords)
        vars(new).update(vars(value))
        return new

    def _object(self, value: Any) -> Any:
        own = vars(value)
        self._table[id(value)] = value
        if PLAIN.issuperset(map(type, own.values())):
            return value
        turned = {key: self(attribute, within=True) for key, attribute in own.items()}
        if alike(turned.values(), own.values()):
            return value
        new = copy.copy(value)
        vars(new).update(turned)
        self._table[id(value)] = new
        self.objects.append((value, new, turned))
        return new


def _like(container: Any, items: list[Any]) -> Any:
    """A container of the same kind that holds other things."""
    if isinstance(container, tuple):
        return container._make(items) if hasattr(container, "_make") else type(container)(items)
    if isinstance(container, frozenset):
        return type(container)(items)
    new = container.copy()
    refill(new, items)
    return new
