"""Layers amid code that insists on their full width: they select from what they are given, and pad what they make.

Where a width is written into the code between two layers (``view(B, N, 12, 64)``), the layer before it may still be
narrow, with zeros in the places of what it does not make, and so may the layer behind it, which reads what it needs.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from l0bayes.layers.kinds import CONVOLUTIONS, is_conv1d_of_transformers
from l0bayes.layers.select_inputs import feature_dim, select_features

PLACE = "place"  # buffer: where along the full width the features are that a layer makes
FULL = "full_features"  # attribute: the full width
INDEX = "index"  # buffer: which of the features that it is given a layer reads
GIVEN = "given_features"  # attribute: how many it is given


def makes(layer: nn.Module) -> Mapping[str, int]:
    """The parameters of a layer, by the dimension along which they make features; none of layers of other kinds."""
    if is_conv1d_of_transformers(layer):
        return {"weight": 1, "bias": 0}
    if isinstance(layer, CONVOLUTIONS):
        return {"weight": int(layer.transposed), "bias": 0} if layer.groups == 1 else {}
    if isinstance(layer, nn.Embedding):
        return {"weight": 1}
    return {"weight": 0, "bias": 0} if isinstance(layer, nn.Linear) else {}


def reads(layer: nn.Module) -> Mapping[str, int]:
    """The parameters of a layer, by the dimension along which they read features."""
    own = makes(layer)
    return {"weight": 1 - own["weight"]} if own and not isinstance(layer, nn.Embedding) else {}


def padded(output: Tensor, place: Tensor, dim: int, width: int) -> Tensor:
    """Features in their places along the full width, 0 elsewhere."""
    shape = list(output.shape)
    shape[dim] = width
    return output.new_zeros(shape).index_copy(dim, place, output)


def selected(keep: Tensor, dim: int, width: int, args: Any, kwargs: Any) -> Any:
    """Arguments of a layer, of the first of which it reads a part."""
    if args:
        return (select_features(args[0], keep, dim, width), *args[1:]), kwargs
    name = next(iter(kwargs))
    return args, {**kwargs, name: select_features(kwargs[name], keep, dim, width)}


def pad_outputs(layer: nn.Module, width: int) -> None:
    """Makes a layer pad what it makes, in place; so far it makes all of the ``width`` features."""
    if _counts_all(layer, PLACE, FULL, width):
        layer.register_forward_hook(_pad)


def select_by_hook(layer: nn.Module, width: int) -> None:
    """Makes a layer select what it reads, in place; so far it reads all of the ``width`` features."""
    if _counts_all(layer, INDEX, GIVEN, width):
        layer.register_forward_pre_hook(_select, with_kwargs=True)


def _counts_all(layer: nn.Module, buffer: str, attribute: str, width: int) -> bool:
    """Gives a layer indices of all features, unless it has indices already; whether it had none."""
    if hasattr(layer, attribute):
        return False
    layer.register_buffer(buffer, torch.arange(width, device=next(layer.parameters()).device))
    setattr(layer, attribute, width)
    return True


def _pad(layer: nn.Module, _args: Any, output: Tensor) -> Tensor:
    return padded(output, layer.get_buffer(PLACE), feature_dim(layer), int(getattr(layer, FULL)))


def _select(layer: nn.Module, args: Any, kwargs: Any) -> Any:
    return selected(layer.get_buffer(INDEX), feature_dim(layer), int(getattr(layer, GIVEN)), args, kwargs)


def stated(net: nn.Module) -> dict[str, tuple[str, int]]:
    """Buffers of indices in a network to the name and the value of the width that they count in."""
    return {
        f"{name}.{buffer}" if name else buffer: (attribute, int(getattr(layer, attribute)))
        for name, layer in net.named_modules()
        for buffer, attribute in ((INDEX, GIVEN), (PLACE, FULL))
        if hasattr(layer, attribute) and buffer in dict(layer.named_buffers(recurse=False))
    }
