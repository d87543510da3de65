"""The labels of a network's tensors, and what its weights make and read."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakIdKeyDictionary

from l0bayes.compat import tree_leaves
from l0bayes.structure.features import Features, with_repeats

_LARGE = 1 << 18  # parameters beyond this get a label per entry of their last dimension, not one per element


def has_storage(tensor: Tensor) -> bool:
    """Whether a tensor has its numbers one beside the other in memory; sparse ones do not."""
    return tensor.layout == torch.strided and tensor.numel() > 0


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


@dataclass
class Axis:
    """A dimension of a weight: the features that its positions make, or that they read."""

    labels: Tensor
    reads: bool


@dataclass(frozen=True)
class WeightView:
    """A matrix in a computation that is (a part of) one parameter.

    Attributes:
        name: the parameter.
        dims: the parameter's dimension behind each of the matrix's; of several that are one there, the first.
        starts: where along it the matrix begins.
        each: how many positions of the matrix there are for each of the parameter's.
    """

    name: str
    dims: tuple[int, ...]
    starts: tuple[int, ...]
    each: tuple[int, ...]


def _as_one(held: Tensor, free: list[int], size: int, stride: int) -> list[int]:
    """Neighbouring dimensions of a tensor that are one of a view, such as heads and their features, if some are."""
    for last in free:
        if held.stride(last) != stride:
            continue
        found = [last]
        while math.prod(held.shape[d] for d in found) < size:
            before = found[0] - 1
            if before not in free or held.stride(before) != held.stride(found[0]) * held.shape[found[0]]:
                break
            found.insert(0, before)
        if math.prod(held.shape[d] for d in found) == size:
            return found
    return []


class Labelling:
    """What is known of a network's features while it runs.

    Args:
        net: the network.

    Attributes:
        features: the labels, and how they are tied.
        axes: (parameter name, dimension) to what its positions make or read.
        elements: parameter name to labels of its elements, where it takes part in something else than a product.
        macs: parameter name to multiply-accumulates per element, for the whole batch.
        products: for products that are none with a parameter: labels of their results, multiply-accumulates of each,
            and the module they run in.
        other_macs: module to the multiply-accumulates in it of which no rule knows the features, for the whole batch.
        counted: multiply-accumulates so far that are in one of the three.
        stack: names of the modules that are running, the innermost last.
        depending: the tensors that depend on the network's inputs.
        computed: the tensors that follow from parameters and buffers alone.
    """

    def __init__(self, net: nn.Module) -> None:
        self.features = Features()
        self.axes: dict[tuple[str, int], Axis] = {}
        self.elements: dict[str, Tensor] = {}
        self.macs: dict[str, float] = {}
        self.products: list[tuple[Tensor, float, str]] = []
        self.other_macs: dict[str, float] = {}
        self.counted = 0.0
        self.net = net
        self.stack = [""]
        self.depending: Any = WeakIdKeyDictionary()
        self.computed: Any = WeakIdKeyDictionary()
        self._labels: Any = WeakIdKeyDictionary()
        self._blank: dict[int, Tensor] = {}
        self._input = self.features.fresh(1)
        self.features.freeze(self._input, "it is tied to the network's own input")
        self.features.mark_source(self._input)
        tensors = [*net.named_parameters(), *net.named_buffers()]
        self._held = {_storage(tensor): (name, tensor) for name, tensor in tensors if has_storage(tensor)}
        self._shapes = {name: tensor.shape for name, tensor in tensors}
        self._trained = {name for name, _ in net.named_parameters()}

    @property
    def where(self) -> str:
        """The module that is running, for messages."""
        name = self.stack[-1]
        return f"{name!r}" if name else type(self.net).__name__

    @property
    def module(self) -> nn.Module:
        """The module that is running."""
        return self.net.get_submodule(self.stack[-1])

    def depends(self, values: Any) -> bool:
        """Whether any tensor in there depends on the network's inputs."""
        return any(isinstance(value, Tensor) and value in self.depending for value in tree_leaves(values))

    def is_made_of_weights(self, tensor: Any) -> bool:
        """Whether a tensor is a parameter or buffer, or a part of one, or follows from such alone."""
        if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
            return False
        return tensor in self.computed or (tensor not in self.depending and self.is_weight(tensor))

    # -- labels of tensors ------------------------------------------------------------------------------------------

    def labels(self, tensor: Any) -> Tensor | None:
        """The labels of a tensor, of its shape; ``None`` if it carries no features."""
        if not isinstance(tensor, Tensor):
            return None
        labels: Tensor | None = self._labels.get(tensor)
        if labels is not None or not tensor.is_floating_point():
            return labels
        name, held = self._held_at(tensor)
        if name is None or held is None:
            return None
        whole = self._elements_of(name, held)
        if tensor.shape == held.shape and tensor.stride() == held.stride():
            return whole
        dense = torch.empty_strided(held.shape, held.stride(), dtype=torch.int64).copy_(whole)
        return dense.as_strided(tensor.shape, tensor.stride(), tensor.storage_offset() - held.storage_offset())

    def _elements_of(self, name: str, held: Tensor) -> Tensor:
        if name not in self.elements:
            by_element = held.numel() <= _LARGE
            fresh = self.features.fresh(held.numel() if by_element else held.shape[-1])
            self.elements[name] = fresh.reshape(held.shape) if by_element else fresh.expand(held.shape)
        return self.elements[name]

    def is_weight(self, tensor: Any) -> bool:
        """Whether a tensor is (a view of) a parameter or buffer itself, of which no part has been computed."""
        return isinstance(tensor, Tensor) and self._held_at(tensor)[0] is not None

    def _held_at(self, tensor: Tensor) -> tuple[str, Tensor] | tuple[None, None]:
        return self._held.get(_storage(tensor), (None, None)) if has_storage(tensor) else (None, None)

    def known(self, tensor: Tensor) -> Tensor:
        """The labels of a tensor, all 0 where it carries no features."""
        labels = self.labels(tensor)
        return torch.zeros((), dtype=torch.int64).expand(tensor.shape) if labels is None else labels

    def label_input(self, tensor: Tensor) -> None:
        """Marks one of the network's own inputs, which stays as it is."""
        if tensor.is_floating_point():
            self._labels[tensor] = self._input.reshape([1] * tensor.dim()).expand(tensor.shape)

    def label(self, tensor: Any, labels: Tensor | None) -> None:
        """Gives a result its labels."""
        if labels is not None and isinstance(tensor, Tensor):
            is_blank = labels.untyped_storage().data_ptr() in self._blank
            self._labels[tensor] = labels if is_blank else with_repeats(labels)

    def blank(self, tensor: Tensor) -> None:
        """A tensor that was just made, without features, into which some may be written."""
        labels = torch.zeros(tensor.shape, dtype=torch.int64)
        self._blank[labels.untyped_storage().data_ptr()] = labels
        self._labels[tensor] = labels

    def write(self, tensor: Tensor, labels: Tensor | None) -> None:
        """Labels of what is written into a tensor, in place."""
        old = self._labels.get(tensor)
        if self.is_weight(tensor):  # running statistics
            own = self.labels(tensor)
            if own is not None and labels is not None:
                self.features.tie(own, labels)
        elif old is not None and old.untyped_storage().data_ptr() in self._blank:
            old.copy_(torch.zeros((), dtype=torch.int64) if labels is None else labels)
        elif old is not None or labels is not None:
            for value in (old, labels):
                if value is not None:
                    self.features.freeze_sink(value, f"{self.where} writes its features into another tensor")

    def meet_in_place(self, tensor: Tensor, labels: Tensor) -> None:
        """Labels of a result that stands where one of its operands stood, tied to it already."""
        old = self._labels.get(tensor)
        if old is not None and old.untyped_storage().data_ptr() in self._blank:
            old.copy_(labels)
        else:
            self._labels[tensor] = labels

    def unshared(self, labels: Tensor) -> Tensor:
        """Labels for a copy: what is later written into the original must not reach them."""
        return labels.clone() if labels.untyped_storage().data_ptr() in self._blank else labels

    # -- products --------------------------------------------------------------------------------------------------

    def count_macs(self, name: str, number: float) -> None:
        """Adds multiply-accumulates with (a part of) a parameter, shared out among all of its elements."""
        if name not in self._trained:  # a buffer's features stay as they are
            self.count_other(number)
            return
        self.macs[name] = self.macs.get(name, 0.0) + number / self._shapes[name].numel()
        self.counted += number

    def count_product(self, labels: Tensor, number: float) -> None:
        """Adds multiply-accumulates of a product whose results have labels, shared out among all of them."""
        self.products.append((labels, number / max(labels.numel(), 1), self.stack[-1]))
        self.counted += number

    def count_other(self, number: float) -> None:
        """Adds multiply-accumulates that no gate can take away."""
        where = self.stack[-1]
        self.other_macs[where] = self.other_macs.get(where, 0.0) + number
        self.counted += number

    # -- weights ---------------------------------------------------------------------------------------------------

    def weight(self, tensor: Any) -> WeightView | None:
        """The parameter that a matrix is a view of; ``None`` if it is something computed."""
        if not isinstance(tensor, Tensor) or self._labels.get(tensor) is not None:
            return None
        name, held = self._held_at(tensor)
        if name is None or held is None:
            return None
        free = list(range(held.dim()))
        dims: list[int] = []
        each: list[int] = []
        for size, stride in zip(tensor.shape, tensor.stride(), strict=True):
            matching = [d for d in free if held.stride(d) == stride and size <= held.shape[d]]
            # Between equal ones the last, since linear layers hand over their transpose.
            behind = matching[-1:] or _as_one(held, free, size, stride)
            if not behind:
                return None
            dims.append(behind[0])
            each.append(math.prod(held.shape[d] for d in behind[1:]))
            free = [d for d in free if d not in behind]
        if any(held.shape[dim] != 1 for dim in free):
            return None
        offset = tensor.storage_offset() - held.storage_offset()
        starts = tuple(int(offset) // held.stride(d) % held.shape[d] if held.shape[d] > 1 else 0 for d in dims)
        return WeightView(name, tuple(dims), starts, tuple(each))

    def makes(self, view: WeightView, dim: int, size: int) -> Tensor:
        """Labels of the features that a weight makes along one of its view's dimensions, of shape ``(size,)``."""
        name, own = view.name, view.dims[dim]
        axis = self.axes.get((name, own))
        if axis is None:
            axis = self.axes[name, own] = Axis(self.features.fresh(self._shapes[name][own]), reads=False)
        elif axis.reads:
            self.features.freeze(axis.labels, f"{name} both makes and reads features along dimension {own}")
        each = view.each[dim]
        return axis.labels[view.starts[dim] : view.starts[dim] + size // each].repeat_interleave(each)

    def reads(self, view: WeightView, dim: int, labels: Tensor) -> None:
        """Notes the features, of shape ``(size,)``, that a weight reads along one of its view's dimensions."""
        name, own, start = view.name, view.dims[dim], view.starts[dim]
        labels = self.features.merge(labels.reshape(-1, view.each[dim]), [1]).flatten()
        axis = self.axes.get((name, own))
        if axis is None:
            blank = torch.zeros(self._shapes[name][own], dtype=torch.int64)
            axis = self.axes[name, own] = Axis(blank, reads=True)
        elif not axis.reads:
            self.features.freeze(axis.labels, f"{name} both makes and reads features along dimension {own}")
            self.features.freeze(labels, f"{name} both makes and reads features along dimension {own}")
            return
        part = axis.labels[start : start + len(labels)]
        part.copy_(self.features.tie(part, labels))
