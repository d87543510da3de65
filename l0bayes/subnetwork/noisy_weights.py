"""Runs a network whose weights are normal, not numbers: by local reparameterisation where that is exact."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 (as everybody does)
from torch.overrides import TorchFunctionMode

from l0bayes.compat import tree_leaves, tree_map_tensors
from l0bayes.evaluating import evaluating
from l0bayes.inputs import Inputs

_MATRIX = 2
_TINY = 1e-16  # variance, so that the root of 0 has a gradient


@dataclass(frozen=True)
class Noise:
    """How far weights are from their means.

    Attributes:
        sd: name to standard deviations, of the weights' shapes.
        local: names of weights that meet each datum once, see :func:`read_once`.
    """

    sd: Mapping[str, Tensor]
    local: frozenset[str] = frozenset()


class NoisyWeights(TorchFunctionMode):
    """While active, what reads a weight gets what it would under N(weight, sd²).

    A linear layer draws its *outputs*, from the normal that independent weights give them: mean x μᵀ, variance x² σ²ᵀ
    (Kingma, Salimans and Welling 2015, arXiv 1506.02557, §2.2). So each row has noise of its own, and the variance of
    gradients falls with the size of the batch. This is exact where a datum meets each weight once, and only done
    there: positions of a convolution, or tokens, share their weights, and so their noise. All else that reads a weight
    is given one draw of it, the same throughout a run.

    Args:
        weights: name to weight, the very tensor that the network will read.
        noise: how far those weights are from their means.
        rows: number of data.
    """

    def __init__(self, weights: Mapping[str, Tensor], noise: Noise, rows: int | None) -> None:
        super().__init__()
        self._weights = {id(weights[name]): weights[name] for name in noise.sd}  # held, or ids could be used anew
        self._sd = {id(weights[name]): value for name, value in noise.sd.items()}
        self._local = {id(weights[name]) for name in noise.local}
        self._rows = rows
        self._drawn: dict[int, Tensor] = {}

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[Any], args: Any = (), kwargs: Any = None
    ) -> Any:
        """Stands in for a torch function that is being called."""
        del types
        kwargs = kwargs or {}
        if func is F.linear:
            x, weight, bias = linear_arguments(args, kwargs)
            if id(weight) in self._local and id(x) not in self._sd and _row_a_datum(x, self._rows):
                mean = F.linear(x, weight, bias)
                variance = F.linear(x.square(), self._sd[id(weight)].square())
                return mean + (variance + _TINY).sqrt() * torch.randn_like(mean)
        args, kwargs = tree_map_tensors(self._draw, (args, kwargs))
        return func(*args, **kwargs)

    def _draw(self, tensor: Tensor) -> Tensor:
        key = id(tensor)
        if key not in self._sd:
            return tensor
        if key not in self._drawn:
            self._drawn[key] = drawn(tensor, self._sd[key])
        return self._drawn[key]


def drawn(weight: Tensor, sd: Tensor) -> Tensor:
    """One draw of a weight, in its dtype."""
    return weight + (sd * torch.randn_like(sd)).to(weight.dtype)


def read_once(net: nn.Module, example_input: Any) -> frozenset[str]:
    """Names of the weights that one linear layer reads, once in a run, with a row for each datum.

    Args:
        net: a network.
        example_input: what it accepts; the first dimension counts the data.
    """
    inputs = Inputs.of(example_input)
    reads = _Reads(inputs.rows)
    with evaluating(net), reads:
        inputs.call(net)
    return frozenset(
        name for name, weight in net.named_parameters() if reads.all[id(weight)] == 1 == reads.by_rows[id(weight)]
    )


class _Reads(TorchFunctionMode):
    """Counts in how many calls each tensor is used, and in how many of them by a linear layer with a row a datum."""

    def __init__(self, rows: int | None) -> None:
        super().__init__()
        self.all: Counter[int] = Counter()
        self.by_rows: Counter[int] = Counter()
        self._rows = rows

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[Any], args: Any = (), kwargs: Any = None
    ) -> Any:
        del types
        kwargs = kwargs or {}
        self.all.update(id(value) for value in tree_leaves((args, kwargs)) if isinstance(value, Tensor))
        if func is F.linear:
            x, weight, _ = linear_arguments(args, kwargs)
            self.by_rows[id(weight)] += _row_a_datum(x, self._rows)
        return func(*args, **kwargs)


def _row_a_datum(x: Tensor, rows: int | None) -> bool:
    return x.dim() == _MATRIX and len(x) == rows


def linear_arguments(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Any, Any, Any]:
    """Input, weight and bias of a call of ``linear``, however they were passed."""
    x, weight, bias = (
        args[k] if k < len(args) else kwargs.get(name) for k, name in enumerate(("input", "weight", "bias"))
    )
    return x, weight, bias
