"""The tensors of a network by name, and what is left of a tensor, in the layout in memory that it had."""

from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from l0bayes.compat import own_buffers, own_modules, own_parameters

Kept = tuple[tuple[int, Tensor], ...]  # dimensions of a tensor, and the indices along them that are kept
Positions = Mapping[str, Kept]  # tensor name to what is kept of it; tensors of which all is kept are not named
Replaced = list[tuple[nn.Parameter, nn.Parameter, Kept]]  # old parameters, new ones, what the new ones keep

_CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}


def submodule(net: nn.Module, path: str) -> nn.Module:
    """A module by its dotted name; as ``get_submodule``, but fast, and without the statements of Pyro's modules."""
    module: Any = net
    for part in path.split(".") if path else ():
        module = own_modules(module)[part]
    found: nn.Module = module
    return found


def tensor_of(net: nn.Module, name: str) -> Tensor:
    """A parameter or buffer by its dotted name."""
    path, _, attribute = name.rpartition(".")
    module = submodule(net, path)
    tensor = own_parameters(module).get(attribute)
    return cast("Tensor", own_buffers(module)[attribute] if tensor is None else tensor)


def narrow(tensor: Tensor, kept: Kept) -> Tensor:
    """The entries of a tensor at the given indices along the given dimensions, in the layout in memory that it has.

    Differentiable; the very tensor if nothing is taken out.
    """
    part = tensor
    for dim, keep in kept:
        part = part.index_select(dim, keep.to(part.device))
    return laid_out_as(tensor, part)


def laid_out_as(whole: Tensor, part: Tensor) -> Tensor:
    """A part of a tensor with its channels last in memory, if the whole has them there: selecting loses that."""
    layout = _CHANNELS_LAST.get(whole.dim())
    if layout is None or part is whole or whole.is_contiguous() or not whole.is_contiguous(memory_format=layout):
        return part
    return part.contiguous(memory_format=layout)
