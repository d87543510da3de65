"""Mean field with binary gates by coordinate ascent (Carbonetto and Stephens 2012, Bayesian Analysis 7).

q = Π_g Bernoulli(r_g) · N(β_g; μ_g, Σ_g) given that gate g is open; and a Beta for an inclusion probability that is
unknown. Nothing is relaxed here, and nothing drawn: for a
log-likelihood bᵀβ − βᵀAβ/2 each update is in closed form.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.special import xlogy

from l0bayes.models.collapsed import Collapsed

_SWEEPS = 1000
_CONVERGED = 1e-8
_EDGE = 1e-12


@dataclass(frozen=True)
class MeanField:
    """What each start ended with.

    Attributes:
        probs: P(open), of shape ``(starts, gates)``.
        elbo: up to a constant that all share, in nats, of shape ``(starts,)``.
        mean: of the coefficients that are there, in units of the scaled columns, of shape ``(starts, p)``.
        sd: standard deviations of those coefficients, of shape ``(p,)``; the same for all starts.
    """

    probs: Tensor
    elbo: Tensor
    mean: Tensor
    sd: Tensor


def coordinate_ascent(model: Collapsed, starts: Tensor) -> MeanField:
    """Ascends the ELBO from several starts, until nothing moves.

    Args:
        model: the regression; its log-likelihood is taken as its quadratic, exact for Gaussian noise.
        starts: 0/1 gates to start from, of shape ``(starts, gates)``; coefficients start at their posterior means.

    Returns:
        The ends, in the order of the starts.
    """
    quadratic = model.quadratic()
    blocks = [(model.gate_of == gate).nonzero()[:, 0] for gate in range(model.prior.gates)]
    a, b, prior = quadratic.matrix, quadratic.vector, model.precision
    covariances = [torch.linalg.inv(a[c][:, c] + torch.diag(prior[c])) for c in blocks]
    log_dets = [torch.logdet(s) + prior[c].log().sum() for s, c in zip(covariances, blocks, strict=True)]
    probs = starts.clone()
    means = model.posterior(starts)[1]  # of the coefficients that are there
    expected = means.clone()  # of all, r μ
    for _ in range(_SWEEPS):
        before = probs.clone()
        for gate, columns in enumerate(blocks):
            others = expected.clone()
            others[:, columns] = 0
            moment = b[columns] - others @ a[:, columns]
            mean = moment @ covariances[gate]
            log_odds = model.prior.log_odds(probs, gate) + 0.5 * (log_dets[gate] + (mean * moment).sum(1))
            probs[:, gate] = log_odds.sigmoid()
            means[:, columns], expected[:, columns] = mean, probs[:, gate, None] * mean
        if float((probs - before).abs().max()) < _CONVERGED:
            break
    elbo = expected @ b - 0.5 * ((expected @ a) * expected).sum(1) + model.prior.log_prob(probs)
    for gate, columns in enumerate(blocks):
        mean, r, block = means[:, columns], probs[:, gate], a[columns][:, columns]
        within = ((mean @ block) * mean).sum(1)
        spread = (block * covariances[gate]).sum()
        elbo = elbo - 0.5 * (r * (spread + within) - r.square() * within)
        size = (prior[columns] * (mean.square() + covariances[gate].diagonal())).sum(1)
        elbo = elbo - r * 0.5 * (size - len(columns) - log_dets[gate])
        elbo = elbo - (xlogy(r, r) + xlogy(1 - r, 1 - r))
    sd = torch.empty_like(b)
    for columns, covariance in zip(blocks, covariances, strict=True):
        sd[columns] = covariance.diagonal().sqrt()
    return MeanField(probs.clamp(_EDGE, 1 - _EDGE), elbo, means, sd)


def distinct(field: MeanField, tolerance: float = 1e-3) -> MeanField:
    """One of each kind of end, the best first."""
    order = field.elbo.argsort(descending=True)
    kept: list[int] = []
    for index in order.tolist():
        if all(float((field.probs[index] - field.probs[other]).abs().max()) > tolerance for other in kept):
            kept.append(index)
    return MeanField(field.probs[kept], field.elbo[kept], field.mean[kept], field.sd)
