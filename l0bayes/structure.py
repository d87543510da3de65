"""Which slices of a network's tensors live and die together. Nothing in here knows a distribution.

A *gate group* is a vector of gates over the features that enter one layer, with the slices of parameters each
gate decides over: the consumer's columns, which the gate multiplies, and, where it can be proven that nobody else
needs the feature, the producer's rows, which vanish with it. Structure is found by torch-pruning's
``DependencyGraph``, wrapped here alone, and every finding is checked numerically before it is used.
"""

import copy
import fnmatch
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch_pruning
from torch import nn

from l0bayes.errors import StructureError

GATE_WORDS = ("input", "unit")

# Autograd operations that treat every feature by itself, so that one feature can vanish without touching another.
_POINTWISE = (
    "Relu", "LeakyRelu", "Elu", "Gelu", "Silu", "Mish", "Sigmoid", "Tanh", "Softplus", "Hardtanh",
    "Hardswish", "Hardsigmoid", "Prelu", "T", "Clone",
)  # fmt: skip


@dataclass(frozen=True)
class Slice:
    """Where a gate vector meets one parameter tensor.

    Attributes:
        tensor: the parameter's name in the network.
        dim: the dimension along which position ``i`` belongs to gate ``i``.
        consumes: whether the gate multiplies these entries (they read the gated feature) or only decides
            whether they exist (they produce it).
    """

    tensor: str
    dim: int
    consumes: bool


@dataclass(frozen=True)
class GateGroup:
    """A vector of gates and the slices they decide over.

    Attributes:
        name: name of the group, ``layer.input`` or ``layer.unit``; also the name of its Pyro site.
        layer: the layer the request named.
        size: number of gates.
        fan_out: parameters that read one gated feature, the |g| of the paper's code cost.
        slices: where the gates meet the parameters.
        selects: the layer whose input must be narrowed before it runs, because whatever produces the feature
            stays as it is; ``None`` if the producer itself gets narrower.
    """

    name: str
    layer: str
    size: int
    fan_out: int
    slices: tuple[Slice, ...]
    selects: str | None


@dataclass(frozen=True)
class Structure:
    """The gate groups of a network, and the layers left dense with the reason for each."""

    groups: tuple[GateGroup, ...]
    dense: Mapping[str, str]

    def __str__(self) -> str:
        rows = [f"{'group':<24}{'gates':>8}{'parameters a gate':>20}  closed gates remove"]
        for group in self.groups:
            removed = ", ".join(f"{s.tensor}[dim {s.dim}]" for s in group.slices)
            rows.append(f"{group.name:<24}{group.size:>8}{group.fan_out:>20}  {removed}")
        rows += [f"{layer:<24}   dense: {reason}" for layer, reason in self.dense.items()]
        return "\n".join(rows)


def match_layers(net: nn.Module, gates: str | Mapping[str, Any]) -> dict[str, Any]:
    """Assigns to each linear layer what the first matching pattern says.

    Args:
        net: any network.
        gates: one word for all layers, or a mapping from patterns of layer names (as in ``fnmatch``) to values.

    Returns:
        Layer name to value, in the network's order.

    Raises:
        StructureError: if the network has no linear layer or a pattern matches none.
    """
    layers = [name for name, module in net.named_modules() if isinstance(module, nn.Linear)]
    if not layers:
        raise StructureError(
            f"net has no layer that can be gated: {type(net).__name__} contains no nn.Linear. Pass a network "
            "with linear layers"
        )
    patterns = {"*": gates} if isinstance(gates, str) else dict(gates)
    for pattern in patterns:
        if not fnmatch.filter(layers, pattern):
            raise StructureError(
                f"gates: the pattern {pattern!r} matches no layer. Layers are {', '.join(map(repr, layers))}"
            )
    found = {}
    for layer in layers:
        matching = [value for pattern, value in patterns.items() if fnmatch.fnmatchcase(layer, pattern)]
        if matching:
            found[layer] = matching[0]
    return found


def find_structure(net: nn.Module, example_input: Any, words: Mapping[str, str]) -> Structure:
    """Finds the gate groups that ``words`` asks for.

    Args:
        net: the network; it is copied, never touched.
        example_input: an input, or a tuple of inputs, that ``net`` accepts, with a batch dimension.
        words: layer name to ``"input"`` (gates on the features that enter the layer) or ``"unit"`` (gates on
            the features that leave it).

    Returns:
        The groups, in the order of ``words``, and the layers left dense with reasons.

    Raises:
        StructureError: if the network does not run on the input, or nothing can be gated.
    """
    graph = _Graph(net, as_arguments(example_input))
    groups: list[GateGroup] = []
    dense: dict[str, str] = {}
    for layer, word in words.items():
        if word not in GATE_WORDS:
            raise StructureError(f"gates: {word!r} for layer {layer!r} is none of {', '.join(GATE_WORDS)}")
        found = graph.input_group(layer) if word == "input" else graph.unit_group(layer)
        if isinstance(found, str):
            dense[layer] = found
            continue
        taken = {(s.tensor, s.dim): g.name for g in groups for s in g.slices}
        clash = next((taken[s.tensor, s.dim] for s in found.slices if (s.tensor, s.dim) in taken), None)
        if clash is None:
            groups.append(found)
        else:
            dense[layer] = f"its {word} gates would be those of {clash!r}"
    if not groups:
        reasons = "; ".join(f"{layer}: {reason}" for layer, reason in dense.items())
        raise StructureError(f"net has no layer that can be gated as asked ({reasons})")
    return Structure(tuple(groups), dense)


