"""Chains over sets of gates in continuous time: events and their rates, what a stretch adds up to, warm-up.

A state weighs what the process stays in it on average, one over the sum of the rates of all events (Bortz, Kalos and
Lebowitz 1975; Zanella and Roberts 2019, JRSS B 81). Beside the flips of gates, at rates that a state says, there are
two kinds of event at constant rates: a gate of the set is closed and one opened in its place, and λ is drawn anew.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field

import numpy as np

from l0bayes.models.gate_members import GateMembers
from l0bayes.models.set_prior import SetPrior

Arr = np.ndarray

_EXCHANGES, _LEVELS = 2.0, 0.15  # for each flip
_FLOOR = 0.02  # of the propensity of a gate to be exchanged, beside p (1 − p)


@dataclass
class Sums:
    """What a stretch of the chains adds up to; divide by ``weight``.

    Attributes:
        weight: time spent, of shape ``(chains,)``.
        inclusion: indicators, Rao-Blackwellised where that can be, of shape ``(chains, gates)``.
        first, second: moments of the coefficients b, Rao-Blackwellised too, of shape ``(chains, p)``.
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


class Chains(ABC):
    """Several chains that step together.

    Args:
        chains: how many.
        members: which columns hang on which gate.
        prior: of the sets of gates.
        rng: source of chance.

    Attributes:
        exchange_rate, level_rate: rates of the events that a state does not say; set by the warm-up.
        propensity: of each gate to be exchanged, of shape ``(gates + 1,)``, the last one 0.
    """

    def __init__(self, chains: int, members: GateMembers, prior: SetPrior, rng: np.random.Generator) -> None:
        self.members, self.prior, self.rng = members, prior, rng
        self.everyone = np.arange(chains)
        self.exchange_rate, self.level_rate = 1.0, 1.0
        self.propensity = np.append(np.where(prior.always, 0.0, 1.0), 0.0)

    @abstractmethod
    def step(self, sums: Sums, path: Path | None = None) -> None:
        """One event in each chain; the state before it is added to ``sums``, and to ``path`` if there is one."""

    @property
    @abstractmethod
    def size(self) -> float:
        """Open gates of the chains, on average."""

    def sums(self) -> Sums:
        """Empty sums."""
        chains = len(self.everyone)
        first, second = np.zeros((2, chains, self.members.p))
        return Sums(np.zeros(chains), np.zeros((chains, self.members.gates)), first, second)

    def warm_up(self, steps: int) -> None:
        """Runs, and sets rates and propensities by what was seen; they are constant until the next warm-up."""
        sums = self.sums()
        for _ in range(steps):
            self.step(sums)
        inclusion = sums.inclusion.sum(0) / sums.weight.sum()
        varies = np.clip(inclusion * (1 - inclusion), 0, None) + _FLOOR
        self.propensity[:-1] = np.where(self.prior.always, 0.0, varies)
        mean_total = float(sums.steps / sums.weight.mean())
        flips = max(mean_total - self.exchange_rate - self.level_rate, 0.1)
        self.exchange_rate, self.level_rate = _EXCHANGES * flips, _LEVELS * flips

    def choose(self, weights: Arr) -> Arr:
        """For each row one number, with probabilities in proportion to its weights."""
        upto = weights.cumsum(1)
        chosen = (upto < (self.rng.uniform(size=len(weights)) * upto[:, -1])[:, None]).sum(1)
        last = weights.shape[1] - 1 - (weights[:, ::-1] > 0).argmax(1)
        return np.asarray(np.minimum(chosen, last))

    def replacement_odds(self, odds: Arr, inside: Arr) -> Arr:
        """Log-odds of each gate to come in the place of one that went, given the rest.

        A gate i is chosen to go with probability ω_i / Ω(γ), and j comes with probability ∝ p(γ′ + j | y) ω_j / Ω(γ′ +
        j): p(γ | y) times the first is what the second has from the other side.

        Args:
            odds: log-odds given the rest, of shape ``(m, gates + 1)``.
            inside: which gates are in the rest.
        """
        own, rest = self.propensity[:-1], inside[:, :-1]
        rules = self.prior.rules
        total = (rest * own).sum(1, keepdims=True) + own if rules is None else rules.propensities(own, rest)
        found = odds.copy()
        with np.errstate(divide="ignore", invalid="ignore"):
            found[:, :-1] += np.log(own / total)
        found[inside] = -np.inf
        return found

    def to_close(self, inside: Arr) -> Arr:
        """Propensities of what may be closed in exchange, of shape ``(m, gates + 1)``."""
        found = inside * self.propensity
        if self.prior.rules is not None:
            found[:, :-1] *= self.prior.removable(inside[:, :-1])
        return np.asarray(found)
