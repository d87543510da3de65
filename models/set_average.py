"""Sets of columns with their posterior probabilities, whatever the likelihood, and draws from them."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from torch.distributions import Beta

from l0bayes.models.regression_data import RegressionData
from l0bayes.models.set_prior import SetPrior

Arr = np.ndarray

_DRAWS = 4000  # for intervals and predictions, of all chains together
_NUMBERS = 20_000_000  # at most, in their coefficients


@dataclass(frozen=True)
class Draws:
    """Draws from the posterior, in the user's units.

    Attributes:
        included: whether each gate is open, of shape ``(chains, draws, gates)``.
        coefficient: 0 where it is not there, of shape ``(chains, draws, p)``.
        intercept: of shape ``(chains, draws)``.
        noise: standard deviations of the noise; ``None`` where there is none.
        slab: standard deviations of the slab, in units of the noise per standard deviation of a column, where unknown.
        share: prior probability of an open gate, where it is unknown.
    """

    included: Arr
    coefficient: Arr
    intercept: Arr
    noise: Arr | None
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
class SetAverage(ABC):
    """What a method found: sets of columns, weighted.

    Attributes:
        data: of the regression.
        groups: names of the gates.
        gate_of: for each column the number of its gate.
        prior: of the sets of gates.
        slots: columns of each set, padded with p, of shape ``(chains, sets, slots)``.
        levels: numbers of λ, of shape ``(chains, sets)``; -1 where it is to be drawn given the set.
        weights: of shape ``(chains, sets)``, which sum to 1 in each chain.
        in_time: whether sets follow each other in time, so that draws should too.
    """

    data: RegressionData
    groups: tuple[str, ...]
    gate_of: Arr
    prior: SetPrior
    slots: Arr
    levels: Arr
    weights: Arr
    in_time: bool

    # -- what depends on the likelihood -------------------------------------------------------------------------

    @abstractmethod
    def draws_of(self, slots: Arr, levels: Arr, rng: np.random.Generator) -> tuple[Arr, Arr, Arr | None, Arr | None]:
        """Draws given sets of columns and numbers of λ, one each, in the user's units.

        Returns:
            Coefficients, of shape ``(draws, p + 1)``, the last one 0; intercepts, noise, and the slab's scale.
        """

    @abstractmethod
    def log_marginal(self, columns: list[int]) -> float:
        """Log p(y | set), in nats, with noise and slab integrated out."""

    @abstractmethod
    def coefficients_of(self, columns: list[int]) -> tuple[Arr, Arr]:
        """Means and standard deviations of the coefficients of a set, in the user's units."""

    @abstractmethod
    def expected(self, output: Arr) -> Arr:
        """Means of the responses, of linear predictors."""

    @abstractmethod
    def replicate(self, output: Arr, noise: Arr | None, rng: np.random.Generator) -> Arr:
        """Draws of responses, of linear predictors, and of standard deviations of the noise that broadcast to them."""

    @abstractmethod
    def log_lik(self, y: Arr, output: Arr, noise: Arr | None) -> Arr:
        """Log-densities of responses."""

    # -- draws --------------------------------------------------------------------------------------------------

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
        padded, intercept, noise, slab = self.draws_of(slots, levels, rng)
        included = np.zeros((len(slots), len(self.groups) + 1), dtype=bool)
        np.put_along_axis(included, np.append(self.gate_of, len(self.groups))[slots], values=True, axis=1)
        included = included[:, :-1]
        shape = (chains, number)
        return Draws(
            included.reshape(*shape, -1),
            padded[:, :p].reshape(*shape, p),
            intercept.reshape(shape),
            None if noise is None else noise.reshape(shape),
            None if slab is None else slab.reshape(shape),
            self._shares(included, rng, shape),
        )

    def _choose(self, weights: Arr, number: int, rng: np.random.Generator) -> Arr:
        if not self.in_time:
            return rng.choice(len(weights), size=number, p=weights / weights.sum())
        upto = weights.cumsum()
        levels = (rng.uniform() + np.arange(number)) / number * upto[-1]
        return np.asarray(np.minimum(np.searchsorted(upto, levels), len(weights) - 1))

    def _shares(self, included: Arr, rng: np.random.Generator, shape: tuple[int, int]) -> Arr | None:
        prior = self.prior.inclusion
        if not isinstance(prior, Beta):
            return None
        size = included.sum(1)
        a, b = float(prior.concentration1), float(prior.concentration0)
        return np.asarray(rng.beta(a + size, b + included.shape[1] - size).reshape(shape))

    # -- sets ---------------------------------------------------------------------------------------------------

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
