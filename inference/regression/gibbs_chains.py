"""Collapsed Gibbs sampling of sets of columns, several chains at once, without the updates that change nothing.

A random-scan Gibbs sampler redraws one column's indicator at a time from its full conditional, the coefficients
integrated out (George and McCulloch 1997, Statistica Sinica 7). Nearly all of these updates change nothing. Here is the
same process in continuous time: column j flips at the rate P(γ_j flips | rest). Rates of all columns are known at once,
so the next flip is drawn among them, and a state weighs what the process stays in it on average, one over the sum of
its rates (Bortz, Kalos and Lebowitz 1975; Zanella and Roberts 2019, JRSS B 81). Two more kinds of event, at constant
rates: a column of the set is taken out and one for its place drawn among all, given the rest, which moves between
correlated columns; and λ is drawn given the set. Each leaves the posterior invariant, and so does the process.
"""

from dataclasses import dataclass, field

import numpy as np

from l0bayes.inference.regression.active_sets import ActiveSets
from l0bayes.models.column_products import ColumnProducts, log_levels
from l0bayes.models.set_prior import SetPrior
from l0bayes.models.unknown_scales import UnknownScales

Arr = np.ndarray

_REFRESH = 64  # steps after which a chain is computed anew, for rounding
_EXCHANGES, _LEVELS = 2.0, 0.15  # for each flip
_FLOOR = 0.02  # of the propensity of a column to be exchanged, beside p (1 − p)


@dataclass
class Sums:
    """What a stretch of the chains adds up to; divide by ``weight``.

    Attributes:
        weight: time spent, of shape ``(chains,)``.
        inclusion: Rao-Blackwellised indicators, of shape ``(chains, p)``.
        first, second: moments of the coefficients b, Rao-Blackwellised too.
        steps: how many.
    """

    weight: Arr
    inclusion: Arr
    first: Arr
    second: Arr
    steps: int = 0


@dataclass
class Path:
    """The states that the chains were in: a list of steps, each with all chains.

    Attributes:
        slots: columns of each set, padded with p, each of shape ``(chains, slots)``.
        levels: numbers of λ, each of shape ``(chains,)``.
        weights: each of shape ``(chains,)``.
    """

    slots: list[Arr] = field(default_factory=list)
    levels: list[Arr] = field(default_factory=list)
    weights: list[Arr] = field(default_factory=list)


