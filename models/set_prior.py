"""The prior over sets of open gates: independent gates, or gates that share a probability with a Beta prior."""

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Beta

from l0bayes.distributions.prior_inclusion import log_prob_of_size


class SetPrior:
    """A prior over which of some gates are open.

    Args:
        inclusion: probabilities of the gates, of shape ``(gates,)``; or the Beta prior of the one that all share.
        gates: how many there are.

    Attributes:
        inclusion: as given.
        gates: how many there are.
    """

    def __init__(self, inclusion: Tensor | Beta, gates: int) -> None:
        self.inclusion = inclusion
        self.gates = gates
        self._concentrations = (0.0, 0.0)
        if isinstance(inclusion, Beta):
            self._concentrations = (float(inclusion.concentration1), float(inclusion.concentration0))

    @property
    def shares_probability(self) -> bool:
        """Whether the gates share a probability that is unknown."""
        return isinstance(self.inclusion, Beta)

    @property
    def probs(self) -> Tensor:
        """Prior probability of each gate, of shape ``(gates,)``."""
        if isinstance(self.inclusion, Beta):
            return torch.full((self.gates,), float(self.inclusion.mean), dtype=torch.float64)
        return self.inclusion

    def log_prob(self, gates: Tensor) -> Tensor:
        """Log-probabilities of sets, of shape ``(sets,)``, for 0/1 ``gates`` of shape ``(sets, gates)``.

        Of probabilities in place of 0 and 1 it is what mean field has for E log p(γ) − KL(q(π) ‖ p(π)), where q(π) is
        the best there is.
        """
        if isinstance(self.inclusion, Beta):
            return log_prob_of_size(self.inclusion, gates.sum(-1), self.gates)
        return gates @ torch.logit(self.inclusion) + torch.log1p(-self.inclusion).sum()

    def log_odds(self, probs: Tensor, gate: int) -> Tensor:
        """Expected prior log-odds of one gate under mean field, given P(open) of all, of shape ``(starts, gates)``.

        With q(π) at its best, Beta(a + Σ r, b + n − Σ r): ψ(a + Σ r) − ψ(b + n − Σ r).
        """
        if isinstance(self.inclusion, Beta):
            a, b = self._concentrations
            size = probs.sum(-1)
            return torch.digamma(a + size) - torch.digamma(b + self.gates - size)
        return torch.logit(self.inclusion[gate]).expand(len(probs))

    def log_odds_given(self, count: np.ndarray, inside: np.ndarray) -> np.ndarray:
        """Prior log-odds of each gate given all others.

        Args:
            count: number of open gates, of shape ``(sets,)``.
            inside: which they are, of shape ``(sets, gates)``.

        Returns:
            Of shape ``(sets, gates)``, or ``(gates,)`` where they do not depend on the others.
        """
        if isinstance(self.inclusion, Beta):
            a, b = self._concentrations
            others = count[:, None] - inside
            odds: np.ndarray = np.log((a + others) / (b + self.gates - 1 - others))
            return odds
        return torch.logit(self.inclusion).numpy()
