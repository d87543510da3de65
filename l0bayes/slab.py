"""The slab's part of the KL for weights that are points: an L2 penalty that closed weights do not pay."""

import functools

import torch
from torch import Tensor, nn

from l0bayes.structure import Structure
from l0bayes.structure.groups import gates_over

_MATRIX = 2  # biases and the scales of norms have one dimension, and no slab


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
        self._device = torch.device("cpu")
        self._gates = {
            name: gates_over(
                (
                    (number, part.dim, part.gates)
                    for number, group in enumerate(structure.groups)
                    for part in group.slices
                    if part.tensor == name
                ),
                shape,
            )
            for name, shape in structure.shapes.items()
            if len(shape) >= _MATRIX
        }

    def __call__(self, net: nn.Module, probs: list[Tensor]) -> Tensor:
        """The penalty, in nats.

        Args:
            net: the network.
            probs: P(z ≠ 0) of each group, in their order.

        Returns:
            A scalar.
        """
        device = probs[0].device
        if device != self._device:
            self._gates = {name: [(n, line.to(device)) for n, line in lines] for name, lines in self._gates.items()}
            self._device = device
        terms = []
        for name, lines in self._gates.items():
            weight = net.get_parameter(name)
            wide = weight.to(torch.promote_types(weight.dtype, torch.float32)).square()
            terms.append((wide * _alive(lines, probs)).sum() if lines else wide.sum())
        return torch.stack(terms).sum() / (2 * self._scale**2)


def _alive(lines: list[tuple[int, Tensor]], probs: list[Tensor]) -> Tensor:
    """P(all gates over an element are open), in a shape that broadcasts to the tensor's."""
    extended = [torch.cat((prob, prob.new_ones(1))) for prob in probs]  # the last one where no gate decides
    return functools.reduce(torch.mul, (extended[group][line] for group, line in lines))
