"""The one mechanism: a draw of the gates selects a subnetwork, and only that subnetwork is computed.

For gates z: keep the slices whose gates are not zero, multiply the consumers' slices by z, and run the user's own
module on those smaller tensors. The selection is the same while training (a sampled z), when predicting (a posterior
draw or the test-time gates) and when the finished network is handed over (:func:`compact_network`).
"""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from l0bayes.structure import GateGroup


@dataclass(frozen=True)
class Selection:
    """The tensors of a subnetwork.

    Attributes:
        tensors: parameter name to its narrowed, gated value; parameters that are not named stay as they are.
        features: layer name to the indices of the input features that it still reads, where its producer
            stays at full size.
    """

    tensors: Mapping[str, Tensor]
    features: Mapping[str, Tensor]


class Selector:
    """Selects subnetworks of one network; the tables are built once.

    Args:
        groups: the network's gate groups.
    """

    def __init__(self, groups: Sequence[GateGroup]) -> None:
        self._groups = tuple(groups)
        self._cuts: dict[str, list[tuple[str, int, bool]]] = {}
        for group in self._groups:
            for part in group.slices:
                self._cuts.setdefault(part.tensor, []).append((group.name, part.dim, part.consumes))

    def __call__(self, parameter: Callable[[str], Tensor], gates: Mapping[str, Tensor]) -> Selection:
        """Narrows and gates the parameters.

        Args:
            parameter: gives the full tensor of a name.
            gates: group name to gate values of shape ``(size,)``; exactly 0 means closed.

        Returns:
            The selection, differentiable in parameters and gates.
        """
        kept = {group.name: open_positions(gates[group.name]) for group in self._groups}
        values = {
            name: gates[name] if keep is None else gates[name].index_select(0, keep)
            for name, keep in kept.items()
        }
        tensors = {}
        for name, cuts in self._cuts.items():
            tensor = parameter(name)
            for group, dim, _ in cuts:
                keep = kept[group]
                if keep is not None:
                    tensor = tensor.index_select(dim, keep)
            for group, dim, consumes in cuts:
                if consumes:
                    tensor = tensor * values[group].reshape(-1, *(1,) * (tensor.dim() - 1 - dim))
            tensors[name] = tensor
        features = {
            group.selects: keep
            for group in self._groups
            if group.selects is not None and (keep := kept[group.name]) is not None
        }
        return Selection(tensors, features)


def open_positions(gate: Tensor) -> Tensor | None:
    """Indices of the gates that are not exactly 0, or ``None`` if all are open."""
    keep = gate.detach().nonzero().squeeze(1)
    return None if len(keep) == len(gate) else keep


@contextmanager
def _narrow_inputs(net: nn.Module, features: Mapping[str, Tensor]) -> Iterator[None]:
    """Lets the named layers read only the selected features of what reaches them."""
    handles = [
        net.get_submodule(layer).register_forward_pre_hook(
            lambda _module, args, keep=keep: (args[0].index_select(-1, keep), *args[1:])
        )
        for layer, keep in features.items()
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def run_subnetwork(net: nn.Module, selection: Selection, *args: Any, **kwargs: Any) -> Any:
    """Runs the user's own module on the selected tensors; everything not selected is never computed."""
    with _narrow_inputs(net, selection.features):
        return functional_call(net, dict(selection.tensors), args, kwargs)


class SelectLinear(nn.Linear):
    """A linear layer that reads only some of the features it is given.

    Args:
        in_features: number of features it reads.
        out_features: number of features it produces.
        bias: whether it has a bias.

    The buffer ``index`` holds the positions it reads, of shape ``(in_features,)``.
    """

    index: Tensor

    def __init__(self, in_features: int, out_features: int, *, bias: bool = True, device: Any = None) -> None:
        super().__init__(in_features, out_features, bias=bias, device=device)
        self.register_buffer("index", torch.arange(in_features, device=device))

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 (the name nn.Linear gives it)
        """Applies the layer to the features ``input[..., index]``."""
        return super().forward(input.index_select(-1, self.index))


@torch.no_grad()
def compact_network(net: nn.Module, groups: Sequence[GateGroup], gates: Mapping[str, Tensor]) -> nn.Module:
    """A plain copy of the network that consists of the selected subnetwork alone.

    Args:
        net: the full network.
        groups: its gate groups.
        gates: group name to gate values of shape ``(size,)``, folded into the weights that consume them.

    Returns:
        A module of the user's own class, at reduced size, in the training mode of ``net``.
    """
    small = copy.deepcopy(net)
    selection = Selector(groups)(net.get_parameter, gates)
    for name, tensor in selection.tensors.items():
        layer, _, attribute = name.rpartition(".")
        owner = small.get_submodule(layer)
        old = net.get_parameter(name)
        setattr(owner, attribute, nn.Parameter(tensor.clone(), requires_grad=old.requires_grad))
        if isinstance(owner, nn.Linear):
            owner.out_features, owner.in_features = owner.weight.shape
    for name, keep in selection.features.items():
        _replace(small, name, _select_linear(small.get_submodule(name), keep))
    return small


def _select_linear(layer: nn.Module, keep: Tensor) -> SelectLinear:
    assert isinstance(layer, nn.Linear)  # noqa: S101 (structure admits no other; this tells the type checker)
    bias = layer.bias is not None
    new = SelectLinear(1, 1, bias=bias, device=layer.weight.device)
    new.weight, new.bias, new.index = layer.weight, layer.bias, keep
    new.out_features, new.in_features = layer.weight.shape
    return new.train(layer.training)


def _replace(net: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, attribute = name.rpartition(".")
    setattr(net.get_submodule(parent), attribute, module)
