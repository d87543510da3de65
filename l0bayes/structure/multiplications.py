"""Multiply-accumulates of one operation of torch: the one truth behind every count of MACs.

Matrix products, convolutions, attention, recurrent layers and bilinear forms count; what is done element by element
does not. The rules read shapes alone and are the library's own: torch's flop counter knows other operations in each
version, and none of the fused ones.
"""

import math
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from l0bayes.compat import TorchDispatchMode, use_onednn
from l0bayes.structure.call import Call

# Matrix products: the factor along whose last dimension each number of the result is a sum.
_SUMS_OVER = {
    "mm": "self",
    "bmm": "self",
    "mv": "self",
    "dot": "self",
    "vdot": "self",
    "addmm": "mat1",
    "addmv": "mat",
    "baddbmm": "batch1",
    "_int_mm": "self",
    "_scaled_mm": "self",
    "_grouped_mm": "self",
}
_CONVOLUTION = re.compile(r"\w*conv(olution|_depthwise|_transpose|_dilated|[23]d)\w*")
_ATTENTION = re.compile(r"_scaled_dot_product_\w*attention\w*")


def multiply_accumulates(call: Call) -> int:
    """Multiply-accumulates of an operation, for all rows it is given.

    Args:
        call: the operation with its arguments and results.

    Returns:
        Their number, 0 for operations that are none of the kinds counted.
    """
    if own := _added.get(f"{call.func.namespace}::{call.name}"):
        return own(call)
    if call.func.namespace != "aten" or "backward" in call.name:
        return 0
    name = call.name.removesuffix("_")
    if name in _SUMS_OVER:
        return int(call.first_out.numel() * call[_SUMS_OVER[name]].shape[-1])
    if rule := _RULES.get(name):
        return rule(call)
    return next((rule(call) for pattern, rule in _PATTERNS if pattern.fullmatch(name)), 0)


def _summed_batch(call: Call) -> int:
    """A batch of products that is added up."""
    return int(call["batch1"].numel() * call["batch2"].shape[-1])


def _convolution(call: Call) -> int:
    """Every weight at every place: of the output, or of the input where the convolution is a transposed one."""
    transposed = call.bound.get("transposed", "transpose" in call.name)
    places: Any = call.bound.get("input", call.bound.get("self")) if transposed else call.first_out
    return int(places.numel() // places.shape[1] * call["weight"].numel()) if places.numel() else 0


def _attention(call: Call) -> int:
    """Scores and averages; each head of the queries has its own, however many share keys and values."""
    query, key, value = call["query"], call["key"], call["value"]
    return int(math.prod(query.shape[:-1]) * key.shape[-2] * (query.shape[-1] + value.shape[-1]))


def _trilinear(call: Call) -> int:
    """Every combination of positions of the three factors, which are broadcast against one another."""
    shapes = []
    for number in (1, 2, 3):
        shape = list(call[f"i{number}"].shape)
        for dim in call[f"expand{number}"]:
            shape.insert(dim, 1)
        shapes.append(shape)
    return math.prod(torch.broadcast_shapes(*shapes))


def _recurrent(call: Call) -> int:
    """Every weight of a layer at every step; biases are vectors and count for nothing."""
    steps = call["input"].numel() // call["input"].shape[-1]
    weights = call.bound.get("weight") or [call["weight0"], call["weight1"]]
    return int(steps * sum(weight.numel() for weight in weights if weight.dim() > 1))


_added: dict[str, Callable[[Call], int]] = {}  # for operations of other namespaces, by their full names


def add_multiplications(operation: str, rule: Callable[[Call], int]) -> None:
    """Says how many multiply-accumulates an operation of another namespace than torch's has, for all rows."""
    _added[operation] = rule


_RULES: dict[str, Callable[[Call], int]] = {
    "addbmm": _summed_batch,
    "_trilinear": _trilinear,
    "mkldnn_rnn_layer": _recurrent,
    "_cudnn_rnn": _recurrent,
}
_PATTERNS = ((_CONVOLUTION, _convolution), (_ATTENTION, _attention))


@contextmanager
def unfused_attention() -> Iterator[None]:
    """Encoder layers run operation by operation; torch's fast path would be one, of which nothing can be seen."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


@contextmanager
def unfused_recurrence() -> Iterator[None]:
    """Recurrent layers run step by step; oneDNN's are one operation, of which nothing can be seen."""
    before = use_onednn(use=False)
    try:
        yield
    finally:
        use_onednn(use=before)


class MacCounter(TorchDispatchMode):
    """Adds up the multiply-accumulates of all operations that run while it is on.

    Attributes:
        total: their number, for all rows.
    """

    def __init__(self) -> None:
        parent: Any = super()
        parent.__init__()
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Computes an operation and counts it."""
        kwargs = kwargs or {}
        with self:  # some operations are made of others, which are what is counted
            out = func.decompose(*args, **kwargs)
        if out is not NotImplemented:
            return out
        out = func(*args, **kwargs)
        self.total += multiply_accumulates(Call(func, args, kwargs, out))
        return out
