"""Posterior inclusion probabilities of a regression, by methods of rising cost, and whether they can be trusted."""

import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from l0bayes.arguments import checked_but
from l0bayes.errors import UntrustedPosteriorWarning
from l0bayes.inference.guide.hard_concrete_guide import HardConcreteGuide
from l0bayes.inference.regression.bernoulli_mixture import BernoulliMixture
from l0bayes.inference.regression.coordinate_ascent import MeanField, coordinate_ascent, distinct
from l0bayes.inference.regression.importance import WeightedGates, importance_sample, joined
from l0bayes.inference.training.fit import fit
from l0bayes.inference.training.fit_options import FitOptions
from l0bayes.models import SpikeSlabRegression
from l0bayes.models.collapsed import Collapsed, collapsed

Gates = WeightedGates | BernoulliMixture
# Inclusion of the gates; mean and sd of the coefficients; the gates jointly.
Answer = tuple[Tensor, tuple[Tensor, Tensor], Gates]
Method = Literal["mean-field", "binary", "mixture", "importance"]

_PARETO_K = 0.7  # Vehtari et al. 2024, JMLR 25: beyond it the weights' mean converges too slowly to rely on
_FEWEST = 100  # effective draws
_NEARLY_ALL = 0.5  # share of effective draws from which on weights are so alike that the shape of their tail is noise
_DISAGREE = 0.1  # of inclusion probabilities
_SVI = FitOptions(epochs=1500, lr=0.02, gate_lr=0.02, schedule="cosine")


@dataclass(frozen=True)
class InclusionPosterior:
    """Posterior inclusion probabilities, coefficients, and diagnostics: what speaks against them.

    Attributes:
        table: a row a predictor: ``name``, ``group``, ``inclusion`` of its gate, ``mean`` and ``sd`` of the
            coefficient, in the units of ``X`` and ``y``.
        groups: names of the gates.
        inclusion: of the gates, of shape ``(gates,)``.
        models: the most probable sets of open gates among those seen: ``gates`` (their names), ``size`` and
            ``probability``; of ``"importance"``, empty for the others.
        sizes: probabilities of 0, 1, … open gates.
        gates: the distribution of the gates that the method found.
        method: by which they were found.
        pareto_k: of the importance weights: below 0.7 they can be averaged.
        effective_size: effective number of the weighted draws.
        diagnostics: why the answer should not be trusted; empty if nothing is known against it.
        evaluations: marginal likelihoods computed.
        seconds: that it took.
    """

    table: pd.DataFrame
    groups: tuple[str, ...]
    inclusion: np.ndarray
    models: pd.DataFrame
    sizes: np.ndarray
    gates: Gates
    method: Method
    pareto_k: float
    effective_size: float
    diagnostics: tuple[str, ...]
    evaluations: int
    seconds: float

    @property
    def doubts(self) -> tuple[str, ...]:
        """The diagnostics, by the name that they had before."""
        return self.diagnostics

    @property
    def guide(self) -> str:
        """The method, by the name that it had before."""
        return self.method

    @property
    def median_model(self) -> list[str]:
        """Gates with probability of at least one half (Barbieri and Berger 2004, Annals of Statistics 32)."""
        return [name for name, prob in zip(self.groups, self.inclusion, strict=True) if prob >= 0.5]  # noqa: PLR2004

    def group_inclusion(self, gates: Sequence[str]) -> float:
        """Probability that at least one of some gates is open, such as of correlated predictors.

        Raises:
            ValueError: if one is unknown.
        """
        if unknown := [name for name in gates if name not in self.groups]:
            raise ValueError(f"gates: {unknown[0]!r} is none of {', '.join(self.groups)}")
        return self.gates.any_open([self.groups.index(name) for name in gates])


@checked_but("method")
def infer_inclusion(
    model: SpikeSlabRegression,
    method: Method | Literal["resampled"] = "importance",
    *,
    starts: int = 32,
    draws: int = 4000,
    seed: int = 0,
    guide: str | None = None,
) -> InclusionPosterior:
    """Infers which gates of a regression are open.

    Args:
        model: the regression. Scales that it is to learn are learned first, by SVI with a hard concrete guide.
        method: ``"mean-field"``: a hard concrete guide by SVI, 1500 steps over all the data; errs where predictors are
            correlated, and by its relaxation. ``"binary"``: mean field with binary gates by coordinate ascent, without
            the relaxation's error; milliseconds. ``"mixture"``: the distinct ends of ``starts`` of those, weighted by
            their ELBOs; as many times the cost. ``"importance"``: importance sampling, draws from that mixture, adapted
            to what they show and weighted by their marginal likelihoods, with the coefficients integrated out; at most
            ``2 * draws`` evaluations of p³ operations, 4 rounds. For logistic and Poisson regression the marginal
            likelihood is Laplace's approximation, and the middle two are about the mode of the full model.
        starts: of coordinate ascent.
        draws: in each of two independent runs of importance sampling, whose agreement is part of the diagnosis; the
            first three methods are checked against them too.
        seed: of all draws.
        guide: what ``method`` was called before; deprecated.

    Returns:
        The posterior. If it should not be trusted it says why, and there is a warning.

    Raises:
        ValueError: if an argument is out of range.
    """
    method = _known_method(method, guide)
    if starts < 1 or draws < 2 * _FEWEST:
        raise ValueError(f"starts must be at least 1, draws at least {2 * _FEWEST}; got {starts} and {draws}")
    begin = time.perf_counter()
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
    diagnostics = [*_diagnose(runs, weighted), *_differs(inclusion, weighted.inclusion, model.groups)]
    for found in diagnostics:
        warnings.warn(f"infer_inclusion, method={method!r}: {found}", UntrustedPosteriorWarning, stacklevel=3)
    return InclusionPosterior(
        table=_table(model, inclusion, *coefficients),
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
        seconds=time.perf_counter() - begin,
    )


def _known_method(method: str, guide: str | None) -> Method:
    """The method that is asked for, by whatever name it has or had."""
    if guide is not None:
        warnings.warn("infer_inclusion: guide= is called method= now", DeprecationWarning, stacklevel=4)
        method = guide
    if method == "resampled":
        warnings.warn("infer_inclusion: 'resampled' is called 'importance' now", DeprecationWarning, stacklevel=4)
        method = "importance"
    for known in get_args(Method):
        if method == known:
            return cast("Method", known)
    raise ValueError(f"method must be one of {', '.join(get_args(Method))}; got {method!r}")


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
    if (size := weighted.effective_size) < _FEWEST:
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


def _table(model: SpikeSlabRegression, inclusion: Tensor, mean: Tensor, sd: Tensor) -> pd.DataFrame:
    parts = model.parts()
    gate_of = parts.gate_of.tolist()
    return pd.DataFrame(
        {
            "name": model.names,
            "group": [model.groups[gate] for gate in gate_of],
            "inclusion": inclusion.numpy()[gate_of],
            "mean": (mean / parts.spread).numpy(),
            "sd": (sd / parts.spread).numpy(),
        }
    )
