"""Where the gate groups of one run of a model pay their share of the expected cost, one after the other."""

from collections.abc import Callable

import torch
from torch import Tensor

from l0bayes.code_cost.expected_cost import ExpectedCost, Tally


class RunningAccount:
    """What the groups of one run have paid and drawn so far.

    Args:
        cost: the expected cost, in nats.
        at_the_end: what the last group pays on top, in nats, given P(z ≠ 0) of all of them.
    """

    def __init__(self, cost: ExpectedCost, at_the_end: Callable[[list[Tensor]], Tensor] | None = None) -> None:
        self._cost = cost
        self._at_the_end = at_the_end
        self._tally: Tally | None = None
        self._draws: list[Tensor] = []
        self._drawn: Tally | None = None

    def draw(self, gates: Tensor) -> None:
        """Notes the draw of the next group."""
        self._draws.append(gates)

    def pay(self, position: int, prob: Tensor) -> Tensor:
        """What a group's gates add to the expected cost, given P(z ≠ 0) of its gates and those before.

        Raises:
            RuntimeError: if a group before it has not paid.
        """
        if self._tally is None:
            self._tally = self._cost.begin(prob)
        self._tally.back_to(position)
        if len(self._tally.seen) != position:
            raise RuntimeError(
                f"the code cost of gate group {position} depends on the {position} groups before it, of which "
                f"{len(self._tally.seen)} have a KL so far. Use TraceMeanField_ELBO or ClosedFormKL_ELBO with a guide "
                'that has every gate site, or sparsify(…, cost="paper"), whose gates pay one by one'
            )
        paid = self._cost.pay(self._tally, prob.to(self._tally.lengths.dtype))
        if self._at_the_end is not None and position == self._cost.groups - 1:
            paid = paid + self._at_the_end(self._tally.seen) / len(prob)
        return paid

    def price(self, position: int) -> Tensor:
        """What each gate of a group costs if it and all of its group are open, given the draws before it."""
        if not self._draws:
            return self._cost.price_if_open(self._cost.begin(torch.zeros(())))
        if self._drawn is None:
            self._drawn = self._cost.begin(self._draws[0])
        for gates in self._draws[len(self._drawn.seen) : position]:
            self._cost.pay(self._drawn, (gates != 0).to(self._draws[0].dtype))
        return self._cost.price_if_open(self._drawn.at(position))
