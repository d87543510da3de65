"""The network that is left once gates are decided, trained as the plain network that it is.

Its tensors are as small as the gates leave them, so that a step costs what a step of the finished network costs; what
it learns is written back into the full network, whose gates and tables stay whole.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from l0bayes.inference.size.shrink import replace_parameters
from l0bayes.sparse_module import SparseModule
from l0bayes.subnetwork.compacted import compact_with_positions
from l0bayes.subnetwork.selection import Selector
from l0bayes.subnetwork.tensors import Kept, Replaced


class Finishing:
    """A network with decided gates, compacted, and its place in the full network.

    Args:
        sparse: the network with its gates.
        opened: group name to which gates are open, ``(size,)`` booleans.
        round_to: each group keeps a multiple of this many units, or all it has.

    Attributes:
        net: the compacted network. Entries under closed gates that it must keep, such as the one slice of a layer that
            is closed altogether, or those that ``round_to`` adds, or single weights, stay exactly 0.
    """

    def __init__(self, sparse: SparseModule, opened: Mapping[str, Tensor], round_to: int = 1) -> None:
        self._full = sparse.child("net")
        gates = {name: gate.to(next(self._full.parameters())) for name, gate in opened.items()}
        self.net, self._positions = compact_with_positions(self._full, sparse.groups, gates, round_to)
        self.net.train(self._full.training)
        self._alive = self._masks(Selector(self._full, sparse.groups, round_to=round_to), gates)
        for name, alive in self._alive.items():
            self.net.get_parameter(name).register_hook(lambda grad, alive=alive: grad * alive)

    def _masks(self, select: Selector, gates: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Parameter name to 0 for what closed gates multiply and could not be taken out; where there is such."""
        ones = {name: torch.ones_like(parameter) for name, parameter in self._full.named_parameters()}
        left = select(self._full, gates, values=ones).tensors
        masks = {}
        for name, parameter in self.net.named_parameters():
            mask = left.get(name)
            if mask is not None and mask.shape == parameter.shape and not bool(mask.all()):
                masks[name] = (mask != 0).to(parameter)
        return masks

    def take_place(self, optimizer: torch.optim.Optimizer) -> None:
        """Puts the small parameters in the places of the full ones in an optimizer, with what is left of its state."""
        replace_parameters(optimizer, self._pairs())
        for name, alive in self._alive.items():  # what they remember would move what stays 0
            state = optimizer.state.get(self.net.get_parameter(name), {})
            for key, value in state.items():
                if isinstance(value, Tensor) and value.shape == alive.shape:
                    state[key] = value * alive

    @torch.no_grad()
    def write_back(self) -> None:
        """Writes what was learned into the full network."""
        full = dict(self._full.named_parameters()) | dict(self._full.named_buffers())
        for name, small in [*self.net.named_parameters(), *self.net.named_buffers()]:
            if name in full:  # a selection of inputs has its indices besides
                _put(full[name].data, small.data, self._positions.get(name, ()))

    def give_back(self, optimizer: torch.optim.Optimizer) -> None:
        """Puts the full parameters back into an optimizer, without state."""
        pairs: Replaced = [(small, full, ()) for full, small, _ in self._pairs()]
        for small, _, _ in pairs:
            optimizer.state.pop(small, None)
        replace_parameters(optimizer, pairs)

    def _pairs(self) -> Replaced:
        small = dict(self.net.named_parameters())
        full = dict(self._full.named_parameters())
        return [(full[name], small[name], self._positions.get(name, ())) for name in full if name in small]


def _put(whole: Tensor, part: Tensor, kept: Kept) -> None:
    """Writes a part to the positions in a tensor that it was taken from."""
    if not kept:
        whole.copy_(part)
        return
    (dim, keep), *rest = kept
    keep = keep.to(whole.device)
    if rest:
        inner = whole.index_select(dim, keep)
        _put(inner, part, tuple(rest))
        part = inner
    whole.index_copy_(dim, keep, part.to(whole.dtype))
