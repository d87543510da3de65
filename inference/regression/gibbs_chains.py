"""Collapsed Gibbs sampling of sets of gates, several chains at once, without the updates that change nothing.

A random-scan Gibbs sampler redraws one gate's indicator at a time from its full conditional, the coefficients
integrated out (George and McCulloch 1997, Statistica Sinica 7). Nearly all of these updates change nothing. Here is the
same process in continuous time: gate j flips at the rate P(γ_j flips | rest). Rates of all gates are known at once,
so the next flip is drawn among them. Two more kinds of event: a gate of the set is closed and one for its place drawn
among all, given the rest, which moves between correlated columns; and λ is drawn given the set. Each leaves the
posterior invariant, and so does the process.
"""

import numpy as np

from l0bayes.inference.regression.active_sets import ActiveSets, Entries
from l0bayes.inference.regression.chains import Chains, Path, Sums
from l0bayes.models.column_products import ColumnProducts, log_levels
from l0bayes.models.gate_members import GateMembers
from l0bayes.models.set_prior import SetPrior
from l0bayes.models.unknown_scales import UnknownScales

Arr = np.ndarray

_REFRESH = 64  # steps after which a chain is computed anew, for rounding


class GibbsChains(Chains):
    """Chains over sets of gates and λ.

    Args:
        scales: the regression.
        prior: of the sets.
        members: which columns hang on which gate.
        starts: 0/1, of shape ``(chains, gates)``.
        rng: source of chance.
    """

    def __init__(
        self, scales: UnknownScales, prior: SetPrior, members: GateMembers, starts: Arr, rng: np.random.Generator
    ) -> None:
        super().__init__(len(starts), members, prior, rng)
        self.scales = scales
        self.products = ColumnProducts(scales)
        level = rng.choice(len(scales.levels), size=len(starts), p=_normalised(scales.log_weights))
        self.sets = ActiveSets(scales, self.products, members, starts.astype(bool), level)
        self._steps = 0
        if len(scales.levels) > 1:
            self._draw_level(self.everyone)

    @property
    def size(self) -> float:
        """Open gates of the chains, on average."""
        return float(self.sets.count.mean())

    def _log_odds(self, chains: Arr) -> tuple[Arr, Arr, Entries]:
        """Log-odds of each indicator given all others and λ; residual sums of squares with each gate; its entry."""
        sets = self.sets
        entries, inside, penalty = sets.entries(chains), sets.inside[chains], sets.penalty[chains, None]
        base = sets.rss[chains, None] + inside * entries.explained
        shrinkage = self.members.sizes * np.log(penalty) - entries.log_det
        odds = 0.5 * shrinkage + self.scales.gain(entries.explained, base, penalty)
        odds[:, :-1] += self.prior.log_odds_given(sets.count[chains], inside[:, :-1])
        odds[:, -1] = -np.inf
        return odds, base - entries.explained, entries

    # -- a step -------------------------------------------------------------------------------------------------

    def step(self, sums: Sums, path: Path | None = None) -> None:
        """One event in each chain; the state before it is added to ``sums``, and to ``path`` if there is one."""
        sets = self.sets
        odds, rss, entries = self._log_odds(self.everyone)
        probs = 0.5 * (1 + np.tanh(0.5 * odds))
        rates = np.where(sets.inside, 1 - probs, probs)
        upto = rates.cumsum(1)
        flips = upto[:, -1]
        levels = self.level_rate if len(self.scales.levels) > 1 else 0.0
        total = flips + self.exchange_rate + levels
        weight = 1 / total
        self._add(sums, weight, probs, rss, entries)
        if path is not None:
            path.slots.append(sets.slots.astype(np.int32))
            path.levels.append(sets.level.copy())
            path.weights.append(weight)
        at = self.rng.uniform(size=len(total)) * total
        flipping, exchanging = at < flips, (at >= flips) & (at < flips + self.exchange_rate)
        self._flip(flipping, (upto < at[:, None]).sum(1))
        self._exchange(self.everyone[exchanging])
        self._draw_level(self.everyone[at >= flips + self.exchange_rate])
        self._steps += 1
        if self._steps % _REFRESH == 0:
            sets.rebuild(self.everyone)

    def _add(self, sums: Sums, weight: Arr, probs: Arr, rss: Arr, entries: Entries) -> None:
        """What each state says of every gate, whatever is in it."""
        share = weight[:, None] * probs
        sums.weight += weight
        sums.inclusion += share[:, :-1]
        first = share[..., None] * entries.value
        variance = self.scales.variance(rss, self.sets.penalty[:, None])
        second = first * entries.value + (share * variance)[..., None] * entries.variance
        sums.first += self.members.by_column(first)
        sums.second += self.members.by_column(second)
        sums.steps += 1

    def _flip(self, which: Arr, gates: Arr) -> None:
        if which.any():
            self.sets.flip(self.everyone[which], np.minimum(gates[which], self.members.gates - 1))

    def _exchange(self, chains: Arr) -> None:
        """Closes one gate, and opens one in its place, or it again: drawn from all, given the rest and the size."""
        sets = self.sets
        closing = self.to_close(sets.inside[chains])
        some = closing.any(1)
        chains, closing = chains[some], closing[some]
        if not len(chains):
            return
        sets.flip(chains, self.choose(closing))
        odds = self.replacement_odds(self._log_odds(chains)[0], sets.inside[chains])
        sets.flip(chains, self.choose(np.exp(odds - odds.max(1, keepdims=True))))

    def _draw_level(self, chains: Arr) -> None:
        if not len(chains):
            return
        sets = self.sets
        joint = log_levels(self.scales, self.products, sets.slots[chains])
        sets.level[chains] = self.choose(np.exp(joint - joint.max(1, keepdims=True)))
        sets.penalty[chains] = self.scales.levels[sets.level[chains]]
        sets.rebuild(chains)


def _normalised(logs: Arr) -> Arr:
    probs: Arr = np.exp(logs - np.logaddexp.reduce(logs))
    return np.asarray(probs / probs.sum())
