"""The code cost of one run's gates, which belongs to all of them together."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from l0bayes.code_cost.expected_cost import ExpectedCost


class JointCost:
    """What the gates of one run of a model cost, all groups together.

    Each group notes P(z ≠ 0) of its gates, in any order and as often as it likes; once all have, the expected cost is
    known. So the last group of a model's sites can give it as its KL, and those before it give none. Groups behind it
    whose gates were observed have no KL, and count as closed: their cost is in the log-density of what was observed.

    Args:
        cost: the expected cost, in nats.
        sizes: of the gate groups, in the order of their sites.
        slab: what the weights cost on top, in nats, given P(z ≠ 0) of all groups.

    Attributes:
        last: position of the last group whose gates were drawn.
    """

    def __init__(
        self, cost: ExpectedCost, sizes: Sequence[int], slab: Callable[[list[Tensor]], Tensor] | None = None
    ) -> None:
        self._cost, self._sizes, self._slab = cost, tuple(sizes), slab
        self._probs: dict[int, Tensor] = {}
        self._draws: dict[int, Tensor] = {}
        self.last = -1

    def note_draw(self, position: int, gates: Tensor, *, observed: bool = False) -> None:
        """Notes the draw of a group, or what was observed."""
        self._draws[position] = gates
        if not observed:
            self.last = max(self.last, position)

    def note_probs(self, position: int, probs: Tensor) -> None:
        """Notes P(z ≠ 0) of a group's gates, ``(size,)``."""
        self._probs[position] = probs

    def expected(self) -> Tensor:
        """The expected cost of all gates, and of the weights that they leave, in nats; a scalar.

        Raises:
            RuntimeError: if a group has not noted its probabilities.
        """
        missing = [position for position in range(self.last) if position not in self._probs]
        if missing:
            raise RuntimeError(
                f"the code cost of gates belongs to all groups together, and {len(missing)} of those before group "
                f"{self.last} have no KL so far. Use TraceMeanField_ELBO or ClosedFormKL_ELBO with a guide that has "
                'every gate site, or sparsify(…, cost="paper"), whose gates pay one by one'
            )
        closed = self._probs[self.last].new_zeros(sum(self._sizes[self.last + 1 :]))
        probs = [self._probs[position] for position in range(self.last + 1)]
        probs += closed.split(self._sizes[self.last + 1 :])
        expected = self._cost.of(torch.cat(probs))
        return expected if self._slab is None else expected + self._slab(probs)

    def of_each_open(self, position: int) -> Tensor:
        """What each gate of a group costs if it and all of its group are open, given the draws before it; ``(size,)``.

        The gradient of the expected cost where each gate of the group is open half of the time, which leaves out what a
        pair of them has in common once and not twice.
        """
        known = [(self._draws[before] != 0).double().cpu() for before in range(position)]
        own = torch.full((self._sizes[position],), 0.5, dtype=torch.float64, requires_grad=True)
        after = torch.zeros(sum(self._sizes[position + 1 :]), dtype=torch.float64)
        with torch.enable_grad():
            (slope,) = torch.autograd.grad(self._cost.of(torch.cat([*known, own, after])), own)
        return slope
