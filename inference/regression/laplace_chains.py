"""Sampling of sets of gates where each marginal likelihood needs Newton's method: rates guessed, then corrected.

At the mode of a set a quadratic expansion says what flipping each gate would do, of all gates at once: the score test
of what is not there, Wald's of what is. The process is that of :mod:`~l0bayes.inference.regression.gibbs_chains` with
those rates q; a flip that is proposed happens with probability min(1, p(γ′) q(γ′ → γ) / (p(γ) q(γ → γ′))), with the
Laplace marginals p of both: Metropolis and Hastings in continuous time, with informed proposals (Zanella 2020, JASA
115; for generalised linear models Liang, Livingstone and Griffin 2023, Entropy 25). Exchanges likewise. Every set is
computed once, as long as there is room to remember it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from l0bayes.inference.regression.active_sets import entries_of
from l0bayes.inference.regression.chains import Chains, Path, Sums
from l0bayes.models.gate_members import GateMembers
from l0bayes.models.laplace import LaplaceRegression, Modes
from l0bayes.models.set_prior import SetPrior

Arr = np.ndarray
Key = tuple[int, ...]

_REMEMBERED = 16_000_000  # log-odds, of all sets together
_ROOM = 8  # slots are padded to multiples, so that arrays keep their shapes


@dataclass(frozen=True)
class Visited:
    """A set that was computed.

    Attributes:
        key: its open gates, in order.
        log_joint: log p(y, γ) but for a constant.
        odds: guessed log-odds of each gate given the others, of shape ``(gates + 1,)``.
        columns: of the open gates.
        coefficients: intercept first, then those of the columns.
        variance: of these.
    """

    key: Key
    log_joint: float
    odds: Arr
    columns: Arr
    coefficients: Arr
    variance: Arr


class VisitedSets:
    """Marginal likelihoods and guesses, each computed once, as long as there is room.

    Args:
        regression: with its coefficients integrated out.
        prior: of the sets.
        members: which columns hang on which gate.
    """

    def __init__(self, regression: LaplaceRegression, prior: SetPrior, members: GateMembers) -> None:
        self._regression, self._prior, self._members = regression, prior, members
        self._seen: dict[Key, Visited] = {}
        self._most = max(_REMEMBERED // (members.gates + 1), 1000)
        self.evaluations = 0
        self._squares = None if members.width > 1 else regression.rows**2

    def of(self, keys: Sequence[Key], parents: Sequence[Visited | None]) -> list[Visited]:
        """The sets of some keys, with others whose modes are near."""
        new = {key: parent for key, parent in zip(keys, parents, strict=True) if key not in self._seen}
        known = {key: self._seen[key] for key in keys if key in self._seen}
        if new:
            if len(self._seen) + len(new) > self._most:
                self._seen.clear()
            known |= self._computed(new)
        self._seen |= known
        return [known[key] for key in keys]

    def _computed(self, new: dict[Key, Visited | None]) -> dict[Key, Visited]:
        members = self._members
        inside = np.zeros((len(new), members.gates + 1), dtype=bool)
        for row, key in enumerate(new):
            inside[row, list(key)] = True
        slots = members.slots_of(inside[:, :-1])
        size = -(-slots.shape[1] // _ROOM) * _ROOM
        slots = np.pad(slots, ((0, 0), (0, size - slots.shape[1])), constant_values=members.p)
        modes = self._regression.modes(slots, self._start(slots, list(new.values())))
        self.evaluations += len(new)
        odds = self._odds(slots, inside, modes).astype(np.float32)
        prior = self._prior.log_prob(torch.as_tensor(inside[:, :-1].astype(float))).numpy()
        variance = np.einsum("maa->ma", modes.inverse)
        found = {}
        for row, key in enumerate(new):
            there = slots[row] < members.p
            kept = np.append(True, there)
            log_joint = float(modes.log_marginal[row] + prior[row])
            means, spread = modes.coefficients[row][kept], variance[row][kept]
            found[key] = Visited(key, log_joint, odds[row], slots[row][there], means, spread)
        return found

    def _start(self, slots: Arr, parents: Sequence[Visited | None]) -> Arr | None:
        """The coefficients of sets that are near; ``None`` where one has none."""
        start = np.zeros((len(slots), 1 + slots.shape[1]))
        for row, parent in enumerate(parents):
            if parent is None:
                return None
            near = np.zeros(self._members.p + 1)
            near[parent.columns] = parent.coefficients[1:]
            start[row, 0], start[row, 1:] = parent.coefficients[0], near[slots[row]]
        return start

    def _odds(self, slots: Arr, inside: Arr, modes: Modes) -> Arr:
        """What a quadratic about each mode says of every gate."""
        regression, members = self._regression, self._members
        mean, weight = regression.mean_and_weight(modes.output)
        cross = (regression.design(slots) * weight[:, None]) @ regression.rows.T
        solved = modes.inverse @ cross
        moment = members.in_blocks((regression.y - mean) @ regression.rows.T)
        if self._squares is not None:
            own = weight @ self._squares.T + regression.precision - (cross * solved).sum(1)
            schur = members.in_blocks(own)[..., None]
        else:
            schur = self._blocks(cross, solved, weight)
        schur[:, -1] = np.eye(members.width)
        self._put_inside(schur, moment, slots, inside, modes)
        entries = entries_of(schur, moment)
        log_precision = members.in_blocks(np.log(regression.precision)[None])[0].sum(1)
        odds = 0.5 * (log_precision - entries.log_det + entries.explained)
        odds[:, :-1] += self._prior.log_odds_given(inside.sum(1), inside[:, :-1])
        odds[:, -1] = -np.inf
        return np.asarray(odds)

    def _put_inside(self, schur: Arr, moment: Arr, slots: Arr, inside: Arr, modes: Modes) -> None:
        """For gates inside, what they would be if they entered last."""
        members = self._members
        for row in range(len(slots)):
            gates = inside[row].nonzero()[0]
            columns = members.columns[gates]
            there = columns < members.p
            at = 1 + np.searchsorted(slots[row], np.where(there, columns, slots[row][0]))
            inverse = modes.inverse[row][at[:, :, None], at[:, None, :]]
            both = there[:, :, None] & there[:, None, :]
            block = np.linalg.inv(np.where(both, inverse, np.eye(members.width)))
            beta = np.where(there, modes.coefficients[row][at], 0.0)
            schur[row, gates], moment[row, gates] = block, (block @ beta[..., None])[..., 0]

    def _blocks(self, cross: Arr, solved: Arr, weight: Arr) -> Arr:
        """Information of the columns of each gate, given those of a set."""
        members, rows = self._members, self._regression.rows
        columns = members.columns
        padding = (columns == members.p)[..., None] * np.eye(members.width)
        own = (columns < members.p)[..., None] * np.eye(members.width) * self._regression.precision[columns][..., None]
        blocks = np.stack([np.einsum("gan,gbn->gab", rows[columns] * row, rows[columns]) for row in weight])
        blocks -= np.einsum("mkga,mkgb->mgab", cross[:, :, columns], solved[:, :, columns])
        return np.asarray(blocks + own + padding)


class LaplaceChains(Chains):
    """Chains over sets of gates of a logistic or Poisson regression.

    Args:
        regression: with its coefficients integrated out.
        prior: of the sets.
        members: which columns hang on which gate.
        starts: 0/1, of shape ``(chains, gates)``.
        rng: source of chance.
    """

    def __init__(
        self,
        regression: LaplaceRegression,
        prior: SetPrior,
        members: GateMembers,
        starts: Arr,
        rng: np.random.Generator,
    ) -> None:
        super().__init__(len(starts), members, prior, rng)
        self.visited = VisitedSets(regression, prior, members)
        keys = [tuple(row.nonzero()[0].tolist()) for row in starts]
        self.states = self.visited.of(keys, [None] * len(keys))
        self.inside = np.concatenate([starts.astype(bool), np.zeros((len(starts), 1), dtype=bool)], 1)

    @property
    def size(self) -> float:
        """Open gates of the chains, on average."""
        return float(self.inside.sum(1).mean())

    def step(self, sums: Sums, path: Path | None = None) -> None:
        """One event in each chain; the state before it is added to ``sums``, and to ``path`` if there is one."""
        odds = np.stack([state.odds for state in self.states]).astype(np.float64)
        log_rates = _log_rates(odds, self.inside)
        rates = np.exp(log_rates)
        upto = rates.cumsum(1)
        flips = upto[:, -1]
        total = flips + self.exchange_rate
        weight = 1 / total
        self._add(sums, weight)
        if path is not None:
            path.slots.append(self._slots())
            path.levels.append(np.zeros(len(total), dtype=np.int64))
            path.weights.append(weight)
        at = self.rng.uniform(size=len(total)) * total
        chosen = np.minimum((upto < at[:, None]).sum(1), self.members.gates - 1)
        self._flip(self.everyone[at < flips], chosen[at < flips], log_rates)
        self._exchange(self.everyone[at >= flips])

    def _add(self, sums: Sums, weight: Arr) -> None:
        sums.weight += weight
        sums.inclusion += weight[:, None] * self.inside[:, :-1]
        for chain, state in enumerate(self.states):
            mean = state.coefficients[1:]
            sums.first[chain, state.columns] += weight[chain] * mean
            sums.second[chain, state.columns] += weight[chain] * (mean**2 + state.variance[1:])
        sums.steps += 1

    def _slots(self) -> Arr:
        size = max(1, *(len(state.columns) for state in self.states))
        slots = np.full((len(self.states), size), self.members.p, dtype=np.int32)
        for row, state in zip(slots, self.states, strict=True):
            row[: len(state.columns)] = state.columns
        return slots

    def _flip(self, chains: Arr, gates: Arr, log_rates: Arr) -> None:
        """Flips one gate in each of some chains, or does not."""
        old = [self.states[chain] for chain in chains]
        new = self.visited.of([_flipped(state.key, gate) for state, gate in zip(old, gates, strict=True)], old)
        for chain, gate, one, other in zip(chains, gates, old, new, strict=True):
            back = -np.logaddexp(0, float(other.odds[gate]) * (1 if gate in other.key else -1))
            self._accept(chain, other, other.log_joint - one.log_joint + back - log_rates[chain, gate])

    def _exchange(self, chains: Arr) -> None:
        """Closes one gate, and opens one in its place, or does not: guessed odds given the rest, then corrected."""
        closing = self.to_close(self.inside[chains])
        some = closing.any(1)
        chains, closing = chains[some], closing[some]
        if not len(chains):
            return
        old = [self.states[chain] for chain in chains]
        gone = self.choose(closing)
        rest = self.visited.of([_flipped(state.key, gate) for state, gate in zip(old, gone, strict=True)], old)
        inside = self.inside[chains].copy()
        inside[np.arange(len(chains)), gone] = False
        odds = np.stack([state.odds for state in rest]).astype(np.float64)
        wanted = self.replacement_odds(odds, inside)
        came = self.choose(np.exp(wanted - wanted.max(1, keepdims=True)))
        keys = [_flipped(state.key, gate) for state, gate in zip(rest, came, strict=True)]
        new = self.visited.of(keys, rest)
        for row, chain in enumerate(chains):
            guessed = odds[row, gone[row]] - odds[row, came[row]]
            self._accept(chain, new[row], new[row].log_joint - old[row].log_joint + guessed)

    def _accept(self, chain: int, state: Visited, log_ratio: float) -> None:
        if np.log(self.rng.uniform()) < log_ratio:
            self.states[chain] = state
            self.inside[chain] = False
            self.inside[chain, list(state.key)] = True


def _flipped(key: Key, gate: int) -> Key:
    return tuple(sorted({*key} ^ {int(gate)}))


def _log_rates(odds: Arr, inside: Arr) -> Arr:
    """Log-probabilities that a Gibbs update would change each gate."""
    return np.asarray(-np.logaddexp(0, np.where(inside, odds, -odds)))
