"""Copies of networks as they are in the middle of their use."""

import copy
from typing import TypeVar

from torch import Tensor, nn

_Module = TypeVar("_Module", bound=nn.Module)


def copied(net: _Module) -> _Module:
    """A deep copy; outputs of earlier calls that the network keeps as attributes are detached in it.

    Such a tensor hangs on a graph of autograd, which torch refuses to copy.
    """
    kept = [value for module in net.modules() for value in vars(module).values() if isinstance(value, Tensor)]
    return copy.deepcopy(net, {id(value): value.detach().clone() for value in kept if not value.is_leaf})
