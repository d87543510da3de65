"""Are the results of two networks the same but for rounding?"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from l0bayes.compat import TorchDispatchMode, tree_leaves

# Of the largest output. Right structures agree to 1e-15 in float64; a wrong one deep in a network, such as heads whose
# width is inferred, may differ by no more than 1e-5, so only that leaves no doubt.
_DOUBLE = 1e-9
# Where something is computed with fewer digits, outputs tell little, and gradients are compared as well: what is wrong
# is of the size of a gradient there, however deep.
_FEWER_DIGITS = 1e-4
_GRADIENTS = 1e-2  # of a parameter's largest
_VANISHING = 3e-6  # of the largest of all: gradients that are 0 but for rounding, as of a bias before a norm
_ROUNDING = 1e-12  # of the largest number in between: what cancels leaves the rounding of what was there


def compare(found: Any, wanted: Any, *, double: bool = True, largest: float | None = None) -> None:
    """Raises ``AssertionError`` unless two results are the same up to rounding.

    Args:
        found: a tensor, or tensors nested in lists, tuples, dicts and the like.
        wanted: what it should be.
        double: whether all was computed in float64.
        largest: the largest number in between.
    """
    for one, other in zip(tree_leaves(found), tree_leaves(wanted), strict=True):
        if isinstance(other, Tensor):
            atol = (_DOUBLE if double else _FEWER_DIGITS) * _largest(other) + _ROUNDING * (largest or 0.0)
            torch.testing.assert_close(one, other, rtol=0, atol=atol, check_dtype=False, equal_nan=True)


def weighted_sum(outputs: Any) -> Tensor | None:
    """A sum of outputs that have gradients, each with a weight of its own, in float64; ``None`` if there are none."""
    terms = [
        (y.double() * torch.linspace(0.5, 1.5, y.numel(), dtype=torch.float64, device=y.device).reshape(y.shape)).sum()
        for y in tree_leaves(outputs)
        if isinstance(y, Tensor) and y.is_floating_point() and y.requires_grad
    ]
    return torch.stack(terms).sum() if terms else None


@torch.enable_grad()
def gradients(net: nn.Module, outputs: Any) -> list[Tensor | None]:
    """Gradients of a sum of a network's outputs, each with a weight of its own, in the network's parameters."""
    total = weighted_sum(outputs)
    parameters = [p for p in net.parameters() if p.requires_grad]
    if total is None:
        return [None] * len(parameters)
    found = torch.autograd.grad(total, parameters, allow_unused=True)
    return [g.to_dense() if g is not None and g.layout != torch.strided else g for g in found]


def compare_gradients(net: nn.Module, found: list[Tensor | None], wanted: list[Tensor | None]) -> None:
    """Raises ``AssertionError`` unless gradients from :func:`gradients` are the same up to rounding."""
    everywhere = max((_largest(g) for g in wanted if g is not None), default=0.0)
    names = [name for name, p in net.named_parameters() if p.requires_grad]
    for name, one, other in zip(names, found, wanted, strict=True):
        if one is not None or other is not None:
            first, second = (torch.zeros_like(net.get_parameter(name)) if g is None else g for g in (one, other))
            atol = _GRADIENTS * _largest(second) + _VANISHING * everywhere
            try:
                torch.testing.assert_close(first, second, rtol=0, atol=atol, equal_nan=True)
            except AssertionError as error:
                raise AssertionError(f"the gradient in {name!r} is another: {error}") from error


def _largest(tensor: Tensor) -> float:
    finite = tensor[tensor.isfinite()] if tensor.is_floating_point() or tensor.is_complex() else tensor[:0]
    return float(finite.abs().max()) if finite.numel() else 1.0


class LargestNumber(TorchFunctionMode):
    """Notes the largest number that the functions of torch give while it is on.

    Attributes:
        largest: that number, without sign.
    """

    def __init__(self) -> None:
        super().__init__()
        self.largest = 0.0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Calls a function, and looks at its results."""
        result = func(*args, **(kwargs or {}))
        for value in tree_leaves(result):
            if isinstance(value, Tensor) and value.is_floating_point() and value.numel():
                self.largest = max(self.largest, _largest(value.detach()))
        return result


_DOUBLES = (torch.float64, torch.complex128)


class FewerDigits(TorchDispatchMode):
    """Sees whether something that is in float64 is rounded to fewer digits while it is on.

    Attributes:
        seen: whether it is.
    """

    def __init__(self) -> None:
        parent: Any = super()
        parent.__init__()
        self.seen = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Computes an operation, and looks at the types of what it is given and gives."""
        out = func(*args, **(kwargs or {}))
        given = (value.dtype for value in tree_leaves((args, kwargs)) if isinstance(value, Tensor))
        if not self.seen and any(dtype in _DOUBLES for dtype in given):
            made = (value.dtype for value in tree_leaves(out) if isinstance(value, Tensor))
            self.seen = any((d.is_floating_point or d.is_complex) and d not in _DOUBLES for d in made)
        return out
