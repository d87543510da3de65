"""The slab's part of the KL: what a weight costs while it is there."""

import functools
from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from l0bayes.structure import Structure
from l0bayes.structure.groups import gates_over

_MATRIX = 2  # biases and the scales of norms have one dimension, and no slab


class Slab(ABC):
    """Σⱼ P(all gates over j are open) · (cost of weight j), over all tensors but biases and the parameters of norms.

    A weight under several gates is paid for while all of them are open; one without gates always.

    Args:
        structure: the gate groups.
    """

    def __init__(self, structure: Structure) -> None:
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
            if self.covers(shape)
        }

    @staticmethod
    def covers(shape: torch.Size) -> bool:
        """Whether a parameter of this shape has a slab."""
        return len(shape) >= _MATRIX

    def __call__(self, net: nn.Module, probs: list[Tensor]) -> Tensor:
        """The cost, in nats.

        Args:
            net: the network.
            probs: P(z ≠ 0) of each group, in their order.

        Returns:
            A scalar.
        """
        device = probs[0].device
        if device != self._device:
            self._gates = {name: [(n, table.to(device)) for n, table in maps] for name, maps in self._gates.items()}
            self._device = device
        terms = []
        with torch.autocast(device.type, enabled=False):
            for name, maps in self._gates.items():
                weight = net.get_parameter(name)
                wide = weight.to(torch.promote_types(weight.dtype, torch.float32))
                terms.append(self._of(name, wide, _alive(maps, probs) if maps else 1.0))
        return torch.stack(terms).sum()

    @abstractmethod
    def _of(self, name: str, weight: Tensor, alive: Tensor | float) -> Tensor:
        """The cost of one tensor."""

    @staticmethod
    def _point(weight: Tensor, alive: Tensor | float, scale: float) -> Tensor:
        return (weight.square() * alive).sum() / (2 * scale**2)


class PointSlab(Slab):
    """Weights that are points under a normal slab: an L2 penalty θⱼ² / (2 σ²) that closed weights do not pay.

    The paper's L2 penalty weighted by the gates (Louizos et al. 2018, §2.1).

    Args:
        structure: the gate groups.
        scale: σ, the slab's standard deviation, > 0.
    """

    def __init__(self, structure: Structure, scale: float) -> None:
        super().__init__(structure)
        self._scale = scale

    def _of(self, name: str, weight: Tensor, alive: Tensor | float) -> Tensor:  # noqa: ARG002
        return self._point(weight, alive, self._scale)

    def of_all(self, net: nn.Module) -> Tensor:
        """The cost of all weights of a network that has only those that are there, such as a compacted one."""
        weights = [parameter for parameter in net.parameters() if self.covers(parameter.shape)]
        return torch.stack([self._point(weight.float(), 1.0, self._scale) for weight in weights]).sum()


def _alive(maps: list[tuple[int, Tensor]], probs: list[Tensor]) -> Tensor:
    """P(all gates over an element are open), in a shape that broadcasts to the tensor's."""
    extended = [torch.cat((prob, prob.new_ones(1))) for prob in probs]  # the last one where no gate decides
    return functools.reduce(torch.mul, (extended[group][table] for group, table in maps))
