"""Sets of columns of a logistic or Poisson regression with their posterior probabilities, and draws from them."""

from dataclasses import dataclass

import numpy as np

from l0bayes.models.laplace import LaplaceRegression
from l0bayes.models.set_average import SetAverage

Arr = np.ndarray

_CHUNK = 256  # sets at a time
_LARGEST_MEAN = 1e15  # of counts, beyond which they cannot be drawn


@dataclass(frozen=True)
class LaplaceAverage(SetAverage):
    """The sets; given one, the coefficients are normal about the mode.

    Attributes:
        regression: with its coefficients integrated out by Laplace's method.
    """

    regression: LaplaceRegression

    def draws_of(self, slots: Arr, levels: Arr, rng: np.random.Generator) -> tuple[Arr, Arr, Arr | None, Arr | None]:
        """Draws of coefficients and intercept, given sets; there is no noise, and the slab is known."""
        del levels
        p = len(self.gate_of)
        distinct, which = np.unique(slots, axis=0, return_inverse=True)
        padded, centre = np.zeros((len(slots), p + 1)), np.zeros(len(slots))
        for start in range(0, len(distinct), _CHUNK):
            chunk = distinct[start : start + _CHUNK]
            modes = self.regression.modes(chunk)
            factor = np.linalg.cholesky(modes.inverse)
            rows = ((which.ravel() >= start) & (which.ravel() < start + _CHUNK)).nonzero()[0]
            here = which.ravel()[rows] - start
            chance = rng.normal(size=(len(rows), factor.shape[1], 1))
            theta = modes.coefficients[here] + (factor[here] @ chance)[..., 0]
            drawn = np.where(slots[rows] < p, theta[:, 1:], 0.0)
            padded[rows[:, None], slots[rows]] = drawn
            centre[rows] = theta[:, 0]
        padded[:, :p] *= self.regression.units
        return padded, centre - padded[:, :p] @ self.data.x_mean.numpy(), None, None

    # -- responses ----------------------------------------------------------------------------------------------

    def expected(self, output: Arr) -> Arr:
        """Means of the responses: probabilities, or rates."""
        return self.regression.mean_and_weight(output)[0]

    def replicate(self, output: Arr, noise: Arr | None, rng: np.random.Generator) -> Arr:
        """Draws of responses: 0 and 1, or counts."""
        del noise
        mean = self.expected(output)
        drawn = (
            rng.poisson(np.minimum(mean, _LARGEST_MEAN))
            if self.regression.poisson
            else rng.uniform(size=mean.shape) < mean
        )
        return np.asarray(drawn, dtype=np.float64)

    def log_lik(self, y: Arr, output: Arr, noise: Arr | None) -> Arr:
        """Log-probabilities of the responses that were observed."""
        del y, noise
        return np.asarray(self.regression.log_lik(output) + self.regression.constants)

    # -- single sets --------------------------------------------------------------------------------------------

    def log_marginal(self, columns: list[int]) -> float:
        """Log p(y | set) by Laplace's method, in nats."""
        modes = self.regression.modes(np.array([columns], dtype=np.int64).reshape(1, -1))
        return float(modes.log_marginal[0]) + float(self.regression.constants.sum())

    def coefficients_of(self, columns: list[int]) -> tuple[Arr, Arr]:
        """Means and standard deviations of the coefficients of a set, in the user's units."""
        modes = self.regression.modes(np.array([columns], dtype=np.int64).reshape(1, -1))
        units = self.regression.units[columns]
        return modes.coefficients[0, 1:] * units, np.sqrt(modes.inverse[0].diagonal()[1:]) * units
