"""torch.compile for the phases of training in which the network keeps its shape."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn

from l0bayes.compat import run_uncompiled, set_compiled_call, validates
from l0bayes.find_sparse import find_sparse, is_gated
from l0bayes.models.likelihood import Likelihood


def network_of(model: nn.Module) -> nn.Module:
    """The network that a model is built around, to be compiled.

    Args:
        model: a sparse module with its likelihood, or a likelihood around a plain network.

    Raises:
        ValueError: if there is none, or its weights are drawn.
    """
    if is_gated(model):
        if find_sparse(model).slab == "normal":
            raise ValueError("compile is for weights that are points; those of slab='normal' are drawn in every step")
        return find_sparse(model).child("net")
    if isinstance(model, Likelihood):
        return model.child("net")
    raise ValueError(
        f"compile needs a network in a model such as Classifier; got {type(model).__name__}. Compile its parts "
        "yourself, with torch.compile"
    )


class Compiled:
    """Runs a model's network compiled, while asked to.

    Drawn gates give it another shape each time, and a compiler that meets a new shape in every step costs more than it
    saves; so this is for fixed gates, or none.

    Args:
        net: the network that is trained now; another one once it is compacted.

    Raises:
        ValueError: as :func:`network_of` does.
    """

    def __init__(self, net: Callable[[], nn.Module]) -> None:
        self._which = net
        self._net = net()
        self._call: Any = None

    @contextmanager
    def active(self) -> Iterator[None]:
        """Compiles at the first call, and again only if the network has changed."""
        net = self._net
        if self._call is None:
            checked = validates(torch.distributions.Distribution)
            self._call = partial(torch.compile(run_uncompiled), net)  # copies of the network find their own in it
            # The compiler turns the checks of all distributions off, for the whole process.
            torch.distributions.Distribution.set_default_validate_args(checked)
        set_compiled_call(net, self._call)
        try:
            with warnings.catch_warnings():  # the compiler looks at the .grad of the selected tensors, which have none
                warnings.filterwarnings("ignore", message="The .grad attribute of a Tensor that is not a leaf")
                yield
        finally:
            set_compiled_call(net, None)
