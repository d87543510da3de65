"""Who makes and who reads each feature of a network, and which features must stay.

Coupled features are a class; classes have numbers.
"""

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter
from torch.nn.utils.parametrize import ParametrizationList

from l0bayes.errors import StructureError
from l0bayes.inputs import Inputs
from l0bayes.layers.fewer_heads import supports
from l0bayes.layers.kinds import CONVOLUTIONS
from l0bayes.structure.courses import other_courses
from l0bayes.structure.flow import Flow
from l0bayes.structure.links import Link, Links
from l0bayes.structure.multiplications import unfused_attention, unfused_recurrence
from l0bayes.structure.names import join_name, layer_of, shared_parameters

_GATED = (nn.Linear, *CONVOLUTIONS, nn.Embedding, nn.MultiheadAttention)

Axis = tuple[str, int]  # a parameter's name and one of its dimensions


class Roles:
    """Runs a copy of a network once in evaluation and once in training mode, and sorts its features.

    Args:
        net: the network; it is copied, never touched.
        example_input: what ``net`` accepts, with a batch dimension, see :meth:`~l0bayes.inputs.Inputs.of`.
        live_norms: whether norms take their statistics over the features that are open.

    Raises:
        StructureError: if the network does not run on the input, or its course depends on the data.

    Attributes:
        net: the copy.
        modules: its modules, by name.
        rows: of the example input.
        classes: the coupled groups of features.
        shared: weights of several names, which have no gates of their own, to the reason in words.
        axes: for each dimension of a parameter that carries features, their classes, and whether it reads them.
        along: class to the axes that it has positions on.
        makers: class to the axes of the weights that make it.
        readers: class to the axes of the weights that read it.
        macs: multiply-accumulates of each weight on the example.
        products: those without a weight: labels of the results, how many each, and in which module.
        other_macs: module to those whose features no rule knows.
        courses: inputs with other integers or booleans, on which the network takes other courses.
        live_norms: names of the norms over live features.
    """

    def __init__(self, net: nn.Module, example_input: Any, *, live_norms: bool = False) -> None:
        self.net = _copied(net).cpu()
        inputs = Inputs.of(example_input).map(Tensor.cpu)
        self.rows = inputs.rows or 1
        flow = Flow(self.net, live_norms=live_norms)
        self.modules = dict(self.net.named_modules())
        self._trained = {name for name, _ in self.net.named_parameters()}
        self._run(flow, inputs)
        self._flow = flow.labelling
        self._called = flow.called
        self.live_norms = frozenset(flow.live_norms)
        self._refuse_other_ways(flow.sized_by_data, flow.reads_data)
        read = [torch.zeros(1, dtype=torch.int64), *(axis.labels for axis in self._flow.axes.values())]
        self.classes = self._flow.features.classes(torch.cat(read))
        self.shared = {
            name: f"its weight {name!r} is shared with {', '.join(repr(other) for other in names if other != name)}"
            for name, names in shared_parameters(self.net).items()
        }
        self._freeze_shared()
        self.axes = {key: (self.classes.of(axis.labels), axis.reads) for key, axis in self._flow.axes.items()}
        self._add_elements()
        self._freeze_unsupported()
        self.along: dict[int, list[Axis]] = {}  # class to all axes that it has positions on
        for key, (classes, _) in self.axes.items():
            for number in classes.unique().tolist():
                self.along.setdefault(number, []).append(key)
        self.makers = self._who(reads=False)
        self.readers = self._who(reads=True)

    def _run(self, flow: Flow, inputs: Inputs) -> None:
        try:
            with unfused_attention(), unfused_recurrence(), torch.random.fork_rng(devices=()):
                self.net.eval()
                flow.run(inputs)
                seen = flow.labelling
                self.macs, self.products, self.other_macs = dict(seen.macs), [*seen.products], dict(seen.other_macs)
                self.courses = other_courses(self.net, inputs) if flow.reads_data else []
                for other in self.courses:
                    flow.run(other)
                self._trains(flow, inputs)
        except StructureError:
            raise
        except Exception as error:
            raise StructureError(self._why_not_followed(inputs, error)) from error

    @torch.no_grad()
    def _why_not_followed(self, inputs: Inputs, error: Exception) -> str:
        """What is wrong: the example, or what the network does with it."""
        kind = type(self.net).__name__
        try:
            with torch.random.fork_rng(devices=()):
                inputs.map(torch.clone).call(self.net.eval())
        except Exception as plain:  # noqa: BLE001 (whatever it says, it says it without us)
            return (
                f"example_input: {kind} does not run on {inputs.described()} ({type(plain).__name__}: {plain}). Pass "
                "what the network takes, of the right shape and type, with a batch dimension"
            )
        return (
            f"net: {kind} runs on the example, but not while its features are followed ({error}). Derivatives "
            "(torch.autograd.grad, torch.func) cannot be: take them outside of the network"
        )

    def _refuse_other_ways(self, sized_by_data: str | None, reads_data: str | None) -> None:
        """How many rows a mask leaves may decide which layers run: then those that did not are another course."""
        ran = {id(p) for name in self._called for p in self.modules[name].parameters(recurse=False)}
        idle = [name for name, m in self.modules.items() if isinstance(m, _GATED) and not self._has_run(name, ran)]
        if not idle or (sized_by_data is None and reads_data is None):
            return
        what = f"the shape of what {sized_by_data}" if sized_by_data is not None else f"what {reads_data}"
        raise StructureError(
            f"net: {what} computes depends on the values of the data, and {idle[0]!r} did not run: which layers run "
            "may depend on them too. Pass an example on which all run, or take the decision out of the network"
        )

    def _has_run(self, layer: str, ran: set[int]) -> bool:
        """Whether a layer did, or one that has its weights, or the attention around it."""
        own, around = self.modules[layer].parameters(recurse=False), self.modules.get(layer.rpartition(".")[0])
        shared = any(id(parameter) in ran for parameter in own)
        return layer in self._called or shared or isinstance(around, nn.MultiheadAttention)

    def _trains(self, flow: Flow, inputs: Inputs) -> None:
        """Training mode may take other ways, such as auxiliary heads; it need not run on the example."""
        try:
            self.net.train()
            flow.run(inputs)
        except ValueError:  # batch norm of a single value per channel
            return

    # -- what cannot be taken out ---------------------------------------------------------------------------------

    def _freeze(self, classes: Tensor, why: str) -> None:
        for number in classes.unique().tolist():
            self.classes.freeze(number, why)

    def _freeze_shared(self) -> None:
        for name, why in self.shared.items():
            for (tensor, _), axis in self._flow.axes.items():
                if tensor == name:
                    self._freeze(self.classes.of(axis.labels), why)
            if name in self._flow.elements:
                self._freeze(self.classes.of(self._flow.elements[name]), why)

    def _add_elements(self) -> None:
        """Parameters that take part in something else than a product, such as norms, biases and embeddings."""
        alive = torch.zeros(self.classes.count, dtype=torch.bool)
        for axis in self._flow.axes.values():
            alive[self.classes.of(axis.labels)] = True
        for name, labels in self._flow.elements.items():
            classes = self.classes.of(labels)
            if not alive[classes].any():
                continue
            dim = _dimension(classes, alive)
            if dim is None or any((name, d) in self.axes for d in range(labels.dim())):
                self._freeze(classes, f"{name} has no dimension of its own for it")
            else:
                self.axes[name, dim] = (_lines(classes, alive, dim).amax(1), False)

    def _freeze_unsupported(self) -> None:
        for key in self._flow.axes:
            if key[0] not in self._trained:
                self._freeze(self.axes[key][0], f"{key[0]!r}, which reads or makes it, is a buffer")
        for (tensor, _), (classes, reads) in self.axes.items():
            owner = self.modules.get(tensor.rpartition(".")[0])
            if isinstance(owner, nn.MultiheadAttention) and not reads and not supports(owner):
                self._freeze(classes, _too_special(owner))
            if reads and owner is not None and "index" in dict(owner.named_buffers(recurse=False)):
                self._freeze(classes, f"{tensor} already reads a selection of its inputs")

    def _who(self, *, reads: bool) -> dict[int, list[Axis]]:
        """Class to the weights that read it, or that make it."""
        found: dict[int, list[Axis]] = {}
        for key, axis in self._flow.axes.items():
            if axis.reads == reads:
                for number in self.axes[key][0].unique().tolist():
                    found.setdefault(number, []).append(key)
        found.pop(self.classes.none, None)
        return found

    def why_not(self, number: int) -> str | None:
        """Why the features of a class cannot be taken out; ``None`` if they can."""
        frozen = self.classes.frozen(number)
        if frozen is not None:
            return frozen
        return None if number in self.readers else "no layer reads its features"

    def why_dense(self, parameter: str) -> str:
        """Why a parameter has no gates."""
        if parameter in self.shared:
            return self.shared[parameter]
        found = [
            self.axes[key][0] for key in sorted(self.axes, key=lambda key: self.axes[key][1]) if key[0] == parameter
        ]
        if parameter in self._flow.elements:
            found.append(self.classes.of(self._flow.elements[parameter]).flatten())
        numbers = [
            number
            for number in dict.fromkeys(torch.cat(found).tolist() if found else [])
            if number != self.classes.none
        ]
        if not numbers:
            owner = parameter.rpartition(".")[0]
            return "no operation with features uses it" if owner in self._called else "the network does not call it"
        reasons = [reason for reason in map(self.why_not, numbers) if reason is not None]
        if reasons:
            return reasons[0]
        alone = len(set(found[0].tolist())) == 1 < len(found[0])
        return (
            (self.classes.mixed(numbers[0]) or "all of its features are coupled")
            if alone
            else "no gates were asked for"
        )

    def makes(self, tensor: str, dim: int | None) -> bool:
        """Whether a dimension is that of a weight or an embedding, and not of something that follows them."""
        owner = self.modules.get(tensor.rpartition(".")[0])
        computed = isinstance(owner, (nn.Linear, *CONVOLUTIONS, ParametrizationList))
        matrix = self.net.get_parameter(tensor).dim() > 1 if computed else isinstance(owner, nn.Embedding)
        return (tensor, dim) in self._flow.axes or matrix

    def links(self) -> Links:
        """How information goes through the network."""
        ends: dict[str, dict[bool, int]] = {}
        for (tensor, dim), axis in self._flow.axes.items():
            ends.setdefault(tensor, {}).setdefault(axis.reads, dim)
        weights = [
            Link(name, dims[False], dims[True], self.axes[name, dims[False]][0], self.axes[name, dims[True]][0])
            for name, dims in ends.items()
            if len(dims) == 2  # noqa: PLR2004 (a grouped convolution's features are those that it reads)
        ]
        sources, sinks = (
            frozenset(self.classes.of(labels).tolist())
            for labels in (self._flow.features.sources, self._flow.features.sinks)
        )
        return Links(tuple(weights), sources, sinks - {self.classes.none})

    # -- layers ---------------------------------------------------------------------------------------------------

    def layers(self) -> list[str]:
        """Names of what can have gates: layers, and parameters that multiply features outside of layers."""
        order = {name: number for number, name in enumerate(self.modules)}
        found = {name: None for name, module in self.modules.items() if isinstance(module, _GATED)}
        for tensor, _ in self._flow.axes:
            found.setdefault(layer_of(tensor), None)
        return sorted(found, key=lambda name: order.get(name, order.get(name.rpartition(".")[0], len(order))))

    def without_gates(self) -> dict[str, str]:
        """Torch's own modules with weights that no gate can be asked for; weights elsewhere are told one by one."""
        layers = self.layers()
        return {
            name: f"{type(module).__name__} has no gates"
            for name, module in self.modules.items()
            if name not in layers
            and type(module).__module__.startswith("torch.nn.")
            and any(
                p.dim() > 1 and not any((join_name(name, own), dim) in self.axes for dim in range(p.dim()))
                for own, p in module.named_parameters(recurse=False)
            )
            and not any(name.startswith(f"{layer}.") for layer in layers)
        }

    def axis(self, layer: str, *, reads: bool) -> Axis | None:
        """The weight of a layer, and the dimension along which it reads or makes features."""
        for tensor, dim in self.axes:
            own = _is_weight_of(tensor, layer) and tensor in self._trained
            if own and self.axes[tensor, dim][1] == reads:
                return tensor, dim
        return None

    def no_axis(self, layer: str) -> str:
        """Why a layer has no such weight."""
        module = self.modules.get(layer)
        if isinstance(module, nn.MultiheadAttention) and not supports(module):
            return _too_special(module)
        if any(layer_of(tensor) == layer and tensor not in self._trained for tensor, _ in self.axes):
            return "what multiplies features there is a buffer"
        shared = [names for name, names in shared_parameters(self.net).items() if layer_of(name) == layer]
        if shared:
            return f"its weight is shared: {', '.join(map(repr, shared[0]))} are one"
        return self._no_product(layer, module)

    def _no_product(self, layer: str, module: nn.Module | None) -> str:
        """Why no weight of a layer makes, or reads, features."""
        ends = [reads for (tensor, _), (_, reads) in self.axes.items() if layer_of(tensor) == layer]
        elements = [name for name in self._flow.elements if _is_weight_of(name, layer)]
        if ends or elements:
            return "it makes no features of its own" if any(ends) else self.why_dense((elements or [layer])[0])
        if layer not in self._called and not isinstance(module, nn.MultiheadAttention):
            around = isinstance(self.modules.get(layer.rpartition(".")[0]), nn.MultiheadAttention)
            return "it belongs to the attention around it" if around else "the network does not call it"
        own = module is None or any(name.endswith("weight") for name, _ in module.named_parameters(recurse=False))
        return "no product of its weight with features was seen" if own else "its weight is not a parameter of its own"


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


def _is_weight_of(tensor: str, layer: str) -> bool:
    """Whether a tensor is a weight of a layer, or what its weight is computed from by a parametrisation of torch's."""
    computed = tensor.startswith(f"{join_name(layer, 'parametrizations')}.weight.")
    return computed or (layer_of(tensor) == layer and not tensor.endswith("bias"))


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
