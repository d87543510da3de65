"""Finds the gate groups of a network: from labelled features to tables of slices."""

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.parameter import UninitializedParameter
from torch.utils._pytree import tree_map_only

from l0bayes.errors import StructureError
from l0bayes.fewer_heads import supports
from l0bayes.structure.flow import Flow
from l0bayes.structure.groups import WORDS, GateGroup, Product, Slice, Structure, Word
from l0bayes.structure.names import as_arguments, join_name, layer_of, named_twice

_GATED = (nn.Linear, _ConvNd, nn.Embedding, nn.MultiheadAttention)


@dataclass(frozen=True)
class Request:
    """What is asked for a layer.

    Attributes:
        gates: ``"unit"`` (the features that leave it), ``"input"`` (those that enter it) or ``"weight"``.
        min_units: gates that the test-time network keeps at least; ``None`` lets the structure decide: 1, or 0 where
            something else carries on without the layer.
    """

    gates: Word
    min_units: int | None = None


class Finder:
    """Runs a copy of a network once in evaluation and once in training mode, and sorts its features.

    Args:
        net: the network; it is copied, never touched.
        example_input: an input, or a tuple of inputs, that ``net`` accepts, with a batch dimension.

    Raises:
        StructureError: if the network does not run on the input, or its course depends on the data.
    """

    def __init__(self, net: nn.Module, example_input: Any) -> None:
        self._net = _copied(net).cpu()
        inputs = tree_map_only(Tensor, Tensor.cpu, as_arguments(example_input))
        self._rows = next((len(value) for value in inputs if isinstance(value, Tensor) and value.dim()), 1)
        flow = Flow(self._net)
        self._modules = dict(self._net.named_modules())
        self._run(flow, inputs)
        self._flow = flow.labelling
        self._called = flow.called
        self._refuse_other_ways(flow.sized_by_data)
        read = [torch.zeros(1, dtype=torch.int64), *(axis.labels for axis in self._flow.axes.values())]
        self._classes = self._flow.features.classes(torch.cat(read))
        self._freeze_shared()
        self._axes = {key: (self._classes.of(axis.labels), axis.reads) for key, axis in self._flow.axes.items()}
        self._add_elements()
        self._freeze_unsupported()
        self._along: dict[int, list[tuple[str, int]]] = {}  # class to all axes that it has positions on
        for key, (classes, _) in self._axes.items():
            for number in classes.unique().tolist():
                self._along.setdefault(number, []).append(key)
        self._makers = self._who(reads=False)
        self._readers = self._who(reads=True)

    def _run(self, flow: Flow, inputs: tuple[Any, ...]) -> None:
        fast_attention = torch.backends.mha.get_fastpath_enabled()
        torch.backends.mha.set_fastpath_enabled(False)  # it would be one operation, of which nothing can be seen
        try:
            with torch.random.fork_rng(devices=()):
                self._net.eval()
                flow.run(inputs)
                self._macs, self._products = dict(flow.labelling.macs), list(flow.labelling.products)
                self._trains(flow, inputs)
        except StructureError:
            raise
        except Exception as error:
            raise StructureError(
                f"example_input: {type(self._net).__name__} does not run on it ({error}). Pass an input of the shape "
                "and type the network takes, with a batch dimension"
            ) from error
        finally:
            torch.backends.mha.set_fastpath_enabled(fast_attention)

    def _refuse_other_ways(self, sized_by_data: str | None) -> None:
        """How many rows a mask leaves may decide which layers run: then those that did not are another course."""
        idle = [name for name, m in self._modules.items() if isinstance(m, _GATED) and name not in self._called]
        if sized_by_data is not None and idle:
            raise StructureError(
                f"net: the shape of what {sized_by_data} computes depends on the values of the data, and {idle[0]!r} "
                "did not run: which layers run may depend on them too. Pass an example on which all run, or take the "
                "decision out of the network"
            )

    def _trains(self, flow: Flow, inputs: tuple[Any, ...]) -> None:
        """Training mode may take other ways, such as auxiliary heads; it need not run on the example."""
        try:
            self._net.train()
            flow.run(inputs)
        except ValueError:  # batch norm of a single value per channel
            return

    # -- what cannot be taken out ---------------------------------------------------------------------------------

    def _freeze(self, classes: Tensor, why: str) -> None:
        for number in classes.unique().tolist():
            self._classes.freeze(number, why)

    def _freeze_shared(self) -> None:
        for name, names in named_twice(self._net).items():
            others = ", ".join(repr(other) for other in names if other != name)
            for (tensor, _), axis in self._flow.axes.items():
                if tensor == name:
                    self._freeze(self._classes.of(axis.labels), f"its weight {name!r} is shared with {others}")
            if name in self._flow.elements:
                self._freeze(
                    self._classes.of(self._flow.elements[name]), f"its weight {name!r} is shared with {others}"
                )

    def _shared(self, tensor: str) -> str | None:
        """Why a weight of several names has no gates of its own, if it has several."""
        others = [repr(name) for name in named_twice(self._net).get(tensor, ()) if name != tensor]
        return f"its weight {tensor!r} is shared with {', '.join(others)}" if others else None

    def _add_elements(self) -> None:
        """Parameters that take part in something else than a product, such as norms, biases and embeddings."""
        alive = torch.zeros(self._classes.count, dtype=torch.bool)
        for axis in self._flow.axes.values():
            alive[self._classes.of(axis.labels)] = True
        for name, labels in self._flow.elements.items():
            classes = self._classes.of(labels)
            if not alive[classes].any():
                continue
            dim = _dimension(classes, alive)
            if dim is None or any((name, d) in self._axes for d in range(labels.dim())):
                self._freeze(classes, f"{name} has no dimension of its own for it")
            else:
                self._axes[name, dim] = (_lines(classes, alive, dim).amax(1), False)

    def _freeze_unsupported(self) -> None:
        trained = dict(self._net.named_parameters())
        for key in self._flow.axes:
            if key[0] not in trained:
                self._freeze(self._axes[key][0], f"{key[0]!r}, which reads or makes it, is a buffer")
        for (tensor, _), (classes, reads) in self._axes.items():
            owner = self._modules.get(tensor.rpartition(".")[0])
            if isinstance(owner, nn.MultiheadAttention) and not reads and not supports(owner):
                self._freeze(classes, _too_special(owner))
            if reads and owner is not None and "index" in dict(owner.named_buffers(recurse=False)):
                self._freeze(classes, f"{tensor} already reads a selection of its inputs")

    def _who(self, *, reads: bool) -> dict[int, list[tuple[str, int]]]:
        """Class to the weights that read it, or that make it."""
        found: dict[int, list[tuple[str, int]]] = {}
        for key, axis in self._flow.axes.items():
            if axis.reads == reads:
                for number in self._axes[key][0].unique().tolist():
                    found.setdefault(number, []).append(key)
        found.pop(self._classes.none, None)
        return found

    # -- layers ---------------------------------------------------------------------------------------------------

    def layers(self) -> list[str]:
        """Names of what can have gates: layers, and parameters that multiply features outside of layers."""
        order = {name: number for number, name in enumerate(self._modules)}
        found = {name: None for name, module in self._modules.items() if isinstance(module, _GATED)}
        for tensor, _ in self._flow.axes:
            found.setdefault(layer_of(tensor), None)
        return sorted(found, key=lambda name: order.get(name, order.get(name.rpartition(".")[0], len(order))))

    def _without_gates(self) -> dict[str, str]:
        """Modules with weights of their own that no gate can be asked for."""
        layers = self.layers()
        return {
            name: f"{type(module).__name__} has no gates"
            for name, module in self._modules.items()
            if name not in layers
            and any(
                p.dim() > 1 and not any((join_name(name, own), dim) in self._axes for dim in range(p.dim()))
                for own, p in module.named_parameters(recurse=False)
            )
            and not any(name.startswith(f"{layer}.") for layer in layers)
        }

    def _axis(self, layer: str, *, reads: bool) -> tuple[str, int] | None:
        """The weight of a layer, and the dimension along which it reads or makes features."""
        for tensor, dim in self._axes:
            if layer_of(tensor) == layer and self._axes[tensor, dim][1] == reads and not tensor.endswith("bias"):
                return tensor, dim
        return None

    def _no_axis(self, layer: str) -> str:
        module = self._modules.get(layer)
        if isinstance(module, nn.MultiheadAttention) and not supports(module):
            return _too_special(module)
        shared = [names for name, names in named_twice(self._net).items() if layer_of(name) == layer]
        if shared:
            return f"its weight is shared: {', '.join(map(repr, shared[0]))} are one"
        if layer not in self._called and not isinstance(module, nn.MultiheadAttention):
            inside = self._modules.get(layer.rpartition(".")[0])
            if isinstance(inside, nn.MultiheadAttention):
                return "it belongs to the attention around it"
            return "the network does not call it"
        if module is not None and not any(
            name.endswith("weight") for name, _ in module.named_parameters(recurse=False)
        ):
            return "its weight is not a parameter of its own"
        return "no product of its weight with features was seen"

    # -- groups -----------------------------------------------------------------------------------------------------

    def structure(self, requests: Mapping[str, Request]) -> Structure:
        """The gate groups that are asked for.

        Args:
            requests: layer name to what is asked for it.

        Returns:
            The groups in the order of ``requests``, and the layers left dense with reasons.

        Raises:
            StructureError: if nothing can be gated.
        """
        groups: list[GateGroup] = []
        dense: dict[str, str] = {}
        taken: dict[int, tuple[str, int]] = {}
        for layer, request in requests.items():
            if request.gates not in WORDS:
                raise StructureError(f"gates: {request.gates!r} for layer {layer!r} is none of {', '.join(WORDS)}")
            build = {"unit": self._units, "input": self._inputs, "weight": self._weights}[request.gates]
            found = build(layer, request, taken)
            if isinstance(found, GateGroup):
                groups.append(found)
            elif found:
                dense[layer] = found
        dense |= self._without_gates()
        if not groups:
            reasons = "; ".join(f"{layer}: {reason}" for layer, reason in dense.items())
            raise StructureError(f"net has no layer that can be gated as asked ({reasons or 'it has no layers'})")
        groups.sort(key=lambda group: not group.removable)  # single weights pay last: for what other gates leave open
        shapes = {name: parameter.shape for name, parameter in self._net.named_parameters()}
        return Structure(tuple(groups), dense, shapes, *self._work(groups, taken))

    def _units(self, layer: str, request: Request, taken: dict[int, tuple[str, int]]) -> GateGroup | str:
        axis = self._axis(layer, reads=False)
        if axis is None:
            return self._no_axis(layer)
        row_classes = self._axes[axis][0].tolist()
        numbers = list(dict.fromkeys(row_classes))
        reasons = {number: self._why_not(number) for number in numbers}
        free = [number for number in numbers if reasons[number] is None]
        if not free:
            mixed = self._classes.mixed(numbers[0]) if len(numbers) == 1 else None
            return "; ".join(dict.fromkeys(reason for reason in (mixed, reasons[numbers[0]]) if reason))
        if len(free) == 1 and len(row_classes) > 1:
            return self._classes.mixed(free[0]) or "all of its features live and die together"
        new = [number for number in free if number not in taken]
        if not new:
            return ""  # its features are gated already, with those of the layer they are added to
        name = join_name(layer, "unit")
        taken.update({number: (name, gate) for gate, number in enumerate(new)})
        slices = tuple(self._slices({number: gate for gate, number in enumerate(new)}))
        return self._group(name, layer, len(new), slices, request)

    def _why_not(self, number: int) -> str | None:
        """Why the features of a class cannot be taken out; ``None`` if they can."""
        frozen = self._classes.frozen(number)
        if frozen is not None:
            return frozen
        return None if number in self._readers else "no layer reads its features"

    def _slices(self, gate_of: Mapping[int, int]) -> Iterator[Slice]:
        """All positions of some classes, those that read them first."""
        table = torch.full((self._classes.count,), -1, dtype=torch.int64)
        table[torch.tensor(list(gate_of))] = torch.tensor(list(gate_of.values()))
        axes = dict.fromkeys(key for number in gate_of for key in self._along[number])
        for tensor, dim in sorted(axes, key=lambda key: not self._axes[key][1]):
            classes, reads = self._axes[tensor, dim]
            yield Slice(tensor, dim, table[classes], consumes=reads)

    def _group(self, name: str, layer: str, size: int, slices: tuple[Slice, ...], request: Request) -> GateGroup:
        own = torch.zeros(size, dtype=torch.int64)
        for part in slices:
            if not part.consumes and part.dim is not None and self._makes_features(part):
                weight = self._net.get_parameter(part.tensor)
                decides = part.gates >= 0
                own.index_add_(
                    0, part.gates[decides], torch.full((int(decides.sum()),), weight.numel() // len(decides))
                )
        minimum = request.min_units
        if minimum is None:
            minimum = 0 if self._may_vanish(slices) else 1
        if minimum > size:
            raise StructureError(f"min_units: {minimum} for layer {layer!r}, which has {size} gates")
        return GateGroup(name, layer, size, slices, own, minimum)

    def _makes_features(self, part: Slice) -> bool:
        """Whether a slice is that of a weight or an embedding, and not of something that follows them."""
        owner = self._modules.get(part.tensor.rpartition(".")[0])
        return (part.tensor, part.dim) in self._flow.axes or isinstance(owner, nn.Embedding)

    def _may_vanish(self, slices: tuple[Slice, ...]) -> bool:
        """Whether every reader has other features to read, or adds to something that others make too."""
        for part in slices:
            if part.consumes and (part.gates >= 0).all():
                made = [self._axes[key][0] for key in self._axes if key[0] == part.tensor and not self._axes[key][1]]
                others = [
                    [key for key in self._makers.get(number, []) if key[0] != part.tensor]
                    for number in (torch.cat(made).unique().tolist() if made else [])
                ]
                if not others or not all(others):
                    return False
        return True

    def _inputs(self, layer: str, request: Request, taken: dict[int, tuple[str, int]]) -> GateGroup | str:
        axis, module = self._axis(layer, reads=True), self._modules.get(layer)
        if axis is None:
            return self._no_axis(layer)
        if shared := self._shared(axis[0]):
            return shared
        plain = isinstance(module, nn.Linear | _ConvNd) and not isinstance(module, _ConvTransposeNd)
        if not plain or "index" in dict(module.named_buffers(recurse=False)):  # type: ignore[union-attr]
            return "its inputs cannot be selected; ask for the units of the layers before it"
        name, size = join_name(layer, "input"), len(self._axes[axis][0])
        numbers = self._axes[axis][0].tolist()
        owners = {taken[number][0] if number in taken else None for number in numbers}
        one_each = len(set(numbers)) == size and self._classes.none not in numbers
        if one_each and None not in owners:
            return f"its input gates would be those of {', '.join(sorted(str(owner) for owner in owners))!r}"
        read_here = one_each and all(self._readers.get(number) == [axis] for number in numbers)
        weight = self._net.get_parameter(axis[0])
        own = torch.full((size,), weight.numel() // size)
        minimum = 1 if request.min_units is None else request.min_units
        if minimum > size:
            raise StructureError(f"min_units: {minimum} for layer {layer!r}, which has {size} gates")
        if read_here and owners == {None} and all(self._why_not(number) is None for number in numbers):
            taken.update({number: (name, gate) for gate, number in enumerate(numbers)})
            slices = tuple(self._slices({number: gate for gate, number in enumerate(numbers)}))
            return GateGroup(name, layer, size, slices, own, minimum)
        part = Slice(*axis, torch.arange(size), consumes=True)
        return GateGroup(name, layer, size, (part,), own, minimum, selects=layer)

    def _weights(self, layer: str, request: Request, taken: dict[int, tuple[str, int]]) -> GateGroup | str:  # noqa: ARG002
        axis = self._axis(layer, reads=True)
        if axis is None:
            return self._no_axis(layer)
        if shared := self._shared(axis[0]):
            return shared
        size = self._net.get_parameter(axis[0]).numel()
        part = Slice(axis[0], None, torch.arange(size), consumes=True)
        minimum = 0 if request.min_units is None else request.min_units
        return GateGroup(join_name(layer, "weight"), layer, size, (part,), torch.ones(size, dtype=torch.int64), minimum)

    def _work(
        self, groups: list[GateGroup], taken: Mapping[int, tuple[str, int]]
    ) -> tuple[Mapping[str, float], tuple[Product, ...]]:
        """Multiply-accumulates per input: of each element of a weight, and of features with features."""
        macs = {name: number / self._rows for name, number in self._macs.items()}
        sums = {group.name: torch.zeros(group.size, dtype=torch.float64) for group in groups} | {"": torch.zeros(1)}
        for labels, each in self._products:
            numbers, counts = self._classes.of(labels).unique(return_counts=True)
            for number, count in zip(numbers.tolist(), counts.tolist(), strict=True):
                name, gate = taken.get(number, ("", 0))
                sums[name][gate] += count * each / self._rows
        return macs, tuple(Product(name, total) for name, total in sums.items() if total.any())


def _copied(net: nn.Module) -> nn.Module:
    if any(isinstance(parameter, UninitializedParameter) for parameter in net.parameters()):
        raise StructureError(
            f"net: {type(net).__name__} has lazy layers without shapes yet. Call it once on an input first"
        )
    try:
        return copy.deepcopy(net)
    except Exception as error:
        raise StructureError(
            f"net: {type(net).__name__} cannot be copied ({error}). Remove what it keeps of earlier calls, such as "
            "outputs stored as attributes"
        ) from error


def _too_special(attention: nn.MultiheadAttention) -> str:
    return f"{type(attention).__name__} with these options cannot run with fewer heads"


def _lines(classes: Tensor, alive: Tensor, dim: int) -> Tensor:
    """The classes of a tensor's elements line by line along a dimension; 0 where nothing else is tied to them."""
    return torch.where(alive[classes], classes, 0).movedim(dim, 0).reshape(classes.shape[dim], -1)


def _dimension(classes: Tensor, alive: Tensor) -> int | None:
    """The one dimension along which the elements of a tensor differ in class; ``None`` if there is no such one."""
    for dim in range(classes.dim()):
        lines = _lines(classes, alive, dim)
        alike = (lines == lines.amax(1, keepdim=True)) | (lines == 0)
        if alike.all() and (classes.shape[dim] > 1 or classes.numel() == 1):
            return dim
    return None
