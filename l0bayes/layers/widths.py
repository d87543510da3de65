"""Attributes by which torch's layers state how wide they are, and what they are for other shapes of their tensors."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from l0bayes.compat import SEPARATE_PROJECTIONS
from l0bayes.layers.fewer_heads import FewerHeads
from l0bayes.layers.kinds import BATCH_NORMS, CONVOLUTIONS, INSTANCE_NORMS

Shapes = Mapping[str, torch.Size]


def computes_by_width(module: nn.Module) -> bool:
    """Whether a layer's computation depends on such an attribute, and not on its tensors alone."""
    grouped = isinstance(module, CONVOLUTIONS) and module.groups > 1
    return grouped or isinstance(module, (nn.GroupNorm, nn.MultiheadAttention, *INSTANCE_NORMS))


def attributes(module: nn.Module, shapes: Shapes) -> dict[str, Any]:
    """The attributes of a layer when its tensors have other shapes.

    Args:
        module: a layer, as it is now.
        shapes: names of its own tensors to their new shapes; tensors that are not named keep theirs.

    Returns:
        Attribute name to value; empty for layers that state no width.
    """
    for kind, tensors, rule in _RULES:
        shape = next((shapes[name] for name in tensors if name in shapes), None)
        if isinstance(module, kind) and shape is not None:
            return rule(module, shape)
    return {}


def _of_linear(_module: Any, shape: torch.Size) -> dict[str, Any]:
    return {"out_features": shape[0], "in_features": shape[1]}


def _of_convolution(module: Any, shape: torch.Size) -> dict[str, Any]:
    groups = shape[0] * module.groups // module.weight.shape[0] if module.groups > 1 else 1
    first, second = shape[0], shape[1] * groups
    made, read = (second, first) if module.transposed else (first, second)
    return {"out_channels": made, "in_channels": read, "groups": groups}


def _of_embedding(_module: Any, shape: torch.Size) -> dict[str, Any]:
    return {"num_embeddings": shape[0], "embedding_dim": shape[1]}


def _of_norm(_module: Any, shape: torch.Size) -> dict[str, Any]:
    return {"num_features": shape[0]}


def _of_group_norm(module: Any, shape: torch.Size) -> dict[str, Any]:
    return {"num_channels": shape[0], "num_groups": shape[0] * module.num_groups // module.num_channels}


def _of_prelu(_module: Any, shape: torch.Size) -> dict[str, Any]:
    return {"num_parameters": shape[0]}


def _of_attention(module: Any, shape: torch.Size) -> dict[str, Any]:
    heads = shape[0] // 3 // module.head_dim
    return {"__class__": FewerHeads, "num_heads": heads, **SEPARATE_PROJECTIONS}


# Kind of layer, the tensors whose shape tells (the first that it has), and what follows from the shape.
_RULES: tuple[tuple[type | tuple[type, ...], tuple[str, ...], Callable[[Any, torch.Size], dict[str, Any]]], ...] = (
    (nn.Linear, ("weight",), _of_linear),
    (CONVOLUTIONS, ("weight",), _of_convolution),
    (nn.Embedding, ("weight",), _of_embedding),
    ((*BATCH_NORMS, *INSTANCE_NORMS), ("weight", "running_mean"), _of_norm),
    (nn.GroupNorm, ("weight",), _of_group_norm),
    (nn.PReLU, ("weight",), _of_prelu),
    (nn.MultiheadAttention, ("in_proj_weight",), _of_attention),
)
