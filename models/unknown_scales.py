"""A linear regression with its noise, and the scale of its slab, integrated out.

y = Z b + σ ε over the columns that are there, b ~ N(0, σ² / λ) for each, and an intercept with a flat prior, that is,
all is centred. Given λ the coefficients, and a noise that is unknown, are integrated in closed form (Liang et al.
2008, JASA 103, section 2); λ has a grid, over which it is summed or drawn.
"""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from l0bayes.models.spike_slab_regression import SpikeSlabRegression

Noise = Literal["known", "relative", "absolute"]
Arr = np.ndarray

_STEP = 0.25  # of the logarithm of the slab's variance
_LOG_VARIANCE = (-4.0, 14.0)  # beyond which the inverse gamma has nothing that a model of one column would notice
_LEAST_NOISE = 1e-3  # relative to sd(y), where a slab in the user's units leaves room for none at all
_FINE = 0.7  # steps of the noise's grid, in standard deviations of its logarithm


@dataclass(frozen=True)
class UnknownScales:
    """What methods that sum or draw over sets of columns start from.

    Attributes:
        z: columns, of shape ``(n, p)``, centred.
        y: responses, of shape ``(n,)``, centred; in units of the noise where that is known.
        units: what turns b into the user's coefficients, of shape ``(p,)``.
        noise: ``"known"``: 1 in these units. ``"relative"``: unknown, with the reference prior 1/σ² and a slab in its
            units. ``"absolute"``: unknown with that prior, and a slab of variance 1, so that λ = σ².
        noise_unit: standard deviation of the noise in these units, in the user's.
        levels: the values of λ, of shape ``(levels,)``.
        log_weights: their prior probabilities, of shape ``(levels,)``.
        learned: whether λ is to be a point, or is one that was learned.
    """

    z: Arr
    y: Arr
    units: Arr
    noise: Noise
    noise_unit: float
    levels: Arr
    log_weights: Arr
    learned: bool = False

    @property
    def degrees(self) -> int:
        """Directions in which the data vary: n − 1, the intercept has one."""
        return len(self.y) - 1

    def log_lik(self, rss: Arr, level: Arr) -> Arr:
        """Log-likelihood with noise and coefficients integrated out, but for the determinant.

        Args:
            rss: yᵀy − bᵀ(ZᵀZ + λ)⁻¹b, the penalised residual sum of squares.
            level: λ.
        """
        if self.noise == "known":
            return -0.5 * rss
        if self.noise == "relative":
            return np.asarray(-0.5 * self.degrees * np.log(rss))
        return np.asarray(-0.5 * (self.degrees * np.log(level) + rss / level))

    def gain(self, explained: Arr, rss: Arr, level: Arr) -> Arr:
        """What the log-likelihood gains where a column explains so much of the residual sum of squares."""
        if self.noise == "known":
            return 0.5 * explained
        if self.noise == "relative":
            return np.asarray(-0.5 * self.degrees * np.log1p(-np.minimum(explained / rss, 1 - 1e-12)))
        return np.asarray(0.5 * explained / level)

    def variance(self, rss: Arr, level: Arr) -> Arr:
        """Posterior mean of σ² given what is in the model, for variances of coefficients."""
        if self.noise == "known":
            return np.ones_like(rss)
        if self.noise == "relative":
            return rss / max(self.degrees - 2, 1)
        return np.asarray(level + 0 * rss)

    def draw_variance(self, rss: Arr, level: Arr, rng: np.random.Generator) -> Arr:
        """Draws of σ² given what is in the model."""
        if self.noise == "relative":
            return rss / rng.chisquare(self.degrees, size=np.shape(rss))
        return self.variance(rss, level)

    @property
    def constant(self) -> float:
        """What turns the sums into a log-evidence: of y in the user's units under the flat priors, in nats."""
        half = 0.5 * self.degrees
        if self.noise == "relative":
            return math.lgamma(half) - half * math.log(math.pi) - 0.5 * math.log(len(self.y))
        return -half * math.log(2 * math.pi) - 0.5 * math.log(len(self.y)) - 2 * half * math.log(self.noise_unit)

    def by_level(self, eigenvalues: Arr, moments: Arr) -> tuple[Arr, Arr]:
        """Log p(y, λ | set) but for the constant, and the residual sums of squares, for each level of λ.

        Args:
            eigenvalues: of ZᵀZ of the columns of a set, of shape ``(…, k)``; zeros for those that are not there.
            moments: Zᵀy in the basis of the eigenvectors, of the same shape.

        Returns:
            Two arrays of shape ``(…, levels)``.
        """
        ratio = eigenvalues[..., None] / self.levels
        rss = self.y @ self.y - (moments[..., None] ** 2 / (eigenvalues[..., None] + self.levels)).sum(-2)
        rss = np.maximum(rss, 1e-12 * (self.y @ self.y))
        joint = -0.5 * np.log1p(np.maximum(ratio, 0)).sum(-2) + self.log_lik(rss, self.levels) + self.log_weights
        return joint, rss


