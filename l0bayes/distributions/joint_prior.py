"""The prior of gates whose code cost is shared: a parameter under several gates is paid for while all are open."""

from typing import ClassVar, Protocol, Self

import torch
from pyro.distributions import constraints
from torch import Tensor

from l0bayes.distributions.gate_prior import GatePrior
from l0bayes.distributions.hard_concrete import Shape


class Joint(Protocol):
    """What the gates of one run cost, all groups together."""

    last: int  # position of the group that has the cost

    def note_probs(self, position: int, probs: Tensor) -> None:
        """Notes P(z ≠ 0) of the gates at ``position``, ``(size,)``."""

    def expected(self) -> Tensor:
        """Expected cost of all groups' gates, in nats, once all have noted theirs."""

    def of_each_open(self, position: int) -> Tensor:
        """Cost of each open gate at ``position``, given the draws before it."""


class JointL0Prior(GatePrior):
    """The conditional prior of one group of gates, given the groups before it.

    KL(q ‖ p), summed over the groups, is the expected code cost E[λ · #{parameters all of whose gates are open}],
    plus KL(Bernoulli(P(z ≠ 0)) ‖ Bernoulli(inclusion)) where an inclusion probability is given: the expectation over
    *all* gates in closed form, since one over draws of the earlier groups would have no gradient with respect to them.
    So the groups' KLs belong together: the code cost is in that of the last group, shared out evenly among its gates.

    Args:
        joint: what the gates of the run cost together.
        position: this group's place in the order.
        size: number of gates.
        inclusion: prior probability of an open gate, apart from its cost, a number or a scalar tensor;
            ``None`` for the paper's objective.
        dtype: of the draws.
        device: of the draws.
    """

    arg_constraints: ClassVar = {"code_cost": constraints.real}

    def __init__(
        self,
        joint: Joint,
        position: int,
        size: int,
        inclusion: float | Tensor | None,
        *,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self.joint = joint
        self.position = position
        self.inclusion = inclusion
        self._dtype, self._device = dtype, device
        super().__init__(torch.Size([size]), validate_args=False)

    @property
    def code_cost(self) -> Tensor:
        """Nats that each open gate costs, given the draws of the groups before it and the rest of its own open."""
        return self.joint.of_each_open(self.position).to(self._device, self._dtype)

    @property
    def logit_inclusion(self) -> Tensor:
        """Prior log-odds of an open gate, given the draws of the groups before it."""
        cost = self.code_cost
        return -cost if self.inclusion is None else torch.logit(torch.as_tensor(self.inclusion).to(cost)) - cost

    def expand(self, batch_shape: Shape, _instance: Self | None = None) -> Self:
        """This prior; the gates of a group are as many as they are.

        Raises:
            ValueError: for any other shape.
        """
        if torch.Size(batch_shape) != self.batch_shape:
            raise ValueError(
                f"gates: one run takes one draw of {self.batch_shape[0]} gates; got batch_shape {tuple(batch_shape)}. "
                "Use num_particles without vectorize_particles, and Predictive with parallel=False"
            )
        return self
