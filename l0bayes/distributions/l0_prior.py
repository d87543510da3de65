"""The L0 penalty of the paper as a prior on gates."""

from typing import ClassVar

from pyro.distributions import constraints
from torch import Tensor

from l0bayes.arguments import check_flag
from l0bayes.compat import validates
from l0bayes.distributions.gate_prior import GatePrior, as_floating, check_code_cost


class L0Prior(GatePrior):
    """Each open gate costs ``code_cost`` nats: KL(HardConcrete ‖ L0Prior) = code_cost · P(z ≠ 0).

    This is the paper's objective (§2.1 with eq. 12; appendix A, where it follows from a spike-and-slab prior by
    dropping the KL of the gate indicators and fixing that of a slab weight to λ). It is a description length,
    not the KL of a normalised distribution: the entropy of the guide is left out by definition, and
    :class:`~l0bayes.SpikeAndSlabPrior` puts it back. Prior draws are open with odds
    exp(−code_cost).

    Args:
        code_cost: nats an open gate costs, ≥ 0: the λ per parameter times the parameters behind the gate.
            In the paper's notation λ = 0.1/N on the mean loss is 0.1 nat per parameter here.
        validate_args: whether to check arguments and values; default is Pyro's global setting.

    Raises:
        ValueError: if ``code_cost`` is negative or not finite.
    """

    arg_constraints: ClassVar = {"code_cost": constraints.nonnegative}

    def __init__(self, code_cost: float | Tensor, *, validate_args: bool | None = None) -> None:
        (self.code_cost,) = as_floating(code_cost=code_cost)
        check_flag("validate_args", validate_args)
        if validates(self) if validate_args is None else validate_args:
            check_code_cost(self.code_cost)
        super().__init__(self.code_cost.shape, validate_args=validate_args)

    @property
    def logit_inclusion(self) -> Tensor:
        """Prior log-odds of an open gate, −code_cost."""
        return -self.code_cost
