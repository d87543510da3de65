"""All sets of gates of a logistic or Poisson regression, their marginal likelihoods by Laplace's method."""

from dataclasses import dataclass

import numpy as np
import torch

from l0bayes.models.enumeration import open_gates
from l0bayes.models.gate_members import GateMembers
from l0bayes.models.laplace import LaplaceRegression
from l0bayes.models.set_prior import SetPrior

Arr = np.ndarray

_NUMBERS = 4_000_000  # in one array
_NEGLIGIBLE = 1e-10  # probability of a set without which draws do well


@dataclass(frozen=True)
class EnumeratedModes:
    """The posterior over all sets.

    Attributes:
        log_evidence: log p(y), in nats.
        inclusion: of the gates.
        mean, second: posterior moments of the coefficients of scaled columns, of shape ``(p,)``.
        slots: columns of the sets that are not negligible, padded with p, of shape ``(sets, slots)``.
        probs: of these, which sum to 1.
    """

    log_evidence: float
    inclusion: Arr
    mean: Arr
    second: Arr
    slots: Arr
    probs: Arr


def enumerate_modes(regression: LaplaceRegression, prior: SetPrior, members: GateMembers) -> EnumeratedModes:
    """Enumerates.

    Args:
        regression: with its coefficients integrated out.
        prior: of the sets of gates.
        members: which columns hang on which gate.
    """
    p, numbers = members.p, np.arange(2**prior.gates)
    size = max(_NUMBERS // ((p + 1) * regression.rows.shape[1]), 1)
    joint, means, variances = np.empty(len(numbers)), np.zeros((len(numbers), p)), np.zeros((len(numbers), p))
    for start in range(0, len(numbers), size):
        chunk = numbers[start : start + size]
        gates = open_gates(chunk, prior.gates)
        slots = members.slots_of(gates)
        modes = regression.modes(slots)
        joint[chunk] = modes.log_marginal + prior.log_prob(torch.as_tensor(gates)).numpy()
        padded = np.zeros((2, len(chunk), p + 1))
        np.put_along_axis(padded[0], slots, modes.coefficients[:, 1:], axis=1)
        np.put_along_axis(padded[1], slots, np.einsum("maa->ma", modes.inverse)[:, 1:], axis=1)
        means[chunk], variances[chunk] = padded[..., :p]
    evidence = float(np.logaddexp.reduce(joint))
    probs = np.exp(joint - evidence)
    inclusion = np.zeros(prior.gates)
    for start in range(0, len(numbers), size):
        chunk = numbers[start : start + size]
        inclusion += probs[chunk] @ open_gates(chunk, prior.gates)
    kept = numbers[probs > _NEGLIGIBLE]
    return EnumeratedModes(
        evidence + float(regression.constants.sum()),
        inclusion.clip(0, 1),  # sums of rounded probabilities may be larger
        probs @ means,
        probs @ (means**2 + variances),
        members.slots_of(open_gates(kept, prior.gates)),
        probs[kept] / probs[kept].sum(),
    )
