"""What the priors of gates have in common: they speak of one event, that the gate is not zero."""

from typing import Self

import torch
from pyro.distributions import TorchDistribution, constraints
from torch import Tensor
from torch.nn.functional import logsigmoid

from l0bayes.arguments import check_real
from l0bayes.compat import check_value, set_validation, validates
from l0bayes.distributions.hard_concrete import Shape
from l0bayes.distributions.score_only import score_only


class GatePrior(TorchDistribution):
    """A prior on whether a gate is open, z ≠ 0; it does not say how far.

    Draws are exactly 0 or 1. ``log_prob`` is the log-probability of the event ``z = 0`` or ``z ≠ 0``, whichever
    ``value`` in [0, 1] belongs to: a density with respect to counting measure on the two events, not with respect to
    the measure of :class:`~l0bayes.distributions.HardConcrete`. So the difference of the two log-densities is no KL,
    and importance weights made of them (``Importance``, ``ReweightedWakeSleep``, the value of ``Trace_ELBO``) belong to
    another prior, one that is flat over open gates; use a ``HardConcrete`` prior there. Subclasses
    give the log-odds and, through :mod:`l0bayes.distributions.kl`, an exact KL from
    :class:`~l0bayes.distributions.HardConcrete`.
    """

    support = constraints.unit_interval
    has_rsample = False

    @property
    def logit_inclusion(self) -> Tensor:
        """Prior log-odds of an open gate, of shape ``batch_shape``."""
        raise NotImplementedError

    def expand(self, batch_shape: Shape, _instance: Self | None = None) -> Self:
        """The same prior over a larger batch; subclasses keep their class and attributes."""
        shape = torch.Size(batch_shape)
        new = type(self).__new__(type(self)) if _instance is None else _instance
        new.__dict__.update(self.__dict__)
        for name in self.arg_constraints:
            setattr(new, name, getattr(self, name).expand(shape))
        super(GatePrior, new).__init__(shape, validate_args=False)
        set_validation(new, validates(self))
        return new

    def sample(self, sample_shape: Shape = torch.Size()) -> Tensor:  # noqa: B008
        """Draws of exactly 0 or 1, of shape ``sample_shape + batch_shape``."""
        with torch.no_grad():
            shape = torch.Size(sample_shape) + self.batch_shape
            return torch.bernoulli(torch.sigmoid(self.logit_inclusion).expand(shape))

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-probability of the event that ``value`` belongs to, z = 0 or z ≠ 0, in nats."""
        check_value(self, value)
        logit = self.logit_inclusion
        log_prob = logsigmoid(torch.where(value == 0, -logit, logit))
        if not value.requires_grad:
            return log_prob
        # The comparison cuts the graph; joined on again, the guard adds zero and raises in backward.
        return log_prob + 0 * score_only(value).to(log_prob.dtype)

    @property
    def mean(self) -> Tensor:
        """Prior probability of an open gate."""
        return torch.sigmoid(self.logit_inclusion)

    @property
    def variance(self) -> Tensor:
        """Variance of the 0/1 draws."""
        return torch.sigmoid(self.logit_inclusion) * torch.sigmoid(-self.logit_inclusion)


def as_floating(**values: float | Tensor) -> tuple[Tensor, ...]:
    """Numbers and tensors as floating-point tensors of one shape.

    Args:
        values: name to a number or tensor; they broadcast together.

    Returns:
        As many tensors, of the common shape.

    Raises:
        ArgumentError: if one is neither, or complex.
    """
    for name, value in values.items():
        check_real(name, value)
    tensors = [torch.as_tensor(value) for value in values.values()]
    floating = [t if t.is_floating_point() else t.to(torch.get_default_dtype()) for t in tensors]
    return tuple(torch.broadcast_tensors(*floating))


def check_code_cost(code_cost: Tensor) -> None:
    """Raises ``ValueError`` unless every code cost is finite and not negative."""
    wrong = ~(torch.isfinite(code_cost) & (code_cost >= 0))
    if wrong.any():
        first = code_cost.detach()[wrong].flatten()[0].item()
        raise ValueError(
            f"code_cost must be finite and >= 0 nats; got {first:g}. Use 0 for no penalty, 0.1 per parameter for "
            "the paper's, 1 per parameter for AIC"
        )
