"""Follows features through a network: a run on the example input, labels beside the data.

Below autograd every network, however written, consists of the same few operations of torch. This mode sees each of
them and moves the labels as the operation moves the data; the rules are in :mod:`l0bayes.structure.operations`. An
operation without a rule freezes what enters it, so that nothing is taken out on a guess.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakIdKeyDictionary

from l0bayes.compat import READS_ONE_NUMBER, TorchDispatchMode, tree_leaves
from l0bayes.errors import StructureError
from l0bayes.inputs import Inputs, is_cache
from l0bayes.structure.call import Call
from l0bayes.structure.labelling import Labelling
from l0bayes.structure.live_norms import Norm, norm_of
from l0bayes.structure.operations import follow

# Operations that turn tensors into a number of Python.
_READS = (
    READS_ONE_NUMBER,
    torch.ops.aten.equal.default,
    torch.ops.aten.allclose.default,
)


class Flow(TorchDispatchMode):
    """Runs a network and keeps its labelling.

    Args:
        net: the network.
        live_norms: whether norms take their statistics over the features that are open.

    Attributes:
        labelling: what is known of its features.
        live_norms: names of the norms that do.
        called: names of the modules that ran.
        sized_by_data: where a shape first depended on the values of the data, if anywhere.
        reads_data: where integers or booleans of the data, in which features have no part, were first read as numbers.
    """

    def __init__(self, net: nn.Module, *, live_norms: bool = False) -> None:
        parent: Any = super()
        parent.__init__()
        self.net = net
        self.labelling = Labelling(net)
        self.called: set[str] = set()
        self.sized_by_data: str | None = None
        self.reads_data: str | None = None
        self.live_norms: set[str] = set()
        self._follows_norms = not live_norms
        self._running_norm: Norm | None = None
        self._aside = False
        self._touched = self.labelling.depending
        self._decided: Any = WeakIdKeyDictionary()  # what features, or weights, have a part in

    @torch.inference_mode()
    def run(self, inputs: Inputs) -> None:
        """Runs the network once.

        Args:
            inputs: its arguments.

        Raises:
            StructureError: if the network's course depends on features, or its outputs are no tensors.
        """
        inputs = inputs.map(torch.clone)
        for value in inputs.tensors:
            self._touched[value] = True
            if value.is_floating_point():
                self._decided[value] = True
            self.labelling.label_input(value)
        with self._following_modules(), _Reading(self), self:
            outputs = inputs.call(self.net)
        for value in tree_leaves(outputs):
            if isinstance(value, Tensor):
                self.labelling.features.freeze_sink(self.labelling.known(value), "its features leave the network")
            elif not isinstance(value, int | float | str | None) and not is_cache(value):
                raise StructureError(
                    f"net returns a {type(value).__name__}, in which features could leave the network unseen. Return "
                    "tensors, or tuples, lists or dicts of tensors"
                )

    @contextmanager
    def _following_modules(self) -> Iterator[None]:
        stack = self.labelling.stack
        hooks = []
        for name, module in self.net.named_modules():

            def enter(module: nn.Module, args: Any, name: str = name) -> None:
                stack.append(name)
                self.called.add(name)
                self._enter_norm(module, args)

            def leave(module: nn.Module, _args: Any, output: Any) -> None:
                self._leave_norm(module, output)
                stack.pop()

            hooks += [module.register_forward_pre_hook(enter), module.register_forward_hook(leave)]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()
            del stack[1:]

    def _enter_norm(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        """Stops following what goes on within a norm, where norms are over live features."""
        if self._follows_norms or self._running_norm is not None or len(args) != 1 or not isinstance(args[0], Tensor):
            return
        self._aside = True
        self._running_norm = norm_of(self.labelling, module, args[0])
        self._aside = self._running_norm is not None
        if self._running_norm is not None and self._running_norm.live:
            self.live_norms.add(self.labelling.stack[-1])

    def _leave_norm(self, module: nn.Module, output: Any) -> None:
        if self._running_norm is not None and self._running_norm.module is module:
            self.labelling.label(output, self._running_norm.labels)
            self._touched[output] = self._decided[output] = True
            self._running_norm, self._aside = None, False

    def _is_decided(self, values: Any) -> bool:
        return any(
            isinstance(value, Tensor)
            and (value in self._decided or (value.is_floating_point() and self.labelling.is_weight(value)))
            for value in tree_leaves(values)
        )

    def check_reading(self, func: Any, args: Any) -> None:
        """Looks at functions that hand a tensor's values over to Python, past any dispatch."""
        if getattr(func, "__name__", "") in ("tolist", "numpy", "__array__"):
            self._read(args)

    def _read(self, values: Any) -> None:
        """Raises if what follows may depend on features; notes it if it may depend on integers of the data."""
        if not self.labelling.depends(values):
            return
        if not self._is_decided(values):
            self.reads_data = self.reads_data or self.labelling.where
            return
        raise StructureError(
            f"net: what {self.labelling.where} computes depends on the values of the data (a tensor is read as "
            "numbers), so a run does not show its structure. Take the decision out of the network, or express it by "
            "torch.where; give masks as integers or booleans, and distributions validate_args=False"
        )

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Computes an operation and moves the labels along."""
        kwargs = kwargs or {}
        if self._aside:
            return func(*args, **kwargs)
        if func in _READS:
            self._read((args, kwargs))
        with self:  # some operations are made of others, which is all that needs rules
            out = func.decompose(*args, **kwargs)
        if out is not NotImplemented:
            return out
        out = func(*args, **kwargs)
        given = (args, kwargs)
        if self.labelling.depends(given):
            if self.sized_by_data is None and _sizes_by_data(func, args):
                self.sized_by_data = self.labelling.where
            _mark(self._touched, out)
            if self._is_decided(given):
                _mark(self._decided, out)
        elif any(map(self.labelling.is_made_of_weights, tree_leaves(given))):
            _mark(self.labelling.computed, out)
        follow(self.labelling, Call(func, args, kwargs, out))
        return out


def _mark(those: Any, values: Any) -> None:
    """Notes tensors among those of a kind."""
    for value in tree_leaves(values):
        if isinstance(value, Tensor):
            those[value] = True


def _sizes_by_data(func: Any, args: Any) -> bool:
    """Whether the shape of what an operation gives depends on the values it is given."""
    if func.overloadpacket is torch.ops.aten.index:
        return any(isinstance(value, Tensor) and value.dtype == torch.bool for value in tree_leaves(args[1]))
    return torch.Tag.dynamic_output_shape in func.tags


class _Reading(TorchFunctionMode):
    """Sees the functions that take values out of tensors without an operation of torch."""

    def __init__(self, flow: Flow) -> None:
        super().__init__()
        self._flow = flow

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self._flow.check_reading(func, args)
        return func(*args, **(kwargs or {}))
