"""Attributes by which torch's layers state how wide they are, and what they are for other shapes of their tensors."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

from l0bayes.fewer_heads import FewerHeads

Shapes = Mapping[str, torch.Size]


def computes_by_width(module: nn.Module) -> bool:
    """Whether a layer's computation depends on such an attribute, and not on its tensors alone."""
    grouped = isinstance(module, _ConvNd) and module.groups > 1
    return grouped or isinstance(module, nn.GroupNorm | nn.MultiheadAttention)


def attributes(module: nn.Module, shapes: Shapes) -> dict[str, Any]:
    """The attributes of a layer when its tensors have other shapes.

    Args:
        module: a layer, as it is now.
        shapes: names of its own tensors to their new shapes; tensors that are not named keep theirs.

    Returns:
        Attribute name to value; empty for layers that state no width.
    """
    if isinstance(module, nn.Linear) and "weight" in shapes:
        return {"out_features": shapes["weight"][0], "in_features": shapes["weight"][1]}
    if isinstance(module, _ConvNd) and "weight" in shapes:
        return _of_convolution(module, shapes["weight"])
    if isinstance(module, nn.Embedding) and "weight" in shapes:
        return {"num_embeddings": shapes["weight"][0], "embedding_dim": shapes["weight"][1]}
    if isinstance(module, _NormBase):
        size = shapes.get("weight", shapes.get("running_mean"))
        return {} if size is None else {"num_features": size[0]}
    if isinstance(module, nn.GroupNorm) and "weight" in shapes:
        channels = shapes["weight"][0]
        return {"num_channels": channels, "num_groups": channels * module.num_groups // module.num_channels}
    if isinstance(module, nn.PReLU) and "weight" in shapes:
        return {"num_parameters": shapes["weight"][0]}
    if isinstance(module, nn.MultiheadAttention) and "in_proj_weight" in shapes:
        heads = shapes["in_proj_weight"][0] // 3 // module.head_dim
        return {"__class__": FewerHeads, "num_heads": heads, "_qkv_same_embed_dim": False}
    return {}


def _of_convolution(module: _ConvNd, shape: torch.Size) -> dict[str, int]:
    groups = shape[0] * module.groups // module.weight.shape[0] if module.groups > 1 else 1
    first, second = shape[0], shape[1] * groups
    made, read = (second, first) if module.transposed else (first, second)
    return {"out_channels": made, "in_channels": read, "groups": groups}
