"""Names of layers and tensors in a network."""

from collections.abc import Mapping
from typing import TypeVar

from torch import nn

_Value = TypeVar("_Value")

_OF_A_LAYER = ("weight", "bias", "in_proj_weight", "in_proj_bias")


def join_name(layer: str, name: str) -> str:
    """The dotted name of something in a layer, the root layer being named ``""``."""
    return f"{layer}.{name}" if layer else name


def layer_of(tensor: str) -> str:
    """The layer a tensor belongs to: its module's name, or its own where it is one parameter among others there."""
    owner, _, name = tensor.rpartition(".")
    return owner if name in _OF_A_LAYER else tensor


def by_owner(values: Mapping[str, _Value]) -> dict[str, dict[str, _Value]]:
    """Values of tensors by the module that holds them, and their names there."""
    owners: dict[str, dict[str, _Value]] = {}
    for name, value in values.items():
        owner, _, attribute = name.rpartition(".")
        owners.setdefault(owner, {})[attribute] = value
    return owners


def shared_parameters(net: nn.Module) -> Mapping[str, tuple[str, ...]]:
    """Parameters that several modules share: each of their names to all of them."""
    names: dict[int, list[str]] = {}
    for path, module in net.named_modules():  # a module under two names is one module, and comes once
        for name, parameter in module.named_parameters(recurse=False, remove_duplicate=False):
            names.setdefault(id(parameter), []).append(join_name(path, name))
    return {name: tuple(group) for group in names.values() if len(group) > 1 for name in group}
