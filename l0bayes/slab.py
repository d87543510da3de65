"""The slab's part of the KL for weights that are points: an L2 penalty that closed weights do not pay."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from l0bayes.structure import Structure

_MATRIX = 2  # biases and the scales of norms have one dimension, and no slab


class _Table(NamedTuple):
    """Which gates of which group decide over a tensor, along one dimension or (``None``) element by element."""

    dim: int | None
    group: int
    gates: Tensor


class SlabPenalty:
    """Σⱼ P(all gates over j are open) · θⱼ² / (2 σ²): a normal slab's cost of the weights that are there.

    The paper's L2 penalty weighted by the gates (Louizos et al. 2018, §2.1), with a weight under several gates paid
    for while all of them are open. Weights without gates pay always; biases and the parameters of norms never.

    Args:
        structure: the gate groups.
        scale: σ, the slab's standard deviation, > 0.
    """

    def __init__(self, structure: Structure, scale: float) -> None:
        self._scale = scale
        weights = [name for name, shape in structure.shapes.items() if len(shape) >= _MATRIX]
        self._tables: dict[str, list[_Table]] = {name: [] for name in weights}
        for number, group in enumerate(structure.groups):
            for part in group.slices:
                if part.tensor in self._tables:
                    self._tables[part.tensor].append(_Table(part.dim, number, part.gates))

    def __call__(self, net: nn.Module, probs: list[Tensor]) -> Tensor:
        """The penalty, in nats.

        Args:
            net: the network.
            probs: P(z ≠ 0) of each group, in their order.

        Returns:
            A scalar.
        """
        terms = []
        for name, tables in self._tables.items():
            weight = net.get_parameter(name)
            wide = weight.to(torch.promote_types(weight.dtype, torch.float32))
            terms.append((wide.square() * _alive(tables, probs, weight.shape)).sum())
        return torch.stack(terms).sum() / (2 * self._scale**2)


def _alive(tables: list[_Table], probs: list[Tensor], shape: torch.Size) -> Tensor:
    """P(all gates over an element are open), in a shape that broadcasts to the tensor's."""
    alive = torch.ones([1] * len(shape), device=probs[0].device)
    seen: list[tuple[int, Tensor]] = []
    for dim, group, gates in tables:
        line = gates.to(alive.device).reshape(
            shape if dim is None else [-1 if d == dim else 1 for d in range(len(shape))]
        )
        for other, earlier in seen:
            if other == group:  # one gate over row and column is open once
                line = torch.where(line == earlier, -1, line)
        seen.append((group, line))
        alive = alive * torch.cat((probs[group], probs[group].new_ones(1)))[line]  # the last one where none decides
    return alive
