"""The hard concrete distribution (Louizos, Welling & Kingma, ICLR 2018, arXiv 1712.01312, §2.2)."""

import functools
import math
from collections.abc import Callable
from typing import ClassVar, Literal, Self, get_args

import torch
from pyro.distributions import TorchDistribution, constraints
from torch import Tensor
from torch.nn.functional import logsigmoid

from l0bayes.arguments import check_flag, check_real
from l0bayes.compat import check_value, set_validation, validates
from l0bayes.distributions.quadrature import inside_rule
from l0bayes.distributions.score_only import score_only

Number = float | Tensor
Shape = torch.Size | list[int] | tuple[int, ...]
PointRule = Literal["paper", "median", "mean"]

# Half the distance between neighbouring draws of torch.rand: a draw of exactly 0 stands for its whole cell.
_HALF_CELL = {torch.float32: 2.0**-25, torch.float64: 2.0**-54}


def _log(value: Number) -> Number:
    return value.log() if isinstance(value, Tensor) else math.log(value)


def _require(name: str, value: Number, check: Callable[[Tensor], Tensor], must: str) -> None:
    tensor = torch.as_tensor(value).detach()
    wrong = ~(check(tensor) & torch.isfinite(tensor))
    if wrong.any():
        raise ValueError(f"HardConcrete: {name} must {must}; got {tensor[wrong].flatten()[0].item():g}")


