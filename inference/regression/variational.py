"""Inclusion by mean field, mixtures of its modes, and importance sampling from them, each checked against the last."""

from collections.abc import Sequence
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from l0bayes.inference.guide.hard_concrete_guide import HardConcreteGuide
from l0bayes.inference.regression.bernoulli_mixture import BernoulliMixture
from l0bayes.inference.regression.coordinate_ascent import MeanField, coordinate_ascent, distinct
from l0bayes.inference.regression.importance import WeightedGates, importance_sample, joined
from l0bayes.inference.regression.inclusion_posterior import Gates, InclusionPosterior, Method, coefficient_table
from l0bayes.inference.training.fit import fit
from l0bayes.inference.training.fit_options import FitOptions
from l0bayes.models import SpikeSlabRegression
from l0bayes.models.collapsed import Collapsed, collapsed

# Inclusion of the gates; mean and sd of the coefficients; the gates jointly.
Answer = tuple[Tensor, tuple[Tensor, Tensor], Gates]

FEWEST = 100  # effective draws
_PARETO_K = 0.7  # Vehtari et al. 2024, JMLR 25: beyond it the weights' mean converges too slowly to rely on
_NEARLY_ALL = 0.5  # share of effective draws from which on weights are so alike that the shape of their tail is noise
_DISAGREE = 0.1  # of inclusion probabilities
_SVI = FitOptions(epochs=1500, lr=0.02, gate_lr=0.02, schedule="cosine")


def by_importance(model: SpikeSlabRegression, method: Method, starts: int, draws: int, seed: int) -> InclusionPosterior:
    """The posterior by ``"mean-field"``, ``"binary"``, ``"mixture"`` or ``"importance"``.

    Args:
        model: the regression; scales that it does not know are learned first, by SVI, and taken for known then.
        method: which.
        starts: of coordinate ascent.
        draws: in each of two runs of importance sampling.
        seed: of all chance.
    """
    svi = _hard_concrete(model, seed) if method == "mean-field" or model.learns_scales else None
    regression = collapsed(model)
    ends = distinct(coordinate_ascent(regression, _starts(regression, starts, seed)))
    prior = regression.prior.probs
    proposal = BernoulliMixture.defensive(ends.probs, (ends.elbo / 2).softmax(0), prior)
    runs = [importance_sample(regression, proposal, draws, 2 * seed + run) for run in range(2)]
    weighted = joined(runs)
    if method == "importance":
        answer: Answer = weighted.inclusion, weighted.coefficients(), weighted
    elif method == "mean-field":
        answer = _of_svi(svi, regression)
    else:
        answer = _of_ends(ends, regression, method)
    inclusion, coefficients, gates = answer
    diagnostics = [
        *_plugged_in(model),
        *_diagnose(runs, weighted),
        *_differs(inclusion, weighted.inclusion, model.groups),
    ]
    return InclusionPosterior(
        table=coefficient_table(model, inclusion, *coefficients),
        groups=model.groups,
        inclusion=inclusion.numpy(),
        models=weighted.top_models(model.groups) if method == "importance" else pd.DataFrame(),
        sizes=gates.sizes,
        gates=gates,
        method=method,
        pareto_k=weighted.pareto_k,
        effective_size=weighted.effective_size,
        diagnostics=tuple(diagnostics),
        evaluations=sum(len(run.weights) for run in runs),
        seconds=0.0,
    )


def _hard_concrete(model: SpikeSlabRegression, seed: int) -> HardConcreteGuide:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        guide = HardConcreteGuide(model, init_open=0.5)
        fit(model, guide, [model.data], progress=False, options=_SVI)
    return guide


def _starts(regression: Collapsed, number: int, seed: int) -> Tensor:
    """All closed, and random ones from nearly all closed to nearly all open."""
    generator = torch.Generator().manual_seed(seed)
    gates = regression.prior.gates
    level = torch.rand(number, 1, generator=generator, dtype=torch.float64)
    level[0] = 0
    return (torch.rand(number, gates, generator=generator, dtype=torch.float64) < level).double()


def _of_svi(guide: Any, regression: Collapsed) -> Answer:
    with torch.no_grad():
        gate, slab = guide.gates()["gate"], guide.distributions()["slab"]
        inclusion = gate.prob_nonzero
        share, variance = gate.mean[regression.gate_of], gate.variance[regression.gate_of]
        mean = share * slab.mean
        second = (variance + share.square()) * (slab.variance + slab.mean.square())
        gates = BernoulliMixture(inclusion[None], inclusion.new_ones(1))
        return inclusion, (mean, (second - mean.square()).clamp(min=0).sqrt()), gates


def _of_ends(ends: MeanField, regression: Collapsed, method: Method) -> Answer:
    """The best of them, or all weighted by their ELBOs."""
    shares = ends.elbo.softmax(0) if method == "mixture" else (ends.elbo == ends.elbo.max()).double()
    shares = shares / shares.sum()
    probs = ends.probs[:, regression.gate_of]
    mean = shares @ (probs * ends.mean)
    second = shares @ (probs * (ends.mean.square() + ends.sd.square()))
    deviation = (second - mean.square()).clamp(min=0).sqrt()
    return shares @ ends.probs, (mean, deviation), BernoulliMixture(ends.probs, shares)


def _diagnose(runs: Sequence[WeightedGates], weighted: WeightedGates) -> list[str]:
    """What speaks against the weighted draws."""
    found = []
    few = weighted.effective_size < _NEARLY_ALL * len(weighted.log_weights)  # else the tail holds no surprise
    if few and (k := weighted.pareto_k) > _PARETO_K:
        found.append(f"the importance weights have Pareto k = {k:.2f} > {_PARETO_K}; few draws decide. Raise draws")
    if (size := weighted.effective_size) < FEWEST:
        found.append(f"only {size:.0f} effective draws. Raise draws")
    if (gap := float((runs[0].inclusion - runs[1].inclusion).abs().max())) > _DISAGREE:
        found.append(f"two runs differ by {gap:.2f} in an inclusion probability. Raise draws and starts")
    return found


def _differs(inclusion: Tensor, weighted: Tensor, names: Sequence[str]) -> list[str]:
    gap, gate = (inclusion - weighted).abs().max(0)
    if float(gap) <= _DISAGREE:
        return []
    found, other = float(inclusion[gate]), float(weighted[gate])
    what = f"{names[int(gate)]!r} has inclusion probability {found:.2f}, by importance sampling {other:.2f}: "
    return [f"{what}it misses how gates depend on each other. Use method='importance'"]


def _plugged_in(model: SpikeSlabRegression) -> list[str]:
    """Whatever is conditional on a noise that mean field found cannot notice that it is wrong, and it often is."""
    if not model.noise_is_unknown:
        return []
    what = f"noise_scale was learned by mean field, {model.scale('noise').item():.3g}, and taken for known"
    remedy = (
        "" if len(model.groups) < len(model.names) or model.slab == "learned" else " or 'gibbs', which integrate it"
    )
    return [f"{what}; probabilities can be off by more than 0.1. Give noise_scale, or use method='exact'{remedy}"]