def given_slab(x: Arr, y: Arr, noise: float | None, slab: Arr) -> UnknownScales:
    """A slab in the user's units.

    Args:
        x: centred columns, of shape ``(n, p)``.
        y: centred responses.
        noise: standard deviation of the noise; unknown if ``None``, with the reference prior 1/σ² between sd(y) / 1000,
            since under such a slab a model of n columns would have none at all, and 3 sd(y).
        slab: prior standard deviations of the coefficients, of shape ``(p,)``.
    """
    if noise is not None:
        return UnknownScales(x * slab / noise, y / noise, slab, "known", noise, np.ones(1), np.zeros(1))
    spread = float(np.sqrt((y @ y) / max(len(y) - 1, 1)))
    step = min(_STEP, _FINE * math.sqrt(2 / max(len(y) - 1, 1)))
    logs = np.arange(2 * math.log(_LEAST_NOISE), 2 * math.log(3.0), step)
    weights = np.full(len(logs), math.log(step))
    return UnknownScales(x * slab, y, slab, "absolute", 1.0, np.exp(logs) * spread**2, weights)


def relative_slab(x: Arr, y: Arr, noise: float | None, *, unit_information: bool = False) -> UnknownScales:
    """A slab in units of the noise and of each column's standard deviation s_j: β_j ~ N(0, v σ² / s_j²).

    v = 1 says what one datum would (unit information: Kass and Wasserman 1995, JASA 90). Unknown, with an inverse gamma
    IG(1/2, 1/2), it makes each β_j Cauchy with scale σ / s_j, as Zellner and Siow (1980) have it after Jeffreys, but
    for the correlation of the columns, which this leaves out, so that they may be collinear or more than the rows.

    Args:
        x: centred columns, of shape ``(n, p)``.
        y: centred responses.
        noise: standard deviation of the noise; unknown if ``None``, with the reference prior 1/σ².
        unit_information: whether v is 1.
    """
    spread = np.sqrt((x**2).mean(0))
    unit = 1.0 if noise is None else noise
    kind: Noise = "relative" if noise is None else "known"
    logs = np.zeros(1) if unit_information else np.arange(*_LOG_VARIANCE, _STEP)
    weights = -0.5 * logs - 0.5 * np.exp(-logs)
    weights -= np.logaddexp.reduce(weights)
    return UnknownScales(x / spread, y / unit, unit / spread, kind, unit, np.exp(-logs), weights)


def learned_slab(x: Arr, y: Arr, noise: float | None) -> UnknownScales:
    """One slab for all columns, in their units and those of the noise, on a grid to find the best of: N(0, v σ²).

    The grid is wide enough for the column of the largest and that of the smallest unit.

    Args:
        x: centred columns, of shape ``(n, p)``.
        y: centred responses.
        noise: standard deviation of the noise; unknown if ``None``, with the reference prior 1/σ².
    """
    spread = np.sqrt((x**2).mean(0))
    unit = 1.0 if noise is None else noise
    least, most = _LOG_VARIANCE[0] - 2 * np.log(spread.max()), _LOG_VARIANCE[1] - 2 * np.log(spread.min())
    logs = np.arange(least, most, _STEP)
    kind: Noise = "relative" if noise is None else "known"
    units = np.full(x.shape[1], unit)
    weights = np.full(len(logs), -math.log(len(logs)))
    return UnknownScales(x, y / unit, units, kind, unit, np.exp(-logs), weights, learned=True)


def scales_of(model: SpikeSlabRegression) -> UnknownScales:
    """A linear regression with all integrated out that was not given."""
    data = model.regression_data
    x, y = data.x.cpu().numpy(), data.y.cpu().numpy()
    noise = None if model.noise_is_unknown else model.scale("noise").item()
    if model.slab is None:
        return given_slab(x, y, noise, np.broadcast_to(model.scale("slab").numpy(), x.shape[1]))
    if model.slab == "learned":
        return learned_slab(x, y, noise)
    return relative_slab(x, y, noise, unit_information=model.slab == "unit-information")
