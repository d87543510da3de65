"""Adaptive importance sampling of sets of gates, weighted by their marginal likelihoods.

Rounds of draws from a mixture that is refitted to the weighted draws so far; each draw is weighted by the mixture of
all proposals (Cornuet et al. 2012, Scandinavian Journal of Statistics 39), so that no round is wasted.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from pyro.ops.stats import fit_generalized_pareto
from torch import Tensor

from l0bayes.inference.regression.bernoulli_mixture import BernoulliMixture
from l0bayes.models.collapsed import Collapsed

_ROUNDS = 4
_CHUNK = 512  # models at a time


@dataclass(frozen=True)
class WeightedGates:
    """Distinct sets of gates, weighted to stand for the posterior.

    Attributes:
        gates: 0 and 1, of shape ``(models, gates)``.
        weights: of the models, which sum to 1.
        mean: means of the coefficients in each, in units of the scaled columns, of shape ``(models, p)``.
        sd: their standard deviations.
        log_weights: of the single draws, not normalised, of shape ``(draws,)``.
    """

    gates: Tensor
    weights: Tensor
    mean: Tensor
    sd: Tensor
    log_weights: Tensor

    @property
    def inclusion(self) -> Tensor:
        """P(open) of each gate."""
        return (self.weights @ self.gates).clamp(0, 1)  # sums of rounded weights may be larger

    @property
    def sizes(self) -> np.ndarray:
        """Probabilities of 0, 1, … open gates."""
        return np.bincount(self.gates.sum(1).long().numpy(), self.weights.numpy(), self.gates.shape[1] + 1)

    def any_open(self, gates: Sequence[int]) -> float:
        """Probability that at least one of some gates is open."""
        return float(self.weights @ self.gates[:, list(gates)].amax(1))

    def coefficients(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of each coefficient, 0 where it is not there."""
        mean = self.weights @ self.mean
        second = self.weights @ (self.sd.square() + self.mean.square())
        return mean, (second - mean.square()).clamp(min=0).sqrt()

    @property
    def effective_size(self) -> float:
        """Draws of equal weight that would do as well."""
        return float((2 * self.log_weights.logsumexp(0) - (2 * self.log_weights).logsumexp(0)).exp())

    @property
    def pareto_k(self) -> float:
        """Shape of the tail of the weights (Vehtari et al. 2024, JMLR 25); 0 where the largest ones are all alike."""
        number = len(self.log_weights)
        tail = math.ceil(min(0.2 * number, 3 * math.sqrt(number)))
        largest = (self.log_weights - self.log_weights.max()).exp().topk(tail + 1, sorted=True)[0].flip(0)
        excess = largest[1:] - largest[0]
        excess = excess[excess > 1e-12 * largest[-1]]
        if len(excess) <= 4 or float(excess[len(excess) // 4]) >= (1 - 1e-9) * float(excess[-1]):  # noqa: PLR2004
            return 0.0  # too few, or too much alike, to fit; of equal ones Zhang and Stephens' estimate can be 0 / 0
        return float(fit_generalized_pareto(excess)[0])

    def top_models(self, names: Sequence[str], number: int = 10) -> pd.DataFrame:
        """The most probable sets of gates: columns ``gates`` (names of the open ones), ``size``, ``probability``."""
        best = self.weights.argsort(descending=True)[:number]
        inside = [[names[gate] for gate in row.nonzero()[:, 0].tolist()] for row in self.gates[best]]
        sizes = [len(row) for row in inside]
        return pd.DataFrame({"gates": inside, "size": sizes, "probability": self.weights[best].numpy()})


class _Seen:
    """Marginal likelihoods of the sets of gates met so far, each computed once."""

    def __init__(self, model: Collapsed) -> None:
        self._regression = model
        self._index: dict[bytes, int] = {}
        self.rows: list[Tensor] = []
        self.log_joint: list[Tensor] = []
        self.mean: list[Tensor] = []
        self.sd: list[Tensor] = []

    def numbers(self, gates: Tensor) -> Tensor:
        """The number of each row among the distinct ones."""
        keys = [row.tobytes() for row in gates.bool().numpy()]
        new = {key: row for row, key in enumerate(keys) if key not in self._index}
        for chunk in torch.tensor(list(new.values()), dtype=torch.int64).split(_CHUNK) if new else ():
            log_marginal, mean, sd = self._regression.posterior(gates[chunk])
            self.rows.append(gates[chunk])
            self.log_joint.append(log_marginal + self._regression.prior.log_prob(gates[chunk]))
            self.mean.append(mean)
            self.sd.append(sd)
        self._index.update({key: len(self._index) + at for at, key in enumerate(new)})
        return torch.tensor([self._index[key] for key in keys])


@torch.no_grad()
def importance_sample(model: Collapsed, proposal: BernoulliMixture, draws: int, seed: int) -> WeightedGates:
    """Draws sets of gates and weights them.

    Args:
        model: the regression, with its coefficients integrated out.
        proposal: where to begin.
        draws: in all rounds together.
        seed: of the draws.

    Returns:
        The distinct sets that were drawn.
    """
    generator = torch.Generator().manual_seed(seed)
    seen, proposals = _Seen(model), [proposal]
    gates, numbers = (
        torch.empty(0, proposal.probs.shape[1], dtype=proposal.probs.dtype),
        torch.empty(0, dtype=torch.int64),
    )
    for _ in range(_ROUNDS):
        drawn = proposals[-1].sample(-(-draws // _ROUNDS), generator)
        gates, numbers = torch.cat([gates, drawn]), torch.cat([numbers, seen.numbers(drawn)])
        log_q = torch.stack([one.log_prob(gates) for one in proposals]).logsumexp(0) - math.log(len(proposals))
        log_weights = torch.cat(seen.log_joint)[numbers] - log_q
        proposals.append(proposals[-1].refit(gates, log_weights.softmax(0)))
    rows = torch.cat(seen.rows)
    weights = torch.zeros(len(rows), dtype=gates.dtype).index_add_(0, numbers, log_weights.softmax(0))
    return WeightedGates(rows, weights, torch.cat(seen.mean), torch.cat(seen.sd), log_weights)


def joined(runs: Sequence[WeightedGates]) -> WeightedGates:
    """Several runs as one; each counts as its own estimate of the evidence says."""
    evidence = torch.stack([run.log_weights.logsumexp(0) for run in runs]).softmax(0)
    gates, numbers = torch.cat([run.gates for run in runs]).unique(dim=0, return_inverse=True)
    weights = torch.cat([share * run.weights for share, run in zip(evidence, runs, strict=True)])
    mean, sd = (torch.cat([getattr(run, name) for run in runs]) for name in ("mean", "sd"))
    mean, sd = (torch.empty(len(gates), v.shape[1], dtype=v.dtype).index_copy_(0, numbers, v) for v in (mean, sd))
    summed = torch.zeros(len(gates), dtype=weights.dtype).index_add_(0, numbers, weights)
    return WeightedGates(gates, summed, mean, sd, torch.cat([run.log_weights for run in runs]))
