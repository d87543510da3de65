"""What a network is called with: positional and keyword arguments, however nested, as one value."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from l0bayes.checks import check_inputs
from l0bayes.compat import tree_leaves, tree_map_tensors
from l0bayes.errors import DataError

# Masks of transformers' networks, which not all of them look at, by what they mask.
_MASKS = {"attention_mask": "input_ids", "decoder_attention_mask": "decoder_input_ids"}
Shapes = tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Inputs:
    """The arguments of one call of a network.

    Attributes:
        args: positional arguments.
        kwargs: keyword arguments.
    """

    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, given: Any) -> "Inputs":
        """An example, or data, as arguments: a mapping is keyword arguments, a tuple positional ones, else it is one.

        A network whose one argument is a mapping is given it in a tuple, ``({"a": …},)``.
        """
        if isinstance(given, Inputs):
            return given
        if isinstance(given, Mapping):
            return cls((), dict(given))
        return cls(given if isinstance(given, tuple) else (given,))

    def call(self, net: Callable[..., Any]) -> Any:
        """What a network, or anything that is called like it, returns."""
        return net(*self.args, **self.kwargs)

    def map(self, function: Callable[[Tensor], Any]) -> "Inputs":
        """The same arguments with each tensor, however deep, replaced by what a function makes of it."""
        args, kwargs = tree_map_tensors(function, (self.args, dict(self.kwargs)))
        return Inputs(args, kwargs)

    @property
    def leaves(self) -> list[Any]:
        """All that is in there, in order."""
        return tree_leaves((self.args, dict(self.kwargs)))

    @property
    def tensors(self) -> list[Tensor]:
        """All tensors that are in there, in order."""
        return _tensors((self.args, dict(self.kwargs)))

    @property
    def by_name(self) -> dict[str, Any]:
        """Arguments by what to call them in a message."""
        alone = len(self.args) == 1 and not self.kwargs
        named = {"" if alone else f"argument {number}": value for number, value in enumerate(self.args, 1)}
        return named | {repr(name): value for name, value in self.kwargs.items()}

    @property
    def rows(self) -> int | None:
        """Length of the first tensor that has a first dimension; ``None`` if none has."""
        return next((len(value) for value in self.tensors if value.dim()), None)

    @property
    def shapes(self) -> dict[str, Shapes]:
        """Shapes of all tensors without their rows, by the name of the argument that they are in."""
        named = {name: _tensors(value) for name, value in self.by_name.items()}
        return {name: tuple(tuple(x.shape[1:]) for x in tensors) for name, tensors in named.items() if tensors}

    def described(self) -> str:
        """Names and shapes of the tensors, for messages."""
        named = {name: _tensors(value) for name, value in self.by_name.items()}
        shown = (
            f"{name} {', '.join(str(tuple(x.shape)) for x in tensors)}" for name, tensors in named.items() if tensors
        )
        return ", ".join(one.strip() for one in shown) or _kinds(self)

    def check(self, name: str) -> None:
        """Raises unless there is a tensor, all are finite, masks fit what they mask, and nothing grows with each call.

        Args:
            name: the argument that they came in.

        Raises:
            DataError: if not.
        """
        for own, value in self.by_name.items():
            where = f"{name}: {own}" if own else name
            for leaf in tree_leaves(value):
                if is_cache(leaf):
                    raise DataError(
                        f"{where} is a {type(leaf).__name__}, which grows with each call, and holds keys and values of "
                        "all heads. Leave it out: the network makes one of its own"
                    )
                if isinstance(leaf, Tensor) and (leaf.dim() or (own == "" and leaf is value)):
                    check_inputs(leaf, where)
        for mask, of in _MASKS.items():
            masked, ids = self.kwargs.get(mask), self.kwargs.get(of)
            if not isinstance(masked, Tensor) or not isinstance(ids, Tensor):
                continue
            if masked.dim() == ids.dim() and masked.shape != ids.shape:
                raise DataError(
                    f"{name}: {mask!r} must have an entry for each of {of!r}, {tuple(ids.shape)}; it has shape "
                    f"{tuple(masked.shape)}"
                )
        if self.rows is None:
            raise DataError(f"{name} must be a tensor with at least one row, or hold one; got {_kinds(self)}")

    def split(self, size: int, name: str) -> Iterator["Inputs"]:
        """The same arguments for so many rows at a time; what has no rows, or a single one, goes with each part.

        Args:
            size: number of rows.
            name: the argument that they came in.

        Raises:
            DataError: if they have different numbers of rows.
        """
        rows = self.rows or 1
        if rows <= size:
            yield self
            return
        for own, value in self.by_name.items():
            for leaf in tree_leaves(value):
                if isinstance(leaf, Tensor) and leaf.dim() and len(leaf) not in (1, rows):
                    raise DataError(f"{name}: {own} has {len(leaf)} rows, and what comes before it {rows}")
        for start in range(0, rows, size):
            yield self.map(lambda x, at=start: x[at : at + size] if x.dim() and len(x) == rows else x)  # type: ignore[misc]


def is_cache(value: Any) -> bool:
    """Whether something is a cache of keys and values, as transformers' networks take, fill and return.

    It is a network's own business: of the same heads as the network that made it, and of no use to another.
    """
    return any(k.__name__ == "Cache" and k.__module__.partition(".")[0] == "transformers" for k in type(value).__mro__)


def _tensors(value: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor)]


def _kinds(inputs: Inputs) -> str:
    return ", ".join(f"{name} {type(value).__name__}".strip() for name, value in inputs.by_name.items()) or "nothing"
