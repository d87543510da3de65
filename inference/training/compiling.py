"""torch.compile for the phases of training in which the network keeps its shape."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from l0bayes.compat import compiled_call, set_compiled_call
from l0bayes.find_sparse import find_sparse, is_gated
from l0bayes.models.likelihood import Likelihood


class Compiled:
    """Runs a model's network compiled, while asked to.

    Drawn gates give it another shape each time, and a compiler that meets a new shape in every step costs more than it
    saves; so this is for fixed gates, or none.

    Args:
        model: a sparse module with its likelihood, or a likelihood around a plain network.

    Raises:
        ValueError: if there is no network that the model is built around, or its weights are drawn.
    """

    def __init__(self, model: nn.Module) -> None:
        if is_gated(model):
            if find_sparse(model).slab == "normal":
                raise ValueError(
                    "compile is for weights that are points; those of slab='normal' are drawn in every step"
                )
            self._net = find_sparse(model).child("net")
        elif isinstance(model, Likelihood):
            self._net = model.child("net")
        else:
            raise ValueError(
                f"compile needs a network in a model such as Classifier; got {type(model).__name__}. Compile its parts "
                "yourself, with torch.compile"
            )
        self._call: Any = None

    @contextmanager
    def active(self) -> Iterator[None]:
        """Compiles at the first call, and again only if the network has changed."""
        net = self._net
        if self._call is None:
            net.compile()
            self._call = compiled_call(net)
        set_compiled_call(net, self._call)
        try:
            with warnings.catch_warnings():  # the compiler looks at the .grad of the selected tensors, which have none
                warnings.filterwarnings("ignore", message="The .grad attribute of a Tensor that is not a leaf")
                yield
        finally:
            set_compiled_call(net, None)
