"""The prior over sets of open gates: independent gates, or gates that share a probability with a Beta prior."""

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
        gates: how many there are.
    """

    def __init__(self, inclusion: Tensor | Beta, gates: int) -> None:
        self._inclusion = inclusion
        self.gates = gates

    @property
    def probs(self) -> Tensor:
        """Prior probability of each gate, of shape ``(gates,)``."""
        if isinstance(self._inclusion, Beta):
            return torch.full((self.gates,), float(self._inclusion.mean), dtype=torch.float64)
        return self._inclusion

    def log_prob(self, gates: Tensor) -> Tensor:
        """Log-probabilities of sets, of shape ``(sets,)``, for 0/1 ``gates`` of shape ``(sets, gates)``.

        Of probabilities in place of 0 and 1 it is what mean field has for E log p(γ) − KL(q(π) ‖ p(π)), where q(π) is
        the best there is.
        """
        if isinstance(self._inclusion, Beta):
            return log_prob_of_size(self._inclusion, gates.sum(-1), self.gates)
        return gates @ torch.logit(self._inclusion) + torch.log1p(-self._inclusion).sum()

    def log_odds(self, probs: Tensor, gate: int) -> Tensor:
        """Expected prior log-odds of one gate under mean field, given P(open) of all, of shape ``(starts, gates)``.

        With q(π) at its best, Beta(a + Σ r, b + n − Σ r): ψ(a + Σ r) − ψ(b + n − Σ r).
        """
        if isinstance(self._inclusion, Beta):
            a, b = (float(getattr(self._inclusion, f"concentration{which}")) for which in (1, 0))
            size = probs.sum(-1)
            return torch.digamma(a + size) - torch.digamma(b + self.gates - size)
        return torch.logit(self._inclusion[gate]).expand(len(probs))
