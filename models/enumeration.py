"""All sets of gates of a linear regression: coefficients, noise and the scale of the slab integrated out."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from l0bayes.models.set_prior import SetPrior
from l0bayes.models.unknown_scales import UnknownScales

Arr = np.ndarray

_NUMBERS = 4_000_000  # in one array
_NEGLIGIBLE = 1e-10  # probability of a set without which moments do well


@dataclass(frozen=True)
class Enumeration:
    """The posterior over all sets.

    Attributes:
        log_probs: of all 2^gates sets; gate g is open in set m if bit g of m is set.
        log_evidence: log p(y), in nats.
        inclusion: of the gates.
        sizes: probabilities of 0, 1, … open gates.
        mean, second: posterior moments of the coefficients b, of shape ``(p,)``.
        sets: numbers of the sets that are not negligible.
    """

    log_probs: Arr
    log_evidence: float
    inclusion: Arr
    sizes: Arr
    mean: Arr
    second: Arr
    sets: Arr


def enumerate_sets(scales: UnknownScales, prior: SetPrior, gate_of: Arr) -> Enumeration:
    """Enumerates.

    Args:
        scales: the regression.
        prior: of the sets of gates.
        gate_of: for each column the number of its gate.
    """
    gram, moment = scales.z.T @ scales.z, scales.z.T @ scales.y
    number = 2**prior.gates
    size = max(_NUMBERS // (len(moment) * max(len(moment), len(scales.levels))), 1)
    joint = np.empty(number)
    for models, gates in _sets(np.arange(number), prior.gates, size):
        inside = gates[:, gate_of]
        joint[models] = log_marginals(scales, gram, moment, inside) + prior.log_prob(torch.as_tensor(gates)).numpy()
    evidence = float(np.logaddexp.reduce(joint))
    log_probs = joint - evidence
    kept = (log_probs > np.log(_NEGLIGIBLE)).nonzero()[0]
    inclusion, sizes = np.zeros(prior.gates), np.zeros(prior.gates + 1)
    for models, gates in _sets(np.arange(number), prior.gates, size):
        probs = np.exp(log_probs[models])
        inclusion += probs @ gates
        sizes += np.bincount(gates.sum(1).astype(int), probs, prior.gates + 1)
    mean, second = np.zeros(len(moment)), np.zeros(len(moment))
    for models, gates in _sets(kept, prior.gates, max(size // 2, 1)):
        first, square = moments_given(scales, gram, moment, gates[:, gate_of])
        mean += np.exp(log_probs[models]) @ first
        second += np.exp(log_probs[models]) @ square
    inclusion = inclusion.clip(0, 1)  # sums of rounded probabilities may be larger
    return Enumeration(log_probs, evidence + scales.constant, inclusion, sizes, mean, second, kept)


def open_gates(sets: Arr, gates: int) -> Arr:
    """Which gates are open in sets of some numbers, of shape ``(sets, gates)``: 0 and 1."""
    return (sets[:, None] >> np.arange(gates) & 1).astype(float)


def _sets(numbers: Arr, gates: int, size: int) -> Iterator[tuple[Arr, Arr]]:
    """Sets in chunks: their numbers, and which gates are open."""
    for start in range(0, len(numbers), size):
        chunk = numbers[start : start + size]
        yield chunk, open_gates(chunk, gates)


def log_marginals(scales: UnknownScales, gram: Arr, moment: Arr, inside: Arr) -> Arr:
    """Log p(y | set) but for the constant, of shape ``(sets,)``.

    Args:
        scales: the regression.
        gram: ZᵀZ.
        moment: Zᵀy.
        inside: which columns are in each set, of shape ``(sets, p)``: 0 and 1.
    """
    if len(scales.levels) > 1:
        joint: Arr = np.logaddexp.reduce(by_level(scales, gram, moment, inside)[0], axis=1)
        return joint
    # Without a grid there is no need for eigenvalues.
    level = scales.levels[0]
    matrix = level * np.eye(len(moment)) + inside[:, :, None] * gram * inside[:, None, :]
    factor = torch.linalg.cholesky(torch.as_tensor(matrix))
    half = torch.linalg.solve_triangular(factor, torch.as_tensor(inside * moment)[..., None], upper=False)
    log_det = 2 * factor.diagonal(dim1=1, dim2=2).log().sum(1).numpy() - len(moment) * np.log(level)
    rss = scales.y @ scales.y - half.square().sum((1, 2)).numpy()
    return np.asarray(-0.5 * log_det + scales.log_lik(rss, level) + scales.log_weights[0])


def by_level(scales: UnknownScales, gram: Arr, moment: Arr, inside: Arr) -> tuple[Arr, Arr, Arr, Arr, Arr]:
    """Log p(y, λ | set) and residual sums of squares by level; eigenvalues, eigenvectors, moments in their basis.

    Arguments are those of :func:`log_marginals`.
    """
    eigenvalues, basis = np.linalg.eigh(inside[:, :, None] * gram * inside[:, None, :])
    eigenvalues = np.maximum(eigenvalues, 0)
    rotated = (basis.transpose(0, 2, 1) @ (inside * moment)[..., None])[..., 0]
    return (*scales.by_level(eigenvalues, rotated), eigenvalues, basis, rotated)


def moments_given(scales: UnknownScales, gram: Arr, moment: Arr, inside: Arr) -> tuple[Arr, Arr]:
    """First and second moments of b given each set, λ and σ² integrated out, of shape ``(sets, p)``.

    Arguments are those of :func:`log_marginals`.
    """
    joint, rss, eigenvalues, basis, rotated = by_level(scales, gram, moment, inside)
    weights = np.exp(joint - np.logaddexp.reduce(joint, axis=1)[:, None])
    shrunk = 1 / (eigenvalues[..., None] + scales.levels)
    mean = basis @ (rotated[..., None] * shrunk)
    variance = scales.variance(rss, scales.levels)[:, None] * ((basis**2) @ shrunk)
    first = np.einsum("mpl,ml->mp", mean, weights)
    return inside * first, inside * np.einsum("mpl,ml->mp", mean**2 + variance, weights)
