"""Exact KL divergences from a hard concrete guide; importing this module registers them with torch.

A Monte Carlo KL would need pathwise gradients of ``log q − log p``, which are biased for mixed distributions.
So every pair below is closed form or quadrature, and a pair that is missing raises instead of falling back.
"""

import torch
from pyro.distributions import MaskedDistribution
from pyro.distributions.util import scale_and_mask
from torch import Tensor
from torch.distributions import Distribution, kl_divergence, register_kl
from torch.nn.functional import logsigmoid

from l0bayes.compat import mask_of
from l0bayes.distributions.gate_prior import GatePrior
from l0bayes.distributions.hard_concrete import HardConcrete
from l0bayes.distributions.joint_prior import JointL0Prior
from l0bayes.distributions.l0_prior import L0Prior
from l0bayes.distributions.quadrature import inside_rule
from l0bayes.distributions.spike_and_slab_prior import SpikeAndSlabPrior


def _kl_hard_concrete_l0(q: HardConcrete, p: L0Prior) -> Tensor:
    """λ · P(z ≠ 0) (paper, §2.1 and eq. 12)."""
    logit = q.logit_nonzero
    return (p.code_cost.to(logit.dtype) * torch.sigmoid(logit)).to(q.log_alpha.dtype)


def _kl_hard_concrete_spike_and_slab(q: HardConcrete, p: SpikeAndSlabPrior) -> Tensor:
    """KL(Bernoulli(P(z ≠ 0)) ‖ Bernoulli(π)) + λ · P(z ≠ 0)."""
    logit = q.logit_nonzero
    return kl_of_coins(logit, p.inclusion.to(logit.dtype), p.code_cost).to(q.log_alpha.dtype)


def kl_of_coins(logit: Tensor, inclusion: Tensor, code_cost: Tensor | float = 0.0) -> Tensor:
    """KL(Bernoulli(P) ‖ Bernoulli(π)) + λ · P, from the logit of P, so that no logarithm of 0 is taken.

    Args:
        logit: of P(z ≠ 0).
        inclusion: π, broadcasting.
        code_cost: λ, in nats.
    """
    open_term = logsigmoid(logit) - inclusion.log() + code_cost
    closed_term = logsigmoid(-logit) - torch.log1p(-inclusion)
    return torch.sigmoid(logit) * open_term + torch.sigmoid(-logit) * closed_term


def _kl_hard_concrete_joint(q: HardConcrete, p: JointL0Prior) -> Tensor:
    """The expected code cost of all groups, if this is the last; and KL(Bernoulli ‖ Bernoulli(π)) if there is a π."""
    probs = torch.sigmoid(q.logit_nonzero)
    p.joint.note_probs(p.position, probs)
    kl = torch.zeros_like(q.log_alpha, requires_grad=False)
    if p.position == p.joint.last:
        kl = (p.joint.expected() / len(probs)).to(kl.dtype).expand_as(kl)
    if p.inclusion is None:
        return kl
    return kl + _kl_hard_concrete_spike_and_slab(q, SpikeAndSlabPrior(p.inclusion, validate_args=False))


def _kl_hard_concrete_hard_concrete(q: HardConcrete, p: HardConcrete) -> Tensor:
    """Closed form at the atoms, quadrature between them; differentiable in both."""
    shape = torch.broadcast_shapes(q.batch_shape, p.batch_shape)
    q, p = q.expand(shape), p.expand(shape)
    wide = torch.promote_types(torch.promote_types(q.log_alpha.dtype, p.log_alpha.dtype), torch.float32)
    beta = torch.maximum(q.beta.to(wide), p.beta.to(wide))
    gamma = torch.maximum(q.gamma.to(wide), p.gamma.to(wide))
    zeta = torch.minimum(q.zeta.to(wide), p.zeta.to(wide))
    rule = inside_rule(beta, gamma, zeta)
    ends = torch.tensor([0.0, 1.0], dtype=wide, device=q.log_alpha.device).reshape(2, *(1,) * len(shape))
    at_zero, at_one = _log_ratio(q, p, ends)
    inside = _log_ratio(q, p, rule[0])
    return q.expectation(at_zero, at_one, inside, rule).to(q.log_alpha.dtype)


def _log_ratio(q: HardConcrete, p: HardConcrete, value: Tensor) -> Tensor:
    return q._log_density(value) - p._log_density(value)  # noqa: SLF001 (unguarded: quadrature nodes are no draws)


def _kl_hard_concrete_other(q: HardConcrete, p: Distribution) -> Tensor:
    raise TypeError(
        f"no exact KL(HardConcrete ‖ {type(p).__name__}) is registered, and a Monte Carlo KL of a gate has biased "
        "gradients. Give the gate site L0Prior, SpikeAndSlabPrior or HardConcrete as prior, with the same "
        f".to_event as the guide (guide event_shape {tuple(q.event_shape)}, model event_shape "
        f"{tuple(p.event_shape)}), or register one with torch.distributions.register_kl"
    )


def _kl_masked(q: Distribution, p: Distribution) -> Tensor | float:
    """A mask on one side only leaves out the terms it hides, as one on both sides does."""
    q_mask, q_base = (mask_of(q), q.base_dist) if isinstance(q, MaskedDistribution) else (True, q)
    p_mask, p_base = (mask_of(p), p.base_dist) if isinstance(p, MaskedDistribution) else (True, p)
    mask = q_mask & p_mask
    if mask is False:
        return 0.0
    kl: Tensor = scale_and_mask(kl_divergence(q_base, p_base), mask=mask)
    return kl


register_kl(HardConcrete, L0Prior)(_kl_hard_concrete_l0)
register_kl(HardConcrete, SpikeAndSlabPrior)(_kl_hard_concrete_spike_and_slab)
register_kl(HardConcrete, JointL0Prior)(_kl_hard_concrete_joint)
register_kl(HardConcrete, HardConcrete)(_kl_hard_concrete_hard_concrete)
register_kl(HardConcrete, Distribution)(_kl_hard_concrete_other)
for _gate in (GatePrior, HardConcrete):
    register_kl(MaskedDistribution, _gate)(_kl_masked)
register_kl(HardConcrete, MaskedDistribution)(_kl_masked)