class HardConcrete(TorchDistribution):
    r"""A gate in [0, 1] with atoms at 0 and 1: a stretched, clipped binary concrete variable.

    With :math:`u \sim U(0,1)`, ``s = sigmoid((log u − log(1−u) + log_alpha) / beta)`` and
    ``z = min(1, max(0, s·(zeta − gamma) + gamma))`` (paper, eq. 10-11). The distribution is *mixed*: densities
    are with respect to :math:`\delta_0 + \delta_1 +` Lebesgue measure on (0, 1), so ``log_prob(0)`` and
    ``log_prob(1)`` are logarithms of probabilities and ``log_prob`` between them is that of a density.

    A gradient through the *value* given to :meth:`log_prob` raises
    :class:`~l0bayes.errors.PathwiseGradientError`: it would be biased (see
    :mod:`l0bayes.distributions.score_only`). Computations run in float32 at least; results have the dtype that
    the tensors among the arguments promote to.

    Args:
        log_alpha: location, any real. Shape broadcasts with the others to ``batch_shape``.
        beta: temperature, > 0.
        gamma: lower end of the stretch, < 0.
        zeta: upper end of the stretch, > 1.
        validate_args: whether to check arguments and values; default is Pyro's global setting.

    Raises:
        ValueError: if an argument is outside its range.
    """

    arg_constraints: ClassVar = {
        "log_alpha": constraints.real,
        "beta": constraints.positive,
        "gamma": constraints.less_than(0.0),
        "zeta": constraints.greater_than(1.0),
    }
    support = constraints.unit_interval
    has_rsample = True

    def __init__(
        self,
        log_alpha: Number,
        beta: Number = 2 / 3,
        gamma: Number = -0.1,
        zeta: Number = 1.1,
        *,
        validate_args: bool | None = None,
    ) -> None:
        if validate_args is not False:  # as a step of training says, many times
            for name, value in (("log_alpha", log_alpha), ("beta", beta), ("gamma", gamma), ("zeta", zeta)):
                check_real(name, value)
            check_flag("validate_args", validate_args)
        log_alpha = torch.as_tensor(log_alpha)
        if not log_alpha.is_floating_point():
            log_alpha = log_alpha.to(torch.get_default_dtype())
        # Plain numbers stay numbers: the arithmetic is then exact in float64 and costs no kernel.
        self._beta, self._gamma, self._zeta = (
            value if isinstance(value, Tensor) else float(value) for value in (beta, gamma, zeta)
        )
        shape = log_alpha.shape
        tensors = [value for value in (beta, gamma, zeta) if isinstance(value, Tensor)]
        if tensors:
            shape = torch.broadcast_shapes(shape, *(tensor.shape for tensor in tensors))
            dtypes = [tensor.dtype for tensor in tensors if tensor.is_floating_point()]
            log_alpha = log_alpha.to(functools.reduce(torch.promote_types, dtypes, log_alpha.dtype))
        self.log_alpha = log_alpha.expand(shape) if tensors else log_alpha
        validate = validates(self) if validate_args is None else validate_args
        if validate:
            self._check_arguments(log_alpha)
        super().__init__(shape, validate_args=False)  # checked above, and cheaper
        set_validation(self, validate)

    def _check_arguments(self, log_alpha: Tensor) -> None:
        # One reduction tells in the common case; the sum of finite numbers may overflow, so look closer then.
        if not torch.isfinite(log_alpha.detach().sum()):
            must = "be finite; look for a learning rate too high or NaN in the data"
            _require("log_alpha", log_alpha, torch.isfinite, must)
        _require("beta", self._beta, lambda v: v > 0, "be > 0; the paper uses 2/3")
        _require("gamma", self._gamma, lambda v: v < 0, "be < 0, so that 0 has an atom; the paper uses -0.1")
        _require("zeta", self._zeta, lambda v: v > 1, "be > 1, so that 1 has an atom; the paper uses 1.1")

    def __repr__(self) -> str:
        given = {"log_alpha": self.log_alpha, "beta": self._beta, "gamma": self._gamma, "zeta": self._zeta}
        shown = (
            f"{name}: {tuple(value.shape) if isinstance(value, Tensor) and value.numel() != 1 else f'{float(value):g}'}"
            for name, value in given.items()
        )
        return f"{type(self).__name__}({', '.join(shown)})"

    def _as_tensor(self, value: Number) -> Tensor:
        return torch.as_tensor(value, dtype=self.log_alpha.dtype, device=self.log_alpha.device).expand(
            self.log_alpha.shape
        )

    @property
    def beta(self) -> Tensor:
        """Temperature, of shape ``batch_shape``."""
        return self._as_tensor(self._beta)

    @property
    def gamma(self) -> Tensor:
        """Lower end of the stretch, of shape ``batch_shape``."""
        return self._as_tensor(self._gamma)

    @property
    def zeta(self) -> Tensor:
        """Upper end of the stretch, of shape ``batch_shape``."""
        return self._as_tensor(self._zeta)

    def expand(self, batch_shape: Shape, _instance: Self | None = None) -> Self:
        """The same distribution over a larger batch; subclasses keep their class and attributes."""
        shape = torch.Size(batch_shape)
        new = type(self).__new__(type(self)) if _instance is None else _instance
        new.__dict__.update(self.__dict__)
        new.log_alpha = self.log_alpha.expand(shape)
        super(HardConcrete, new).__init__(shape, validate_args=False)
        set_validation(new, validates(self))
        return new

    # -- computations in float32 at least -------------------------------------------------------------------

    @property
    def _dtype(self) -> torch.dtype:
        return torch.promote_types(self.log_alpha.dtype, torch.float32)

    def _wide_parameters(self) -> tuple[Tensor, Number, Number, Number]:
        beta, gamma, zeta = (
            value.to(self._dtype) if isinstance(value, Tensor) else value
            for value in (self._beta, self._gamma, self._zeta)
        )
        return self.log_alpha.to(self._dtype), beta, gamma, zeta

    def _cast(self, value: Tensor) -> Tensor:
        return value.to(self.log_alpha.dtype)

    def _logit_one(self) -> Tensor:
        """Logit of P(z = 1)."""
        log_alpha, beta, gamma, zeta = self._wide_parameters()
        return log_alpha - beta * _log((1 - gamma) / (zeta - 1))

    def _logit_cdf(self, value: Tensor) -> Tensor:
        """Logit of the distribution function for 0 ≤ value < 1."""
        log_alpha, beta, gamma, zeta = self._wide_parameters()
        return beta * ((value - gamma) / (zeta - value)).log() - log_alpha

    def _gate(self, logistic: Tensor) -> Tensor:
        """The gate that belongs to a draw of logistic noise (paper, eq. 10-11)."""
        log_alpha, beta, gamma, zeta = self._wide_parameters()
        stretched = torch.sigmoid((logistic + log_alpha) / beta) * (zeta - gamma) + gamma
        return self._cast(stretched.clamp(0, 1))

    def _log_density(self, value: Tensor) -> Tensor:
        """``log_prob`` without validation and guard, differentiable also in ``value`` between 0 and 1 (nats)."""
        _, beta, gamma, zeta = self._wide_parameters()
        logit = self._logit_cdf(value)
        jacobian = _log(beta * (zeta - gamma)) - ((value - gamma) * (zeta - value)).log()
        below, above = logsigmoid(logit), logsigmoid(-logit)
        inside = below + above + jacobian
        return torch.where(value <= 0, below, torch.where(value >= 1, above, inside))

    def expectation(self, at_zero: Tensor, at_one: Tensor, inside: Tensor, rule: tuple[Tensor, Tensor]) -> Tensor:
        """E[f(z)] from the values of ``f`` at the atoms and at the nodes of a quadrature rule.

        Args:
            at_zero: f(0), broadcastable to ``batch_shape``.
            at_one: f(1), likewise.
            inside: f at ``rule``'s nodes, of shape ``(nodes, *batch_shape)``.
            rule: nodes and weights from :func:`~l0bayes.distributions.quadrature.inside_rule`.

        Returns:
            A tensor of shape ``batch_shape``, differentiable in the parameters and in ``f``.
        """
        nodes, weights = rule
        mass = self._log_density(nodes).exp() * weights
        return (
            torch.sigmoid(-self.logit_nonzero) * at_zero
            + torch.sigmoid(self._logit_one()) * at_one
            + (mass * inside).sum(0)
        )

    def inside_rule(self) -> tuple[Tensor, Tensor]:
        """Quadrature nodes and weights on (0, 1) that suit this distribution, each ``(nodes, *batch_shape)``."""
        beta, gamma, zeta = (torch.as_tensor(v, dtype=self._dtype) for v in self._wide_parameters()[1:])
        nodes, weights = (t.to(self.log_alpha.device) for t in inside_rule(beta, gamma, zeta))
        shape = (-1, *(1,) * (len(self.batch_shape) - (nodes.dim() - 1)), *nodes.shape[1:])
        return nodes.reshape(shape), weights.reshape(shape)

    # -- sampling and densities -----------------------------------------------------------------------------

    def rsample(self, sample_shape: Shape = torch.Size()) -> Tensor:  # noqa: B008
        """Reparameterised draws of shape ``sample_shape + batch_shape``: one uniform number a gate."""
        shape = torch.Size(sample_shape) + self.batch_shape
        uniform = torch.rand(shape, dtype=self._dtype, device=self.log_alpha.device)
        return self._gate(uniform.clamp_(min=_HALF_CELL[self._dtype]).logit_())

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-density at ``value`` with respect to δ₀ + δ₁ + Lebesgue on (0, 1), in nats.

        Differentiable in the parameters (the score); a gradient through ``value`` raises
        :class:`~l0bayes.errors.PathwiseGradientError`.
        """
        check_value(self, value)
        return self._cast(self._log_density(score_only(value).to(self._dtype)))

    def cdf(self, value: Tensor) -> Tensor:
        """P(z ≤ value), right-continuous: it jumps to P(z = 0) at 0 and to 1 at 1."""
        wide = torch.as_tensor(value).to(self._dtype)
        inside = torch.sigmoid(self._logit_cdf(wide.clamp(0, 1)))
        return self._cast(torch.where(wide < 0, 0.0, torch.where(wide >= 1, 1.0, inside)))

    def icdf(self, value: Tensor) -> Tensor:
        """The smallest z in [0, 1] with cdf(z) ≥ value: the generalised inverse of :meth:`cdf`."""
        # The bounds stand for the infinite logits of 0 and 1, whose gradient would be 0 · ∞.
        return self._gate(torch.as_tensor(value).to(self._dtype).logit().clamp(-1e18, 1e18))

    # -- closed forms and moments ---------------------------------------------------------------------------

    @property
    def prob_zero(self) -> Tensor:
        """P(z = 0), of shape ``batch_shape``."""
        return self._cast(torch.sigmoid(-self.logit_nonzero))

    @property
    def prob_one(self) -> Tensor:
        """P(z = 1), of shape ``batch_shape``."""
        return self._cast(torch.sigmoid(self._logit_one()))

    @property
    def prob_nonzero(self) -> Tensor:
        """P(z ≠ 0) = sigmoid(log α − β log(−γ/ζ)) (paper, eq. 12), of shape ``batch_shape``."""
        return self._cast(torch.sigmoid(self.logit_nonzero))

    @property
    def logit_nonzero(self) -> Tensor:
        """The logit of :attr:`prob_nonzero`, exact where the probability rounds to 0 or 1."""
        log_alpha, beta, gamma, zeta = self._wide_parameters()
        return log_alpha - beta * _log(-gamma / zeta)

    @property
    def mean(self) -> Tensor:
        """E[z], by quadrature; the relative error is of rounding size."""
        rule = self.inside_rule()
        zero = torch.zeros((), dtype=self._dtype, device=self.log_alpha.device)
        return self._cast(self.expectation(zero, zero + 1, rule[0], rule))

    @property
    def variance(self) -> Tensor:
        """Var[z], by quadrature of squares about the mean, hence never negative."""
        rule = self.inside_rule()
        mean = self.mean.to(self._dtype)
        return self._cast(self.expectation(mean.square(), (1 - mean).square(), (rule[0] - mean).square(), rule))

    def entropy(self) -> Tensor:
        """−E[log q(z)] with respect to δ₀ + δ₁ + Lebesgue on (0, 1), in nats; may be negative."""
        rule = self.inside_rule()
        return self._cast(
            -self.expectation(
                logsigmoid(-self.logit_nonzero),
                logsigmoid(self._logit_one()),
                self._log_density(rule[0]),
                rule,
            )
        )

    def point(self, rule: PointRule = "paper") -> Tensor:
        """One gate value for use at test time, of shape ``batch_shape``.

        Args:
            rule: ``"paper"`` is clamp(sigmoid(log α)(ζ−γ)+γ) (eq. 13), which is neither mean nor median;
                ``"median"`` divides log α by β, as sampling does; ``"mean"`` is E[z], never exactly 0.

        Raises:
            ValueError: if ``rule`` is none of these.
        """
        if rule not in get_args(PointRule):
            raise ValueError(f"rule must be one of {', '.join(get_args(PointRule))}; got {rule!r}")
        if rule == "mean":
            return self.mean
        log_alpha, beta, gamma, zeta = self._wide_parameters()
        location = log_alpha / beta if rule == "median" else log_alpha
        return self._cast((torch.sigmoid(location) * (zeta - gamma) + gamma).clamp(0, 1))
