"""Attributes by which torch's layers state how wide they are, and what they are for other shapes of their tensors."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn

from l0bayes.compat import SEPARATE_PROJECTIONS
from l0bayes.layers.fewer_heads import FewerHeads
from l0bayes.layers.kinds import BATCH_NORMS, CONVOLUTIONS, INSTANCE_NORMS, is_kind

Shapes = Mapping[str, torch.Size]
Kinds = type[nn.Module] | tuple[type[nn.Module], ...] | str


@dataclass(frozen=True)
class _Widths:
    """How the layers of some kinds state their widths, see :func:`add_width_rule`."""

    kinds: Kinds
    tensors: tuple[str, ...]
    widths: Callable[[Any, torch.Size], dict[str, Any]]
    computes: Callable[[Any], bool]

    def fits(self, module: nn.Module) -> bool:
        """Whether a module is of these kinds."""
        return is_kind(module, self.kinds) if isinstance(self.kinds, str) else isinstance(module, self.kinds)


_rules: list[_Widths] = []
_known: WeakKeyDictionary[type[nn.Module], tuple[_Widths, ...]] = WeakKeyDictionary()  # those for a class


def add_width_rule(
    kinds: Kinds,
    tensors: Sequence[str],
    widths: Callable[[Any, torch.Size], dict[str, Any]],
    *,
    computes: bool | Callable[[Any], bool] = True,
) -> None:
    """Says by which attributes a kind of layers states how wide it is.

    Args:
        kinds: a class of modules, or several; or the full name of one, ``"package.module.Class"``, which is then not
            imported. What was added last counts first.
        tensors: names of its own parameters or buffers, of which the first that it has, and that changes, tells.
        widths: from the module as it is, and the new shape of that tensor, to its attributes and their new values.
        computes: whether its forward computes by them, which then are changed while a subnetwork runs, and not only in
            the finished network; or a function of the module that says so.
    """
    says = computes if callable(computes) else (lambda _: computes)
    _rules.insert(0, _Widths(kinds, tuple(tensors), widths, says))
    _known.clear()


def _rules_for(module: nn.Module) -> tuple[_Widths, ...]:
    kind = type(module)
    if kind not in _known:
        _known[kind] = tuple(rule for rule in _rules if rule.fits(module))
    return _known[kind]


def computes_by_width(module: nn.Module) -> bool:
    """Whether a layer's computation depends on such an attribute, and not on its tensors alone."""
    return any(rule.computes(module) for rule in _rules_for(module))


def attributes(module: nn.Module, shapes: Shapes) -> dict[str, Any]:
    """The attributes of a layer when its tensors have other shapes.

    Args:
        module: a layer, as it is now.
        shapes: names of its own tensors to their new shapes; tensors that are not named keep theirs.

    Returns:
        Attribute name to value; empty for layers that state no width.
    """
    for rule in _rules_for(module):
        shape = next((shapes[name] for name in rule.tensors if name in shapes), None)
        if shape is not None:
            return rule.widths(module, shape)
    return {}


def _of_linear(_module: Any, shape: torch.Size) -> dict[str, Any]:
    return {"out_features": shape[0], "in_features": shape[1]}


def _of_conv1d_of_transformers(_module: Any, shape: torch.Size) -> dict[str, Any]:
    return {"nx": shape[0], "nf": shape[1]}


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
    groups = 1 if module.num_groups == 1 else shape[0] * module.num_groups // module.num_channels
    return {"num_channels": shape[0], "num_groups": groups}


def _of_layer_norm(_module: Any, shape: torch.Size) -> dict[str, Any]:
    return {"normalized_shape": tuple(shape)}


def _of_prelu(_module: Any, shape: torch.Size) -> dict[str, Any]:
    return {"num_parameters": shape[0]}


def _of_recurrent(module: Any, shape: torch.Size) -> dict[str, Any]:
    gates = {"LSTM": 4, "GRU": 3}.get(module.mode, 1)
    return {"hidden_size": shape[0] // gates, "input_size": shape[1]}


def _of_cell(module: Any, shape: torch.Size) -> dict[str, Any]:
    return {"hidden_size": shape[0] * module.hidden_size // module.weight_ih.shape[0], "input_size": shape[1]}


def _of_bilinear(_module: Any, shape: torch.Size) -> dict[str, Any]:
    return {"out_features": shape[0], "in1_features": shape[1], "in2_features": shape[2]}


def _of_attention(module: Any, shape: torch.Size) -> dict[str, Any]:
    heads = shape[0] // 3 // module.head_dim
    return {"__class__": FewerHeads, "num_heads": heads, **SEPARATE_PROJECTIONS}


add_width_rule(nn.Linear, ["weight"], _of_linear, computes=False)
add_width_rule(CONVOLUTIONS, ["weight"], _of_convolution, computes=lambda module: bool(module.groups > 1))
add_width_rule("transformers.pytorch_utils.Conv1D", ["weight"], _of_conv1d_of_transformers)
add_width_rule(nn.Embedding, ["weight"], _of_embedding, computes=False)
add_width_rule(BATCH_NORMS, ["weight", "running_mean"], _of_norm, computes=False)
add_width_rule(INSTANCE_NORMS, ["weight", "running_mean"], _of_norm)
add_width_rule(nn.GroupNorm, ["weight"], _of_group_norm)
add_width_rule((nn.LayerNorm, nn.RMSNorm), ["weight"], _of_layer_norm)
add_width_rule(nn.PReLU, ["weight"], _of_prelu, computes=False)
add_width_rule(nn.RNNBase, ["weight_ih_l0"], _of_recurrent)
add_width_rule(nn.RNNCellBase, ["weight_ih"], _of_cell)
add_width_rule(nn.Bilinear, ["weight"], _of_bilinear, computes=False)
add_width_rule(nn.MultiheadAttention, ["in_proj_weight"], _of_attention)
