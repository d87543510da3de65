"""Sets of columns of a linear regression with their posterior probabilities, and draws of all that is unknown."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from l0bayes.models.column_products import ColumnProducts, log_levels
from l0bayes.models.enumeration import Enumeration, log_marginals, moments_given, open_gates
from l0bayes.models.gate_members import GateMembers
from l0bayes.models.regression_data import RegressionData
from l0bayes.models.set_average import SetAverage
from l0bayes.models.set_prior import SetPrior
from l0bayes.models.unknown_scales import UnknownScales

Arr = np.ndarray

_CHUNK = 256  # draws at a time


@dataclass(frozen=True)
class ModelAverage(SetAverage):
    """The sets of a linear regression.

    Attributes:
        scales: the regression as its coefficients and scales are integrated out.
    """

    scales: UnknownScales

    @cached_property
    def products(self) -> ColumnProducts:
        """Inner products of the columns."""
        return ColumnProducts(self.scales)

    @property
    def slab_is_unknown(self) -> bool:
        """Whether the slab's scale is integrated, or was learned."""
        return self.scales.noise != "absolute" and (len(self.scales.levels) > 1 or self.scales.learned)

    @cached_property
    def level_probs(self) -> Arr:
        """Posterior probabilities of the values of λ, averaged over the sets, of shape ``(levels,)``."""
        slots, weights = self.slots.reshape(-1, self.slots.shape[-1]), self.weights.ravel() / len(self.weights)
        distinct, which = np.unique(slots, axis=0, return_inverse=True)
        share = np.bincount(which.ravel(), weights, len(distinct))
        total = np.zeros(len(self.scales.levels))
        for start in range(0, len(distinct), _CHUNK):
            joint = log_levels(self.scales, self.products, distinct[start : start + _CHUNK])
            probs = np.exp(joint - np.logaddexp.reduce(joint, axis=1)[:, None])
            total += share[start : start + _CHUNK] @ probs
        return total

    def draws_of(self, slots: Arr, levels: Arr, rng: np.random.Generator) -> tuple[Arr, Arr, Arr | None, Arr | None]:
        """Draws of coefficients, intercept, noise and slab, given sets and numbers of λ."""
        p = len(self.gate_of)
        padded, variance = np.zeros((len(slots), p + 1)), np.zeros(len(slots))
        for start in range(0, len(slots), _CHUNK):
            part = slice(start, start + _CHUNK)
            self._draw(slots[part], levels[part], padded[part], variance[part], rng)
        padded[:, :p] *= self.scales.units
        noise = np.sqrt(variance) * self.scales.noise_unit
        centre = self.data.y_mean + noise * rng.normal(size=len(slots)) / np.sqrt(len(self.data.y))
        slab = 1 / np.sqrt(self.scales.levels[levels]) if self.slab_is_unknown else None
        return padded, centre - padded[:, :p] @ self.data.x_mean.numpy(), noise, slab

    def _draw(self, slots: Arr, levels: Arr, padded: Arr, variance: Arr, rng: np.random.Generator) -> None:
        """Draws λ where it is not known, σ², and b, into rows of what is given."""
        scales, products = self.scales, self.products
        if (levels < 0).any():
            joint = log_levels(scales, products, slots)
            upto = np.exp(joint - joint.max(1, keepdims=True)).cumsum(1)
            drawn = (upto < rng.uniform(size=len(slots))[:, None] * upto[:, -1:]).sum(1)
            levels[:] = np.where(levels < 0, np.minimum(drawn, len(scales.levels) - 1), levels)
        there, penalty = slots < products.p, scales.levels[levels]
        ridge = np.where(there, penalty[:, None], 1.0)
        factor = np.linalg.cholesky(products.within(slots) + ridge[:, :, None] * np.eye(slots.shape[1]))
        target = products.moment[slots][..., None]
        half = np.linalg.solve(factor, target)
        total = float(scales.y @ scales.y)
        rss = np.maximum(total - (half**2).sum((1, 2)), 1e-12 * total)
        variance[:] = scales.draw_variance(rss, penalty, rng)
        chance = np.sqrt(variance)[:, None, None] * rng.normal(size=half.shape)
        drawn_b = np.linalg.solve(factor.transpose(0, 2, 1), half + chance)[..., 0]
        np.put_along_axis(padded, slots, np.where(there, drawn_b, 0.0), axis=1)

    # -- responses ----------------------------------------------------------------------------------------------

    def expected(self, output: Arr) -> Arr:
        """Means of the responses: the linear predictors."""
        return output

    def replicate(self, output: Arr, noise: Arr | None, rng: np.random.Generator) -> Arr:
        """Responses with noise."""
        assert noise is not None  # noqa: S101 (a linear regression has some)
        return np.asarray(output + noise * rng.normal(size=output.shape))

    def log_lik(self, y: Arr, output: Arr, noise: Arr | None) -> Arr:
        """Log-densities of responses."""
        assert noise is not None  # noqa: S101
        return np.asarray(-0.5 * ((y - output) / noise) ** 2 - np.log(noise) - 0.5 * np.log(2 * np.pi))

    # -- single sets --------------------------------------------------------------------------------------------

    def log_marginal(self, columns: list[int]) -> float:
        """Log p(y | set), in nats, with noise and slab integrated out."""
        gram, moment, inside = self._only(columns)
        return float(log_marginals(self.scales, gram, moment, inside)[0]) + self.scales.constant

    def coefficients_of(self, columns: list[int]) -> tuple[Arr, Arr]:
        """Means and standard deviations of the coefficients of a set, in the user's units."""
        first, second = moments_given(self.scales, *self._only(columns))
        units = self.scales.units[columns]
        mean, second = first[0][: len(columns)], second[0][: len(columns)]
        return mean * units, np.sqrt(np.maximum(second - mean**2, 0)) * units

    def _only(self, columns: list[int]) -> tuple[Arr, Arr, Arr]:
        z = self.scales.z[:, columns or [0]]
        return z.T @ z, z.T @ self.scales.y, np.full((1, z.shape[1]), float(bool(columns)))


def average_of(
    found: Enumeration,
    data: RegressionData,
    *,
    groups: tuple[str, ...],
    gate_of: Arr,
    scales: UnknownScales,
    prior: SetPrior,
) -> ModelAverage:
    """The sets that an enumeration found, but for those of negligible probability."""
    slots = GateMembers(gate_of).slots_of(open_gates(found.sets, prior.gates))
    weights = np.exp(found.log_probs[found.sets])
    levels = np.full(len(slots), -1)
    return ModelAverage(
        data,
        groups,
        gate_of,
        prior,
        slots[None],
        levels[None],
        weights[None] / weights.sum(),
        in_time=False,
        scales=scales,
    )
