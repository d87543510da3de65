"""The spike-and-slab prior on gates."""

from typing import ClassVar, Self

import torch
from pyro.distributions import constraints
from torch import Tensor

from l0bayes.arguments import check_flag
from l0bayes.compat import validates
from l0bayes.distributions.gate_prior import GatePrior, as_floating, check_code_cost
from l0bayes.distributions.prior_inclusion import share_expected


class SpikeAndSlabPrior(GatePrior):
    """A gate is open with probability ``inclusion``; an open one costs ``code_cost`` nats more.

    KL(HardConcrete ‖ SpikeAndSlabPrior) = KL(Bernoulli(P(z ≠ 0)) ‖ Bernoulli(inclusion)) + code_cost · P(z ≠ 0),
    the paper's full spike-and-slab objective (appendix A), where ``code_cost`` stands for the KL of the slab
    weights behind the gate. Prior draws and ``log_prob`` are those of Bernoulli(inclusion).

    Args:
        inclusion: prior probability π of an open gate, strictly between 0 and 1.
        code_cost: nats an open gate costs beyond that, ≥ 0.
        validate_args: whether to check arguments and values; default is Pyro's global setting.

    Raises:
        ValueError: if ``inclusion`` is outside (0, 1), or ``code_cost`` negative or not finite.
    """

    arg_constraints: ClassVar = {
        "inclusion": constraints.unit_interval,
        "code_cost": constraints.nonnegative,
    }

    def __init__(
        self, inclusion: float | Tensor, code_cost: float | Tensor = 0.0, *, validate_args: bool | None = None
    ) -> None:
        self.inclusion, self.code_cost = as_floating(inclusion=inclusion, code_cost=code_cost)
        check_flag("validate_args", validate_args)
        if validates(self) if validate_args is None else validate_args:
            wrong = ~((self.inclusion > 0) & (self.inclusion < 1))
            if wrong.any():
                first = self.inclusion.detach()[wrong].flatten()[0].item()
                raise ValueError(
                    f"inclusion must be strictly between 0 and 1; got {first:g}. A gate that is always open or "
                    "always closed needs no gate"
                )
            check_code_cost(self.code_cost)
        super().__init__(self.inclusion.shape, validate_args=validate_args)

    @property
    def logit_inclusion(self) -> Tensor:
        """Prior log-odds of an open gate, logit(inclusion)."""
        return torch.logit(self.inclusion)

    @classmethod
    def expecting(cls, open_gates: float, gates: int, code_cost: float | Tensor = 0.0) -> Self:
        """The prior under which so many of a number of gates are open on average: inclusion = open_gates / gates.

        Raises:
            ValueError: if that is not between none and all of them.
        """
        return cls(share_expected(open_gates, gates), code_cost)
