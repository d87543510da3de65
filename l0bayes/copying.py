"""Copies of networks as they are in the middle of their use."""

import copy
from typing import TypeVar

from torch import Tensor, nn

from l0bayes.compat import tree_leaves

_Module = TypeVar("_Module", bound=nn.Module)


def copied(net: _Module) -> _Module:
    """A deep copy; outputs of earlier calls that the network keeps, as attributes or in lists and dicts, are detached.

    Such a tensor hangs on a graph of autograd, which torch refuses to copy.
    """
    leaves = tree_leaves([vars(module) for module in net.modules()])
    kept = [value for value in leaves if isinstance(value, Tensor)]
    return copy.deepcopy(net, {id(value): value.detach().clone() for value in kept if not value.is_leaf})
