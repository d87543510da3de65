"""Layers that read only some of the features they are given."""

from collections.abc import Iterator
from typing import Any, cast

import torch
from torch import Tensor, nn

from l0bayes.compat import twin


def feature_dim(layer: nn.Module) -> int:
    """The dimension of a layer's input that holds its features, counted from the end."""
    weight = cast("Tensor", layer.weight)
    return 1 - weight.dim()


def select_features(x: Tensor, keep: Tensor, dim: int, features: int) -> Tensor:
    """The features ``keep`` of the ``features`` that a layer is given along ``dim``."""
    if x.shape[dim] != features:
        # RuntimeError, as torch raises for the full layer
        raise RuntimeError(f"the layer reads {features} features, of which {len(keep)} are kept; got {x.shape[dim]}")
    return x.index_select(dim, keep)


class SelectInputs(nn.Module):
    """A linear layer or convolution that reads a selection of its input features.

    The buffer ``index`` holds the positions it reads; ``given_features`` is how many it is given.
    """

    index: Tensor
    given_features: int

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 (the name torch's layers give it)
        """Applies the layer to the features ``index`` of its input."""
        parent: Any = super()
        output: Tensor = parent.forward(select_features(input, self.index, feature_dim(self), self.given_features))
        return output


class SelectLinear(SelectInputs, nn.Linear):
    """A linear layer that reads a selection of its input features."""


class SelectConv1d(SelectInputs, nn.Conv1d):
    """A 1-d convolution that reads a selection of its input channels."""


class SelectConv2d(SelectInputs, nn.Conv2d):
    """A 2-d convolution that reads a selection of its input channels."""


class SelectConv3d(SelectInputs, nn.Conv3d):
    """A 3-d convolution that reads a selection of its input channels."""


_SELECTING: dict[type[nn.Module], type[SelectInputs]] = {
    nn.Linear: SelectLinear,
    nn.Conv1d: SelectConv1d,
    nn.Conv2d: SelectConv2d,
    nn.Conv3d: SelectConv3d,
}


def can_select(layer: nn.Module) -> bool:
    """Whether a layer can be made to select its inputs; a subclass with a way of its own cannot."""
    return type(layer) in _SELECTING


def selecting(layer: nn.Module) -> SelectInputs:
    """The same layer, reading all its features by way of an index; it shares the parameters."""
    new = twin(layer, _SELECTING[type(layer)])
    weight = cast("Tensor", layer.weight)
    features = layer.in_features if isinstance(layer, nn.Linear) else layer.in_channels
    new.given_features = cast("int", features)
    new.register_buffer("index", torch.arange(new.given_features, device=weight.device))
    return new


def unfused(net: nn.Module, layer: str) -> Iterator[tuple[nn.Module, str, Any]]:
    """What keeps encoders from computing, in one, with the weight of a layer that selects its inputs.

    Args:
        net: the network.
        layer: name of the layer.

    Yields:
        A module around it, an attribute, and the value that it is to have.
    """
    parts = layer.split(".")
    for depth in range(len(parts)):
        module = net.get_submodule(".".join(parts[:depth]))
        if isinstance(module, nn.TransformerEncoder):
            yield module, "use_nested_tensor", False
        elif isinstance(module, nn.TransformerEncoderLayer):
            yield module, "activation_relu_or_gelu", 0
