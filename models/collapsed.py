"""Marginal likelihoods of subsets of gates, with the coefficients integrated out.

For a Gaussian likelihood in closed form; for others by Laplace's method: a normal about the mode, with the intercept,
whose prior is flat, integrated out along with the coefficients.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from l0bayes.models.spike_slab_regression import SpikeSlabRegression

_NEWTON_STEPS = 25
_CONVERGED = 1e-10
_LARGEST_STEP = 5.0  # of a coefficient of a scaled column, so that Newton's method does not overshoot


@dataclass(frozen=True)
class Quadratic:
    """A log-likelihood as bᵀβ − βᵀAβ/2, in units of the scaled columns: exact for Gaussian noise.

    Attributes:
        matrix: A, of shape ``(p, p)``.
        vector: b, of shape ``(p,)``.
    """

    matrix: Tensor
    vector: Tensor


class Collapsed(ABC):
    """A regression without its coefficients.

    Args:
        model: scales as given, or as learned so far.

    Attributes:
        precision: prior precisions of the coefficients of scaled columns, of shape ``(p,)``.
        gate_of: for each column the number of its gate.
        prior: of the sets of gates.
    """

    def __init__(self, model: SpikeSlabRegression) -> None:
        with torch.no_grad():
            parts = model.parts()
            self.x, self.y, self.gate_of = parts.x, parts.y, parts.gate_of
            self.precision = model.slab_deviation().square().reciprocal()
            self.prior = model.set_prior
        self.unit = torch.eye(self.x.shape[1], dtype=self.x.dtype)

    def log_joint(self, gates: Tensor) -> Tensor:
        """Log p(y, γ) up to a constant, of shape ``(models,)``, for 0/1 ``gates`` of shape ``(models, gates)``."""
        return self.posterior(gates)[0] + self.prior.log_prob(gates)

    def posterior(self, gates: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Log marginal likelihoods up to a constant, and means and standard deviations of the coefficients."""
        return self._posterior(gates[:, self.gate_of])

    @abstractmethod
    def _posterior(self, inside: Tensor) -> tuple[Tensor, Tensor, Tensor]: ...

    @abstractmethod
    def quadratic(self) -> Quadratic:
        """The log-likelihood, or its expansion about the mode of the full model."""

    def _normal(self, inside: Tensor, matrix: Tensor, vector: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Log ∫ exp(bᵀβ − βᵀAβ/2) N(β; 0, D⁻¹) dβ over the coefficients inside, and their moments."""
        root = self.precision.rsqrt()
        scaled = inside[:, :, None] * (root[:, None] * matrix * root) * inside[:, None, :]
        factor = torch.linalg.cholesky(self.unit + scaled)
        moment = inside * (root * vector)
        solved = torch.cholesky_solve(moment[..., None], factor)[..., 0]
        log_det = 2 * factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        variance = torch.cholesky_inverse(factor).diagonal(dim1=-2, dim2=-1)
        return 0.5 * ((moment * solved).sum(-1) - log_det), root * solved, root * variance.sqrt() * inside


class CollapsedGaussian(Collapsed):
    """Marginal likelihoods in closed form, for Gaussian noise that is given."""

    def __init__(self, model: SpikeSlabRegression) -> None:
        super().__init__(model)
        with torch.no_grad():
            noise = model.scale("noise").square()
        self._quadratic = Quadratic(self.x.T @ self.x / noise, self.x.T @ (self.y - self.y.mean()) / noise)

    def quadratic(self) -> Quadratic:
        """The log-likelihood, exactly."""
        return self._quadratic

    def _posterior(self, inside: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self._normal(inside, self._quadratic.matrix, self._quadratic.vector)


class CollapsedLaplace(Collapsed):
    """Laplace's method, for logistic and Poisson regression."""

    def __init__(self, model: SpikeSlabRegression) -> None:
        super().__init__(model)
        self._poisson = model.likelihood == "poisson"
        with torch.no_grad():
            self._start = float(model.intercept)
            self._offset = model.parts().offset

    def _output(self, intercept: Tensor, beta: Tensor) -> Tensor:
        return self._offset + intercept[:, None] + beta @ self.x.T

    def _log_lik(self, output: Tensor) -> Tensor:
        if self._poisson:
            return (self.y * output - output.exp()).sum(-1)
        return (self.y * logsigmoid(output) + (1 - self.y) * logsigmoid(-output)).sum(-1)

    def _mode(self, inside: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Intercepts, coefficients, and weights −ℓ″ of the rows, at the modes, by Newton's method."""
        intercept = torch.full((len(inside),), self._start, dtype=self.x.dtype)
        beta = torch.zeros_like(inside)
        design = torch.cat([self.x.new_ones(len(self.x), 1), self.x], 1)
        precision = torch.cat([self.precision.new_zeros(1), self.precision])
        inside = torch.cat([inside.new_ones(len(inside), 1), inside], 1)
        outside = torch.diag_embed(1 - inside)
        for _ in range(_NEWTON_STEPS):
            mean, weight = self._moments(self._output(intercept, beta))
            full = torch.cat([intercept[:, None], beta], 1)
            gradient = inside * ((self.y - mean) @ design - precision * full)
            hessian = torch.einsum("mn,ni,nj->mij", weight, design, design) + torch.diag(precision)
            hessian = inside[:, :, None] * hessian * inside[:, None, :] + outside
            step = torch.linalg.solve(hessian, gradient)
            size = step.abs().amax(-1, keepdim=True)
            step = step * (_LARGEST_STEP / size.clamp(min=_LARGEST_STEP))
            intercept, beta = intercept + step[:, 0], beta + step[:, 1:]
            if float(size.max()) < _CONVERGED:
                break
        return intercept, beta, self._moments(self._output(intercept, beta))[1]

    def _moments(self, output: Tensor) -> tuple[Tensor, Tensor]:
        """Means of the responses and their variances, which are −ℓ″ under these links."""
        if self._poisson:
            return output.exp(), output.exp()
        mean = output.sigmoid()
        return mean, mean * (1 - mean)

    def quadratic(self) -> Quadratic:
        """The log-likelihood about the mode of the full model, with the intercept profiled out.

        There its gradient is that of the prior.
        """
        _, beta, weight = self._mode(self.x.new_ones(1, self.x.shape[1]))
        matrix = self._information(weight)[0]
        return Quadratic(matrix, matrix @ beta[0] + self.precision * beta[0])

    def _information(self, weight: Tensor) -> Tensor:
        """Information of the coefficients where the intercept is integrated out: columns centred with the weights."""
        centres = weight @ self.x / weight.sum(-1, keepdim=True)
        second = torch.einsum("mn,ni,nj->mij", weight, self.x, self.x)
        return second - weight.sum(-1)[:, None, None] * centres[:, :, None] * centres[:, None, :]

    def _posterior(self, inside: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        intercept, beta, weight = self._mode(inside)
        root = self.precision.rsqrt()
        scaled = inside[:, :, None] * (root[:, None] * self._information(weight) * root) * inside[:, None, :]
        factor = torch.linalg.cholesky(self.unit + scaled)
        log_det = 2 * factor.diagonal(dim1=-2, dim2=-1).log().sum(-1) + weight.sum(-1).log()
        penalty = 0.5 * (self.precision * beta.square()).sum(-1)
        log_lik = self._log_lik(self._output(intercept, beta))
        deviation = torch.cholesky_inverse(factor).diagonal(dim1=-2, dim2=-1).sqrt()
        log_marginal = log_lik - penalty - 0.5 * log_det + 0.5 * math.log(2 * math.pi)
        return log_marginal, beta, root * deviation * inside


def collapsed(model: SpikeSlabRegression) -> Collapsed:
    """The regression with its coefficients integrated out: exactly, or by Laplace's method."""
    return CollapsedGaussian(model) if model.likelihood == "gaussian" else CollapsedLaplace(model)