class GibbsChains:
    """Chains over sets of columns and λ.

    Args:
        scales: the regression.
        prior: of the sets.
        starts: 0/1, of shape ``(chains, p)``.
        rng: source of chance.
    """

    def __init__(self, scales: UnknownScales, prior: SetPrior, starts: Arr, rng: np.random.Generator) -> None:
        self.scales, self.rng, self._prior = scales, rng, prior
        self.products = ColumnProducts(scales)
        level = rng.choice(len(scales.levels), size=len(starts), p=_normalised(scales.log_weights))
        self.sets = ActiveSets(scales, self.products, starts.astype(bool), level)
        self._everyone = np.arange(len(starts))
        self.exchange_rate, self.level_rate = 1.0, 1.0
        self._propensity = np.ones(starts.shape[1] + 1)
        self._propensity[-1] = 0.0
        self._steps = 0
        if len(scales.levels) > 1:
            self._draw_level(self._everyone)

    # -- what a state says of every column ----------------------------------------------------------------------

    def _log_odds(self, chains: Arr) -> tuple[Arr, Arr, Arr, Arr]:
        """Log-odds of each indicator given all others and λ; the base and explained sums of squares; penalties."""
        sets = self.sets
        inside, schur, moment = sets.inside[chains], sets.schur[chains], sets.moment[chains]
        penalty = sets.penalty[chains, None]
        explained = moment**2 / schur
        base = sets.rss[chains, None] + inside * explained
        odds = 0.5 * np.log(penalty / schur) + self.scales.gain(explained, base, penalty)
        odds[:, :-1] += self._prior.log_odds_given(sets.count[chains], inside[:, :-1])
        odds[:, -1] = -np.inf
        return odds, base, explained, penalty

    # -- a step -------------------------------------------------------------------------------------------------

    def step(self, sums: Sums, path: Path | None = None) -> None:
        """One event in each chain; the state before it is added to ``sums``, and to ``path`` if there is one."""
        sets = self.sets
        odds, base, explained, penalty = self._log_odds(self._everyone)
        probs = 0.5 * (1 + np.tanh(0.5 * odds))
        rates = np.where(sets.inside, 1 - probs, probs)
        upto = rates.cumsum(1)
        flips = upto[:, -1]
        levels = self.level_rate if len(self.scales.levels) > 1 else 0.0
        total = flips + self.exchange_rate + levels
        weight = 1 / total
        value = sets.moment / sets.schur
        share = weight[:, None] * probs
        sums.weight += weight
        sums.inclusion += share[:, :-1]
        share *= value
        sums.first += share[:, :-1]
        variance = self.scales.variance(base - explained, penalty) / sets.schur
        sums.second += (share * value + weight[:, None] * probs * variance)[:, :-1]
        sums.steps += 1
        if path is not None:
            path.slots.append(sets.slots.astype(np.int32))
            path.levels.append(sets.level.copy())
            path.weights.append(weight)
        at = self.rng.uniform(size=len(total)) * total
        flipping, exchanging = at < flips, (at >= flips) & (at < flips + self.exchange_rate)
        self._flip(flipping, (upto < at[:, None]).sum(1))
        self._exchange(self._everyone[exchanging & (sets.count > 0)])
        self._draw_level(self._everyone[at >= flips + self.exchange_rate])
        self._steps += 1
        if self._steps % _REFRESH == 0:
            sets.rebuild(self._everyone)

    def _flip(self, which: Arr, columns: Arr) -> None:
        if which.any():
            self.sets.flip(self._everyone[which], np.minimum(columns[which], self.products.p - 1))

    def _exchange(self, chains: Arr) -> None:
        """Takes one column out, and one in its place, or it again: drawn from all, given the rest and the size.

        A column is chosen to go with probability ω_i / Ω(γ), and j comes with probability ∝ p(γ′ + j | y) ω_j / Ω(γ′ +
        j): p(γ | y) times the first is what the second has from the other side.
        """
        if not len(chains):
            return
        sets = self.sets
        slots = sets.slots[chains]
        sets.flip(chains, slots[np.arange(len(chains)), self._choose(self._propensity[slots])])
        odds = self._log_odds(chains)[0]
        rest = self._propensity[sets.slots[chains]].sum(1, keepdims=True)
        own = self._propensity[:-1]
        odds[:, :-1] += np.log(own / (rest + own))
        odds[sets.inside[chains]] = -np.inf
        sets.flip(chains, self._choose(np.exp(odds - odds.max(1, keepdims=True))))

    def _draw_level(self, chains: Arr) -> None:
        if not len(chains):
            return
        sets = self.sets
        joint = log_levels(self.scales, self.products, sets.slots[chains])
        sets.level[chains] = self._choose(np.exp(joint - joint.max(1, keepdims=True)))
        sets.penalty[chains] = self.scales.levels[sets.level[chains]]
        sets.rebuild(chains)

    def _choose(self, weights: Arr) -> Arr:
        """For each row one number, with probabilities in proportion to its weights."""
        upto = weights.cumsum(1)
        chosen = (upto < (self.rng.uniform(size=len(weights)) * upto[:, -1])[:, None]).sum(1)
        last = weights.shape[1] - 1 - (weights[:, ::-1] > 0).argmax(1)
        return np.asarray(np.minimum(chosen, last))

    # -- settings -----------------------------------------------------------------------------------------------

    def sums(self) -> Sums:
        """Empty sums."""
        chains, p = len(self._everyone), self.products.p
        inclusion, first, second = np.zeros((3, chains, p))
        return Sums(np.zeros(chains), inclusion, first, second)

    def warm_up(self, steps: int) -> None:
        """Runs, and sets rates and propensities by what was seen; they are constant until the next warm-up."""
        sums = self.sums()
        for _ in range(steps):
            self.step(sums)
        inclusion = sums.inclusion.sum(0) / sums.weight.sum()
        self._propensity[:-1] = np.clip(inclusion * (1 - inclusion), 0, None) + _FLOOR
        mean_total = float(sums.steps / sums.weight.mean())
        flips = max(mean_total - self.exchange_rate - self.level_rate, 0.1)
        self.exchange_rate, self.level_rate = _EXCHANGES * flips, _LEVELS * flips


def _normalised(logs: Arr) -> Arr:
    probs: Arr = np.exp(logs - np.logaddexp.reduce(logs))
    return np.asarray(probs / probs.sum())
