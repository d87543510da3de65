"""The prior over sets of open gates: independent gates, or gates that share a probability with a Beta prior."""

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Beta

from l0bayes.distributions.prior_inclusion import log_prob_of_size
from l0bayes.models.set_rules import SetRules


class SetPrior:
    """A prior over which of some gates are open.

    Args:
        inclusion: probabilities of the gates, of shape ``(gates,)``; or the Beta prior of the one that all share.
        gates: how many there are.
        rules: for sets, if there are any.

    Attributes:
        inclusion: as given.
        gates: how many there are.
        rules: as given.
    """

    def __init__(self, inclusion: Tensor | Beta, gates: int, rules: SetRules | None = None) -> None:
        self.inclusion = inclusion
        self.rules = rules
        self.gates = gates
        self._concentrations = (0.0, 0.0)
        if isinstance(inclusion, Beta):
            self._concentrations = (float(inclusion.concentration1), float(inclusion.concentration0))

    @property
    def shares_probability(self) -> bool:
        """Whether the gates share a probability that is unknown."""
        return isinstance(self.inclusion, Beta)

    @property
    def _given(self) -> np.ndarray | None:
        return None if isinstance(self.inclusion, Beta) else self.inclusion.numpy()

    @property
    def always(self) -> np.ndarray:
        """Whether each gate is always open, of shape ``(gates,)``."""
        return np.zeros(self.gates, dtype=bool) if self.rules is None else self.rules.always

    def removable(self, inside: np.ndarray) -> np.ndarray:
        """Which gates may be closed, of shape ``(sets, gates)``."""
        return inside if self.rules is None else self.rules.removable(inside)

    @property
    def probs(self) -> Tensor:
        """Prior probability of each gate, but for rules, of shape ``(gates,)``."""
        if isinstance(self.inclusion, Beta):
            return torch.full((self.gates,), float(self.inclusion.mean), dtype=torch.float64)
        return self.inclusion

    def log_prob(self, gates: Tensor) -> Tensor:
        """Log-probabilities of sets, of shape ``(sets,)``, for 0/1 ``gates`` of shape ``(sets, gates)``.

        Of probabilities in place of 0 and 1 it is what mean field has for E log p(γ) − KL(q(π) ‖ p(π)), where q(π) is
        the best there is.
        """
        if self.rules is not None:
            return torch.as_tensor(self.rules.log_prob(gates.numpy(), self._given, self._concentrations))
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
        if self.rules is not None:
            return self.rules.log_odds(inside, self._given, self._concentrations)
        if isinstance(self.inclusion, Beta):
            a, b = self._concentrations
            others = count[:, None] - inside
            odds: np.ndarray = np.log((a + others) / (b + self.gates - 1 - others))
            return odds
        return torch.logit(self.inclusion).numpy()