class _Graph:
    """torch-pruning's dependency graph of a copy of the network, with its quirks kept in here."""

    def __init__(self, net: nn.Module, inputs: Sequence[Any]) -> None:
        self._net = copy.deepcopy(net).eval().requires_grad_()  # frozen parameters would be invisible to autograd
        try:
            self._net(*inputs)
        except Exception as error:
            raise StructureError(
                f"example_input: {type(net).__name__} does not run on it ({error}). Pass an input of the shape and "
                "type the network takes, with a batch dimension"
            ) from error
        try:
            with torch.enable_grad(), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # parameters outside modules: never part of a group we accept
                self._graph = torch_pruning.DependencyGraph().build_dependency(self._net, tuple(inputs))
        except (RuntimeError, TypeError, ValueError, IndexError, ZeroDivisionError) as error:
            raise StructureError(
                f"example_input: {type(net).__name__} could not be traced with it ({error}). Pass an input of "
                "the shape and type the network takes, with a batch dimension"
            ) from error
        self._names = {module: name for name, module in self._net.named_modules()}

    def _layer(self, name: str) -> nn.Linear | str:
        """A layer that can be gated, or the reason why it cannot."""
        layer = self._net.get_submodule(name)
        assert isinstance(layer, nn.Linear)  # noqa: S101 (match_layers admits no other)
        if layer not in self._graph.module2node:
            return "the network does not call it"
        if "index" in dict(layer.named_buffers(recurse=False)):
            return "it already reads a selection of its inputs"
        return layer if _owns_weight(layer) else "its weight is not a parameter of its own"

    def _members(self, layer: nn.Linear, *, outputs: bool) -> Iterator[tuple[nn.Module, bool, bool]]:
        """Members of the dependency group: module, whether its outputs are meant, whether positions line up."""
        prune = torch_pruning.prune_linear_out_channels if outputs else torch_pruning.prune_linear_in_channels
        positions = list(range(layer.out_features if outputs else layer.in_features))
        for dependency, index in self._graph.get_pruning_group(layer, prune, idxs=positions):
            yield (
                dependency.target.module,
                self._graph.is_out_channel_pruning_fn(dependency.handler),
                list(index) == positions,
            )

    def _coupled(self, layer: nn.Linear, *, outputs: bool) -> tuple[list[nn.Linear], list[nn.Linear]] | str:
        """Producers and consumers of the same features, or the reason why they cannot be separated."""
        producers: list[nn.Linear] = []
        consumers: list[nn.Linear] = []
        for module, is_output, aligned in self._members(layer, outputs=outputs):
            name = self._names.get(module) or str(module)
            if not aligned:
                return f"its features are rearranged on the way through {name!r}"
            if isinstance(module, nn.Linear):
                if not _owns_weight(module):
                    return f"the weight of {name!r} is not a parameter of its own"
                (producers if is_output else consumers).append(module)
            elif module in self._names:
                return f"its features are shared with {name!r}, a {type(module).__name__}"
            elif not any(f"({word}Backward" in name for word in _POINTWISE):
                return f"its features pass through {name!r}, which may mix them"
        return producers, consumers

    def _slices(self, producers: Sequence[nn.Linear], consumers: Sequence[nn.Linear]) -> tuple[Slice, ...]:
        reads = [Slice(join_name(self._names[layer], "weight"), 1, consumes=True) for layer in consumers]
        makes = [
            Slice(join_name(self._names[layer], tensor), 0, consumes=False)
            for layer in producers
            for tensor, _ in layer.named_parameters(recurse=False)
        ]
        return (*reads, *makes)

    def input_group(self, name: str) -> GateGroup | str:
        """Gates on what enters a layer, whose own input can be narrowed; or the reason why not."""
        layer = self._layer(name)
        if isinstance(layer, str):
            return layer
        coupled = self._coupled(layer, outputs=False)
        producers: list[nn.Linear] = []
        # A layer that produces its own inputs is called twice; its last call may give the output.
        if not isinstance(coupled, str) and coupled[1] == [layer] and layer not in coupled[0]:
            producers = coupled[0]
        return GateGroup(
            name=join_name(name, "input"),
            layer=name,
            size=layer.in_features,
            fan_out=layer.out_features,
            slices=self._slices(producers, [layer]),
            selects=None if producers else name,
        )

    def unit_group(self, name: str) -> GateGroup | str:
        """Gates on what leaves a layer, closed where it is consumed; or the reason why not."""
        layer = self._layer(name)
        if isinstance(layer, str):
            return layer
        coupled = self._coupled(layer, outputs=True)
        if isinstance(coupled, str):
            return coupled
        producers, consumers = coupled
        if not consumers:
            return "its features leave the network"
        if producers != [layer]:
            return "its features are added to those of another layer"
        return GateGroup(
            name=join_name(name, "unit"),
            layer=name,
            size=layer.out_features,
            fan_out=sum(consumer.out_features for consumer in consumers),
            slices=self._slices(producers, consumers),
            selects=None,
        )


def _owns_weight(layer: nn.Linear) -> bool:
    """Whether the weight is a plain parameter, not one that weight norm or a parametrization makes."""
    return any(name == "weight" for name, _ in layer.named_parameters(recurse=False))


def as_arguments(example_input: Any) -> tuple[Any, ...]:
    """An example input as the arguments of the network: one, or those of a tuple."""
    return example_input if isinstance(example_input, tuple) else (example_input,)


def join_name(layer: str, name: str) -> str:
    """The dotted name of something in a layer, the root layer being named ``""``."""
    return f"{layer}.{name}" if layer else name


def consumers(group: GateGroup) -> tuple[str, ...]:
    """Names of the layers that read a group's features."""
    return tuple(s.tensor.rpartition(".")[0] for s in group.slices if s.consumes)
