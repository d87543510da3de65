"""Logistic and Poisson regression with the coefficients of a set of columns integrated out by Laplace's method.

A normal about the mode, the intercept, whose prior is flat, among the coefficients: log p(y | γ) ≈ ℓ(θ̂) + log p(θ̂) +
½ d log 2π − ½ log |H|, with H the negative Hessian at the mode (Tierney and Kadane 1986, JASA 81). Only the columns of
a set are ever looked at, many sets at once.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from l0bayes.models.special import expit, gammaln
from l0bayes.models.spike_slab_regression import SpikeSlabRegression

Arr = np.ndarray

_NEWTON_STEPS = 100
_HALVINGS = 30
_CONVERGED = 1e-14  # nats that another step would gain


@dataclass(frozen=True)
class Modes:
    """Where the posteriors of some sets have their modes.

    Attributes:
        coefficients: intercept first, then one for each slot, of shape ``(m, 1 + slots)``; 0 where a slot is empty.
        inverse: of the negative Hessians, of shape ``(m, 1 + slots, 1 + slots)``; 1 on the diagonal of empty slots.
        output: linear predictors of all rows, of shape ``(m, n)``.
        log_marginal: log p(y | set) but for :attr:`LaplaceRegression.constants`, of shape ``(m,)``.
    """

    coefficients: Arr
    inverse: Arr
    output: Arr
    log_marginal: Arr


class LaplaceRegression:
    """A logistic or Poisson regression, set by set.

    Args:
        model: with its slab as given, or as learned so far.

    Attributes:
        rows: centred and scaled columns as rows, the last one 0, of shape ``(p + 1, n)``.
        precision: prior precisions of their coefficients, of shape ``(p + 1,)``; 1 for the last.
        units: what turns coefficients into the user's, of shape ``(p,)``.
        y: responses.
        offset: known parts of the linear predictors.
    """

    def __init__(self, model: SpikeSlabRegression) -> None:
        parts = model.parts()
        x = parts.x.cpu().numpy()
        self.rows = np.concatenate([x.T, np.zeros((1, len(x)))])
        self.precision = np.append(1 / model.slab_deviation().detach().cpu().numpy() ** 2, 1.0)
        self.units = 1 / parts.spread.cpu().numpy()
        self.y, self.offset = parts.y.cpu().numpy(), parts.offset.cpu().numpy()
        self.poisson = model.likelihood == "poisson"
        self._start = float(model.intercept.detach())

    @property
    def p(self) -> int:
        """Number of the columns, and the number that stands for none."""
        return len(self.rows) - 1

    @cached_property
    def constants(self) -> Arr:
        """What :meth:`log_lik` leaves out, in nats, of shape ``(n,)``."""
        return np.asarray(-gammaln(self.y + 1)) if self.poisson else np.zeros(len(self.y))

    def log_lik(self, output: Arr) -> Arr:
        """Log-likelihoods of each row but for the constants, of linear predictors of shape ``(…, n)``."""
        if self.poisson:
            return np.asarray(self.y * output - np.exp(output))
        return np.asarray(self.y * output - np.logaddexp(0, output))

    def mean_and_weight(self, output: Arr) -> tuple[Arr, Arr]:
        """Means of the responses and their variances, which are −ℓ″ under these links."""
        if self.poisson:
            mean = np.exp(output)
            return mean, mean
        mean = expit(output)
        return mean, mean * (1 - mean)

    def design(self, slots: Arr) -> Arr:
        """The intercept and the columns of some sets as rows, of shape ``(m, 1 + slots, n)``."""
        return np.concatenate([np.ones((len(slots), 1, self.rows.shape[1])), self.rows[slots]], 1)

    def modes(self, slots: Arr, start: Arr | None = None) -> Modes:
        """Finds the modes by Newton's method, with steps halved that lead down.

        Args:
            slots: columns of each set, padded with p, of shape ``(m, slots)``.
            start: coefficients to start from, of shape ``(m, 1 + slots)``.
        """
        z = self.design(slots)
        penalty = np.concatenate([np.zeros((len(slots), 1)), self.precision[slots]], 1)
        theta = np.zeros(z.shape[:2]) if start is None else start.copy()
        if start is None:
            theta[:, 0] = self._start
        output, value = self._at(theta, z, penalty)
        for _ in range(_NEWTON_STEPS):
            mean, weight = self.mean_and_weight(output)
            gradient = (z @ (self.y - mean)[..., None])[..., 0] - penalty * theta
            step = np.linalg.solve(self._hessian(z, weight, penalty), gradient[..., None])[..., 0]
            gain = 0.5 * (gradient * step).sum(1)
            live = (gain > _CONVERGED).nonzero()[0]
            if not len(live):
                break
            for _ in range(_HALVINGS):
                there = theta[live] + step[live]
                new_output, new_value = self._at(there, z[live], penalty[live])
                up = new_value >= value[live] - 1e-9 * np.abs(value[live])
                done = live[up]
                theta[done], output[done], value[done] = there[up], new_output[up], new_value[up]
                live = live[~up]
                if not len(live):
                    break
                step[live] *= 0.5
        return self._about(theta, z, penalty, output, slots)

    def _at(self, theta: Arr, z: Arr, penalty: Arr) -> tuple[Arr, Arr]:
        output = self.offset + (theta[:, None] @ z)[:, 0]
        with np.errstate(over="ignore"):
            value = self.log_lik(output).sum(1)
        return output, value - 0.5 * (penalty * theta**2).sum(1)

    def _hessian(self, z: Arr, weight: Arr, penalty: Arr) -> Arr:
        hessian: Arr = (z * weight[:, None]) @ z.transpose(0, 2, 1)
        diagonal = np.einsum("maa->ma", hessian)
        diagonal += penalty
        return hessian

    def _about(self, theta: Arr, z: Arr, penalty: Arr, output: Arr, slots: Arr) -> Modes:
        hessian = self._hessian(z, self.mean_and_weight(output)[1], penalty)
        log_det = 2 * np.log(np.einsum("maa->ma", np.linalg.cholesky(hessian))).sum(1)
        value = self.log_lik(output).sum(1) - 0.5 * (penalty * theta**2).sum(1)
        prior = 0.5 * np.log(self.precision[slots]).sum(1)
        log_marginal = value + prior - 0.5 * log_det + 0.5 * np.log(2 * np.pi)
        return Modes(theta, np.linalg.inv(hessian), output, log_marginal)
