"""Chance while a structure is tried out.

Draws would be others for another width, which is no fault: torch's random functions are made certain, and all other
generators start from the same seed in every run. What still differs from run to run is named. And a rectifier, by
chance, hides features that are negative on an example, so those of a trial leak.
"""

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from l0bayes.compat import TorchDispatchMode, argument_defaults, tree_leaves
from l0bayes.layers.kinds import DROPOUTS
from l0bayes.structure.multiplications import unfused_attention

_FILL = {"bernoulli": 1.0, "bernoulli_": 1.0, "normal_": 1.0, "uniform_": 1.0, "exponential_": 1.0, "log_normal_": 1.0}
_RECTIFIERS = ("relu", "relu_", "hardtanh", "hardtanh_", "threshold", "threshold_")
_LEAK = 0.1
_DRAWS = ("rand", "randn", "rand_like", "randn_like", "normal", "cauchy_", "geometric_")


@contextmanager
def chance_kept(net: nn.Module) -> Iterator[list[Any]]:
    """Within it, the generators may be used: those of torch, NumPy and Python, and those that a network keeps.

    Afterwards they are what they were before. Yields those that the network keeps as attributes.

    Args:
        net: the network.
    """
    own = [value for module in net.modules() for value in vars(module).values() if isinstance(value, _GENERATORS)]
    states = [_state(generator) for generator in (*own, random, np.random)]
    try:
        with torch.random.fork_rng(_devices(net)):
            yield own
    finally:
        for generator, state in zip((*own, random, np.random), states, strict=True):
            _set_state(generator, state)


@contextmanager
def certain(net: nn.Module, seed: int = 0) -> Iterator[None]:
    """Within it, torch's random functions give constants, and all else that is drawn follows from a seed.

    Encoder layers run operation by operation, since nothing can stand in for a part of one that is fused.

    Args:
        net: the network that runs in it.
        seed: of the generators; those that the network keeps go on from where they are with 0.
    """
    with chance_kept(net) as own, unfused_attention(), _Certain():
        torch.default_generator.manual_seed(seed)
        for device in _devices(net):
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002 (that of whoever draws in the network)
        for generator in own:
            for _ in range(seed):
                generator.random()
        yield


def _devices(net: nn.Module) -> list[int]:
    """The GPUs that a network is on."""
    return sorted({p.device.index for p in net.parameters() if p.device.type == "cuda"})


_GENERATORS = (random.Random, np.random.Generator, np.random.RandomState)


def _state(generator: Any) -> Any:
    if isinstance(generator, np.random.Generator):
        return generator.bit_generator.state
    return generator.getstate() if hasattr(generator, "getstate") else generator.get_state()


def _set_state(generator: Any, state: Any) -> None:
    if isinstance(generator, np.random.Generator):
        generator.bit_generator.state = state
    elif hasattr(generator, "setstate"):
        generator.setstate(state)
    else:
        generator.set_state(state)


class _Certain(TorchDispatchMode):
    """Makes torch's random operations certain, and lets something of everything through rectifiers.

    A function of single numbers is another then, the same one in every run, and no feature is hidden by it.
    """

    def __init__(self) -> None:
        parent: Any = super()
        parent.__init__()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Computes an operation, or what stands in for it."""
        kwargs = kwargs or {}
        name = func.overloadpacket.__name__
        if name in _RECTIFIERS:
            slope = _LEAK * args[0]
            return func(*args, **kwargs).add_(slope)
        if torch.Tag.nondeterministic_seeded not in func.tags:
            return func(*args, **kwargs)
        if name in ("native_dropout", "_fused_dropout"):
            return args[0].clone(), torch.ones_like(args[0], dtype=torch.bool)
        if "dropout_p" in (names := argument_defaults(func)):  # attention
            return func(**{**dict(zip(names, args, strict=False)), **kwargs, "dropout_p": 0.0})
        out = func(*args, **kwargs)
        fill = _FILL.get(name, 0.5 if name in _DRAWS else None)
        return out if fill is None else out.fill_(fill)


def drop_nothing(net: nn.Module) -> None:
    """Lets dropout drop nothing, in place: with a probability of 1 there would be nothing left to see."""
    for module in net.modules():
        if isinstance(module, DROPOUTS):
            module.p = 0.0
        elif isinstance(module, nn.MultiheadAttention):
            module.dropout = 0.0


def same(first: Any, second: Any) -> bool:
    """Whether two results are equal, number by number."""
    pairs = zip(tree_leaves(first), tree_leaves(second), strict=False)
    return all(
        x.shape == y.shape and torch.equal(x.nan_to_num(), y.nan_to_num())
        for x, y in pairs
        if isinstance(x, Tensor) and isinstance(y, Tensor) and x.layout == torch.strided
    )


def where_it_differs(net: nn.Module, first: Callable[[], Any], second: Callable[[], Any]) -> str:
    """The first function of torch that gives something else in a second run of a network, and in which module."""
    records = [_Record(net), _Record(net)]
    for record, run in zip(records, (first, second), strict=True):
        with record:
            run()
    for (name, one), (_, other) in zip(records[0].results, records[1].results, strict=False):
        if not same(one, other):
            return name
    return f"forward of {type(net).__name__}"


class _Record(TorchFunctionMode):
    """Keeps what the functions of torch give while a network runs.

    Args:
        net: the network.

    Attributes:
        results: name of function and module, and what it gave, in order.
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.results: list[tuple[str, list[Tensor]]] = []
        self._net, self._stack = net, [type(net).__name__]
        self._hooks: list[Any] = []

    def __enter__(self) -> Self:
        for name, module in self._net.named_modules():
            if name:
                enter = module.register_forward_pre_hook(lambda *_, name=name: self._stack.append(repr(name)))
                leave = module.register_forward_hook(lambda *_: [None, self._stack.pop()][0])
                self._hooks += [enter, leave]
        parent: Any = super()
        parent.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        for hook in self._hooks:
            hook.remove()
        parent: Any = super()
        parent.__exit__(*error)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Calls a function, and keeps its results."""
        result = func(*args, **(kwargs or {}))
        kept = [value.detach().clone() for value in tree_leaves(result) if isinstance(value, Tensor)]
        name = getattr(func, "__name__", str(func))
        self.results.append((f"{name} in {self._stack[-1]}", kept))
        return result
