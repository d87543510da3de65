"""Does a network take its tensors from its modules, so that others can take their places?

A weight that is also kept in a list, a closure or a cached view is used from there, whatever stands in the module: its
gates would be paid for and do nothing. And one that a function refers to is not even that of a copy of the network.
"""

import copy
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from l0bayes.compat import TorchDispatchMode, tree_leaves
from l0bayes.errors import StructureError
from l0bayes.inputs import Inputs
from l0bayes.structure.labelling import has_storage
from l0bayes.subnetwork.running import run_subnetwork
from l0bayes.subnetwork.selection import Selection
from l0bayes.subnetwork.tensors import tensor_of


@torch.no_grad()
def kept_elsewhere(net: nn.Module, names: Iterable[str], inputs: Inputs) -> set[str]:
    """Those of a network's tensors that it uses, in evaluation or in training mode, although others were put in place.

    Args:
        net: the network; a copy of it is run.
        names: of the tensors.
        inputs: arguments that it accepts.

    Raises:
        StructureError: if the copy uses the network's own parameters.
    """
    names = set(names)
    twin = copy.deepcopy(net)
    own = {_place(p): name for name, p in net.named_parameters() if has_storage(p)}
    held = {_place(tensor_of(twin, name)): name for name in names}
    seen: set[str] = set()
    originals: set[str] = set()
    for training in (False, True):
        others = {name: tensor_of(twin, name).detach().clone() for name in names}
        try:
            with _Uses(held, seen), _Uses(own, originals):
                given = inputs.map(torch.clone)
                run_subnetwork(twin.train(training), Selection(others), *given.args, **given.kwargs)
        except Exception:  # noqa: BLE001, S112 (that it runs is the trial's business)
            continue
    if originals:
        raise StructureError(
            f"net: a copy of this {type(net).__name__} uses {min(originals)!r} of the network that it was made from, "
            "through a function that refers to it, such as a lambda or a hook. A compacted network would too. Make it "
            "a method, which takes it from self"
        )
    return seen


def _place(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


class _Uses(TorchDispatchMode):
    """Notes which of some tensors operations are given, whole or in part.

    Args:
        held: where a tensor's numbers are, to its name.
        seen: takes the names.
    """

    def __init__(self, held: Mapping[int, str], seen: set[str]) -> None:
        parent: Any = super()
        parent.__init__()
        self._held, self._seen = held, seen

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Computes an operation, and looks at what it is given."""
        for value in tree_leaves((args, kwargs)):
            if isinstance(value, Tensor) and has_storage(value) and _place(value) in self._held:
                self._seen.add(self._held[_place(value)])
        return func(*args, **(kwargs or {}))
