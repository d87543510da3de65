"""The last gates of a run with targets: those at the edge are opened or closed until the size is what was asked for.

When the gates are about to be fixed, many are still on their way. A run that has come near its target, but for the last
per cents, so ends with the most probable gates that make up the target: those that change are the ones nearest to their
threshold. A run that is far from its target is left as it is, and says so.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from l0bayes.find_sparse import find_sparse
from l0bayes.inference.size.constraint import BAND, Constraint
from l0bayes.structure.names import layer_of

# Relative distances from which on it is no longer a matter of the last gates: closing what is in use costs more than
# opening what was about to be left.
_TO_CLOSE, _TO_OPEN = 0.15, 0.5
_MARGIN = 0.1  # in log α, by which a changed gate is beyond its threshold
_SWEEPS = 4  # over several targets, each of which moves the others a little


@torch.no_grad()
def round_to_target(model: Any, guide: Any, constraints: Sequence[Constraint]) -> int:
    """Opens or closes gates nearest to their threshold until each target is met as nearly as can be.

    Where several targets are about the same layers, gates are opened only as far as all allow it.

    Args:
        model: a model around a sparse module.
        guide: its guide, whose ``log_alpha`` may change.
        constraints: the targets as constraints.

    Returns:
        How many gates changed.
    """
    if not constraints:
        return 0
    before = [z != 0 for z in guide.point().values()]
    for _ in range(_SWEEPS):
        for constraint in constraints:
            excess = constraint.excess()
            if BAND < excess <= _TO_CLOSE or BAND < -excess <= _TO_OPEN:
                _Edge(model, guide, constraint, [one for one in constraints if one.layers & constraint.layers]).meet()
    after = guide.point().values()
    return sum(int((was != (now != 0)).sum()) for was, now in zip(before, after, strict=True))


class _Edge:
    """The gates that one target is about, in the order of their probability."""

    def __init__(self, model: Any, guide: Any, constraint: Constraint, sharing: Sequence[Constraint]) -> None:
        self._constraint, self._sharing = constraint, sharing
        groups = find_sparse(model).groups
        ours = [group.name for group in groups if group.layer in constraint.layers]
        ours = ours or [g.name for g in groups if any(layer_of(part.tensor) in constraint.layers for part in g.slices)]
        self._log_alphas = [guide.parameter(f"log_alpha.{name}") for name in ours]
        self._as_trained = torch.cat([parameter.detach().clone() for parameter in self._log_alphas])
        self._order = self._as_trained.argsort(descending=True, stable=True)
        gate = guide.gates()[ours[0]]
        at_zero = float(torch.log(-gate.gamma / gate.zeta).flatten()[0])
        edges = (at_zero, at_zero * float(gate.beta.flatten()[0]))  # of the rules "paper" and "median"
        self._open_from, self._closed_to = max(edges), min(edges)
        self._open = int((torch.cat([guide.point()[name] for name in ours]) != 0).sum())

    def meet(self) -> None:
        """Chooses the number of open gates whose keep ratio is nearest to the target."""
        size, over = len(self._order), self._constraint.excess() > 0
        low, high = (0, self._open) if over else (self._open, size)
        fits: Callable[[], bool] = self._none_exceeds if not over else (lambda: self._constraint.excess() <= 0)
        while high - low > 1:  # the largest number that is not too much lies in [low, high)
            middle = (low + high) // 2
            self._leave(middle)
            low, high = (middle, high) if fits() else (low, middle)
        best = min((low, high), key=self._distance)
        self._leave(best)

    def _none_exceeds(self) -> bool:
        return all(one.excess() <= 0 for one in self._sharing)

    def _distance(self, number: int) -> float:
        self._leave(number)
        worst = max((one.excess() for one in self._sharing), default=0.0)
        return abs(self._constraint.excess()) if worst <= BAND else float("inf")

    def _leave(self, number: int) -> None:
        """Leaves so many open, the most probable ones; gates that need not change stay as they were trained."""
        values: Tensor = self._as_trained.clone()
        opened, closed = self._order[:number], self._order[number:]
        values[opened] = values[opened].clamp(min=self._open_from + _MARGIN)
        values[closed] = values[closed].clamp(max=self._closed_to - _MARGIN)
        for parameter, value in zip(self._log_alphas, values.split([len(p) for p in self._log_alphas]), strict=True):
            parameter.copy_(value)
        for one in self._sharing:
            one.measure()
