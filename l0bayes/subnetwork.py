"""The one mechanism: a draw of the gates selects a subnetwork, and only that subnetwork is computed.

For gates z: keep the slices whose gates are not zero, multiply the consumers' slices by z, and run the user's own
module on those smaller tensors. The selection is the same while training (a sampled z), when predicting (a posterior
draw or the test-time gates) and when the finished network is handed over (:func:`compact_network`).
"""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.func import functional_call

from l0bayes.structure import GateGroup, join_name


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
        narrow_below: share of open gates below which a group's slices are taken out. Above it copying the slices
            costs more than it saves, and the closed gates' zeros stay in the products; the result is the same.
            1 always takes them out.
        whole: names of groups that are never taken out.
    """

    def __init__(
        self, groups: Sequence[GateGroup], narrow_below: float = 1.0, whole: frozenset[str] = frozenset()
    ) -> None:
        self._groups = tuple(groups)
        self._whole = whole
        self._narrow_below = narrow_below
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
        kept = {
            group.name: None if group.name in self._whole else self._kept(gates[group.name]) for group in self._groups
        }
        values = {
            name: gates[name] if keep is None else gates[name].index_select(0, keep) for name, keep in kept.items()
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
                    gate = values[group].to(tensor.dtype)
                    behind = tensor.dim() - 1 - dim
                    tensor = tensor * (gate.reshape(-1, *(1,) * behind) if behind else gate)
            tensors[name] = tensor
        features = {
            group.selects: keep
            for group in self._groups
            if group.selects is not None and (keep := kept[group.name]) is not None
        }
        return Selection(tensors, features)

    def _kept(self, gate: Tensor) -> Tensor | None:
        """Indices of the gates that are not exactly 0, or ``None`` if the group stays at full size."""
        keep = gate.detach().nonzero().squeeze(1)
        share = len(keep) / len(gate)
        return keep if share < 1 and share <= self._narrow_below else None


def _select_features(x: Tensor, keep: Tensor, features: int) -> Tensor:
    if x.shape[-1] != features:
        # RuntimeError, as torch raises for the full layer
        raise RuntimeError(f"the layer reads {features} features, of which {len(keep)} are kept; got {x.shape[-1]}")
    return x.index_select(-1, keep)


@contextmanager
def _narrow_inputs(net: nn.Module, features: Mapping[str, Tensor]) -> Iterator[None]:
    """Lets the named layers read only the selected features of what reaches them."""
    with ExitStack() as hooks:
        for name, keep in features.items():
            layer = net.get_submodule(name)
            handle = layer.register_forward_pre_hook(
                lambda module, args, keep=keep: (_select_features(args[0], keep, module.in_features), *args[1:])
            )
            hooks.callback(handle.remove)
        yield


def run_subnetwork(net: nn.Module, selection: Selection, *args: Any, **kwargs: Any) -> Any:
    """Runs the user's own module on the selected tensors; everything not selected is never computed."""
    with _narrow_inputs(net, selection.features):
        return functional_call(net, dict(selection.tensors), args, kwargs, tie_weights=False)


class SelectLinear(nn.Linear):
    """A linear layer that reads only some of the features it is given.

    Args:
        in_features: number of features it reads.
        out_features: number of features it produces.
        bias: whether it has a bias.

    The buffer ``index`` holds the positions it reads, of shape ``(in_features,)``; ``given_features`` is how many it
    is given.
    """

    index: Tensor

    def __init__(self, in_features: int, out_features: int, *, bias: bool = True, device: Any = None) -> None:
        super().__init__(in_features, out_features, bias=bias, device=device)
        self.given_features = in_features
        self.register_buffer("index", torch.arange(in_features, device=device))

    @classmethod
    def like(cls, layer: nn.Linear) -> Self:
        """The same layer, reading all its features; it shares the parameters."""
        new = cls(layer.in_features, layer.out_features, bias=layer.bias is not None, device="meta")
        new.weight, new.bias = layer.weight, layer.bias
        new.index = torch.arange(layer.in_features, device=layer.weight.device)
        return new.train(layer.training)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 (the name nn.Linear gives it)
        """Applies the layer to the features ``input[..., index]``."""
        return super().forward(_select_features(input, self.index, self.given_features))


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
    # Only a plain linear layer can be made to select its inputs; a subclass keeps the zero columns.
    whole = {g.name for g in groups if g.selects is not None and type(net.get_submodule(g.selects)) is not nn.Linear}
    selection = Selector(groups, whole=frozenset(whole))(net.get_parameter, gates)
    tensors = dict(selection.tensors)
    tensors |= {join_name(layer, "index"): keep for layer, keep in selection.features.items()}
    small = resize(copy.deepcopy(net), {name: tensor.shape for name, tensor in tensors.items()})
    state = small.state_dict()
    for name, tensor in tensors.items():
        state[name].copy_(tensor)
    return small


def resize(net: nn.Module, shapes: Mapping[str, torch.Size]) -> nn.Module:
    """Gives a network's tensors other shapes, in place; values of those that change are lost.

    Args:
        net: a network.
        shapes: tensor name to shape. An ``index`` that a linear layer does not have yet makes it a
            :class:`SelectLinear`.

    Returns:
        ``net``, or what replaced it if it is itself such a layer.

    Raises:
        ValueError: if a name or a number of dimensions does not fit the network.
    """
    for name in shapes:
        path, _, tensor = name.rpartition(".")
        if tensor == "index" and type(layer := net.get_submodule(path)) is nn.Linear:
            net = _replace(net, layer, SelectLinear.like(layer))
    state = net.state_dict()
    for name, shape in shapes.items():
        if name not in state or state[name].dim() != len(shape):
            raise ValueError(f"{type(net).__name__} has no tensor {name} of {len(shape)} dimensions")
        path, _, attribute = name.rpartition(".")
        owner = net.get_submodule(path)
        # A tensor of its own even where the shape stays: tied ones may differ after selection.
        new = state[name].clone() if state[name].shape == shape else state[name].new_zeros(shape)
        old = owner._parameters.get(attribute)  # noqa: SLF001 (buffer or parameter?)
        setattr(owner, attribute, new if old is None else nn.Parameter(new, requires_grad=old.requires_grad))
        if isinstance(owner, nn.Linear):
            owner.out_features, owner.in_features = owner.weight.shape
    return net


def _replace(net: nn.Module, old: nn.Module, new: nn.Module) -> nn.Module:
    """Puts one module in the place of another, under every name it has; the root may be replaced too."""
    if net is old:
        return new
    for parent in list(net.modules()):
        for name, child in list(parent._modules.items()):  # noqa: SLF001 (named_children leaves out second names)
            if child is old:
                setattr(parent, name, new)
    return net
