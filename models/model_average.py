"""Sets of columns with their posterior probabilities, and draws of all that is unknown from them."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from torch.distributions import Beta

from l0bayes.models.column_products import ColumnProducts, log_levels
from l0bayes.models.enumeration import Enumeration, log_marginals, moments_given, open_gates
from l0bayes.models.regression_data import RegressionData
from l0bayes.models.set_prior import SetPrior
from l0bayes.models.unknown_scales import UnknownScales

Arr = np.ndarray

_DRAWS = 4000  # for intervals and predictions, of all chains together
_NUMBERS = 20_000_000  # at most, in their coefficients
_CHUNK = 256  # draws at a time


@dataclass(frozen=True)
class Draws:
    """Draws from the posterior, in the user's units.

    Attributes:
        included: whether each gate is open, of shape ``(chains, draws, gates)``.
        coefficient: 0 where it is not there, of shape ``(chains, draws, p)``.
        intercept: of shape ``(chains, draws)``.
        noise: standard deviations of the noise.
        slab: standard deviations of the slab, in units of the noise per standard deviation of a column, where unknown.
        share: prior probability of an open gate, where it is unknown.
    """

    included: Arr
    coefficient: Arr
    intercept: Arr
    noise: Arr
    slab: Arr | None
    share: Arr | None

    def split(self, chains: int) -> "Draws":
        """Draws of one chain as those of several: for draws that do not follow each other."""
        divided: dict[str, Any] = {
            name: None if value is None else value.reshape(chains, -1, *value.shape[2:])
            for name, value in vars(self).items()
        }
        return Draws(**divided)


@dataclass(frozen=True)
class ModelAverage:
    """What a method found: sets of columns, weighted.

    Attributes:
        data: of the regression.
        groups: names of the gates.
        gate_of: for each column the number of its gate.
        scales: the regression as its coefficients and scales are integrated out.
        prior: of the sets of gates.
        slots: columns of each set, padded with p, of shape ``(chains, sets, slots)``.
        levels: numbers of λ, of shape ``(chains, sets)``; -1 where it is to be drawn given the set.
        weights: of shape ``(chains, sets)``, which sum to 1 in each chain.
        in_time: whether sets follow each other in time, so that draws should too.
    """

    data: RegressionData
    groups: tuple[str, ...]
    gate_of: Arr
    scales: UnknownScales
    prior: SetPrior
    slots: Arr
    levels: Arr
    weights: Arr
    in_time: bool

    @cached_property
    def products(self) -> ColumnProducts:
        """Inner products of the columns."""
        return ColumnProducts(self.scales)

    @cached_property
    def standard_draws(self) -> Draws:
        """Those that intervals and predictions are made from: the same whenever they are asked for."""
        number = min(_DRAWS, max(_NUMBERS // len(self.gate_of), 200))
        return self.draws(-(-number // len(self.weights)), 0)

    def draws(self, number: int, seed: int) -> Draws:
        """Draws.

        Args:
            number: of each chain.
            seed: of the draws.
        """
        rng = np.random.default_rng(seed)
        chains, p = len(self.weights), len(self.gate_of)
        at = np.stack([self._choose(weights, number, rng) for weights in self.weights])
        slots = np.take_along_axis(self.slots, at[..., None], 1).reshape(chains * number, -1)
        levels = np.take_along_axis(self.levels, at, 1).ravel()
        padded, variance = np.zeros((len(slots), p + 1)), np.zeros(len(slots))
        for start in range(0, len(slots), _CHUNK):
            part = slice(start, start + _CHUNK)
            self._draw(slots[part], levels[part], padded[part], variance[part], rng)
        coefficient = padded[:, :p] * self.scales.units
        noise = np.sqrt(variance) * self.scales.noise_unit
        centre = self.data.y_mean + noise * rng.normal(size=len(slots)) / np.sqrt(len(self.data.y))
        included = np.zeros((len(slots), len(self.groups) + 1), dtype=bool)
        np.put_along_axis(included, np.append(self.gate_of, len(self.groups))[slots], values=True, axis=1)
        included = included[:, :-1]
        shape = (chains, number)
        return Draws(
            included.reshape(*shape, -1),
            coefficient.reshape(*shape, p),
            (centre - coefficient @ self.data.x_mean.numpy()).reshape(shape),
            noise.reshape(shape),
            1 / np.sqrt(self.scales.levels[levels]).reshape(shape) if self.slab_is_unknown else None,
            self._shares(included, rng, shape),
        )

    @property
    def slab_is_unknown(self) -> bool:
        """Whether the slab's scale is integrated."""
        return self.scales.noise != "absolute" and len(self.scales.levels) > 1

    def _choose(self, weights: Arr, number: int, rng: np.random.Generator) -> Arr:
        if not self.in_time:
            return rng.choice(len(weights), size=number, p=weights / weights.sum())
        upto = weights.cumsum()
        levels = (rng.uniform() + np.arange(number)) / number * upto[-1]
        return np.asarray(np.minimum(np.searchsorted(upto, levels), len(weights) - 1))

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

    def _shares(self, included: Arr, rng: np.random.Generator, shape: tuple[int, int]) -> Arr | None:
        prior = self.prior.inclusion
        if not isinstance(prior, Beta):
            return None
        size = included.sum(1)
        a, b = float(prior.concentration1), float(prior.concentration0)
        return np.asarray(rng.beta(a + size, b + included.shape[1] - size).reshape(shape))

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

    def top(self, number: int) -> list[tuple[tuple[int, ...], float]]:
        """The most probable sets of gates, and their probabilities."""
        chains, sets, size = self.slots.shape
        gates = np.sort(np.append(self.gate_of, len(self.groups))[self.slots.reshape(chains * sets, size)], axis=1)
        found, numbers = np.unique(gates, axis=0, return_inverse=True)
        probs = np.bincount(numbers.ravel(), self.weights.ravel() / chains, len(found))
        best = np.argsort(-probs, kind="stable")[:number]
        return [(tuple(sorted({*found[m].tolist()} - {len(self.groups)})), float(probs[m])) for m in best]

    def named(self, number: int) -> pd.DataFrame:
        """The same by name: columns ``predictors`` (names of the open gates), ``size`` and ``probability``."""
        found = self.top(number)
        inside = [[self.groups[gate] for gate in gates] for gates, _ in found]
        sizes = [len(names) for names in inside]
        return pd.DataFrame({"predictors": inside, "size": sizes, "probability": [prob for _, prob in found]})

    @property
    def sizes(self) -> Arr:
        """Probabilities of 0, 1, … open gates."""
        if len(self.groups) == len(self.gate_of):
            count = (self.slots < len(self.gate_of)).sum(2)
        else:
            gates = np.append(self.gate_of, -1)[self.slots]
            count = np.stack([(gates == gate).any(2) for gate in range(len(self.groups))]).sum(0)
        weights = self.weights / len(self.weights)
        return np.bincount(count.ravel(), weights.ravel(), len(self.groups) + 1)

    def any_open(self, gates: list[int]) -> float:
        """Probability that at least one of some gates is open."""
        wanted = np.append(np.isin(self.gate_of, gates), False)
        return float((self.weights * wanted[self.slots].any(2)).sum() / len(self.weights))


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
    inside = open_gates(found.sets, prior.gates)[:, gate_of].astype(bool)
    p = len(gate_of)
    # The columns of each set first, in their order; then p for none.
    slots = np.sort(np.where(inside, np.arange(p), p), axis=1)[:, : max(int(inside.sum(1).max()), 1)]
    weights = np.exp(found.log_probs[found.sets])
    levels = np.full(len(slots), -1)
    return ModelAverage(
        data, groups, gate_of, scales, prior, slots[None], levels[None], weights[None] / weights.sum(), in_time=False
    )
