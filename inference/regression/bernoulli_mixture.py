"""A mixture of independent Bernoulli gates: a proposal that can hold several modes, and learns from weighted draws."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from l0bayes.posterior.model_size import size_distribution

_EDGE = 0.02  # no gate is ever proposed for certain: what is not proposed is not seen
_SMALLEST = 1e-3  # share of a component


@dataclass(frozen=True)
class BernoulliMixture:
    """A distribution over 0/1 gates.

    Attributes:
        probs: P(open) in each component, of shape ``(components, gates)``.
        shares: of the components, of shape ``(components,)``.
    """

    probs: Tensor
    shares: Tensor

    @staticmethod
    def defensive(probs: Tensor, shares: Tensor, prior: Tensor, share: float = 0.1) -> "BernoulliMixture":
        """The mixture with a component of ``prior`` probabilities in it, and nothing for certain."""
        all_probs = torch.cat([probs, prior[None]]).clamp(_EDGE, 1 - _EDGE)
        shares = shares.clamp(min=_SMALLEST)
        shares = torch.cat([(1 - share) * shares / shares.sum(), shares.new_tensor([share])])
        return BernoulliMixture(all_probs, shares)

    def sample(self, number: int, generator: torch.Generator) -> Tensor:
        """Draws of shape ``(number, gates)``; each component has as many as its share says, to within one."""
        levels = (torch.arange(number, dtype=self.probs.dtype) + 0.5) / number
        component = torch.searchsorted(self.shares.cumsum(0), levels).clamp(max=len(self.shares) - 1)
        uniform = torch.rand(number, self.probs.shape[1], generator=generator, dtype=self.probs.dtype)
        return (uniform < self.probs[component]).to(self.probs)

    def log_prob(self, gates: Tensor) -> Tensor:
        """Log-probabilities of draws, of shape ``(draws,)``."""
        return self._by_component(gates).logsumexp(1)

    @property
    def sizes(self) -> np.ndarray:
        """Probabilities of 0, 1, … open gates."""
        sizes: np.ndarray = self.shares.numpy() @ np.stack([size_distribution(probs) for probs in self.probs])
        return sizes

    def any_open(self, gates: Sequence[int]) -> float:
        """Probability that at least one of some gates is open."""
        return float(1 - self.shares @ (1 - self.probs[:, list(gates)]).prod(1))

    def _by_component(self, gates: Tensor) -> Tensor:
        logit = torch.logit(self.probs)
        return gates @ logit.T + logsigmoid(-logit).sum(1) + self.shares.log()

    def refit(self, gates: Tensor, weights: Tensor, steps: int = 5) -> "BernoulliMixture":
        """Weighted EM from here.

        Args:
            gates: draws, of shape ``(draws, gates)``.
            weights: of the draws, which sum to 1.
            steps: number of steps of EM.

        Returns:
            A mixture nearer to what the weighted draws come from.
        """
        mixture = self
        for _ in range(steps):
            belongs = mixture._by_component(gates).softmax(1) * weights[:, None]
            total = belongs.sum(0)
            # As if each component had seen one draw in a thousand at one half besides.
            probs = (belongs.T @ gates + 0.5e-3) / (total[:, None] + 1e-3)
            shares = total.clamp(min=_SMALLEST)
            mixture = BernoulliMixture(probs.clamp(_EDGE, 1 - _EDGE), shares / shares.sum())
        return mixture
