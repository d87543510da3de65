"""Inclusion without approximating the posterior: all sets of gates enumerated, or sampled."""

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd

from l0bayes.inference.regression.gibbs import GibbsRun, sample_sets
from l0bayes.inference.regression.gibbs_chains import GibbsChains
from l0bayes.inference.regression.inclusion_posterior import InclusionPosterior
from l0bayes.inference.regression.laplace_chains import LaplaceChains
from l0bayes.models import SpikeSlabRegression
from l0bayes.models.enumeration import enumerate_sets
from l0bayes.models.gate_members import GateMembers
from l0bayes.models.laplace import LaplaceRegression
from l0bayes.models.laplace_average import LaplaceAverage
from l0bayes.models.laplace_enumeration import enumerate_modes
from l0bayes.models.model_average import ModelAverage, average_of
from l0bayes.models.set_average import SetAverage
from l0bayes.models.unknown_scales import UnknownScales, scales_of

_OFF = 0.1  # an error that must not go without a warning
_SURE = 2.5  # standard errors within which an error is
_TOP = 10  # models that are named
_AT_THE_EDGE = (
    "slab='learned': the data are most probable under the narrowest or the widest slab there is, as they are where "
    "hardly anything is there. Use slab='zellner-siow' or a slab_scale"
)


def by_enumeration(model: SpikeSlabRegression) -> InclusionPosterior:
    """All sets of gates of a linear regression, with everything unknown integrated out."""
    return _with_slab_learned(scales_of(model), partial(_enumerated, model))


def _with_slab_learned(
    scales: UnknownScales, find: Callable[[UnknownScales], InclusionPosterior]
) -> InclusionPosterior:
    """A slab that is to be a point: the one under which the data are most probable, found under a flat prior first."""
    first = find(scales)
    if not scales.learned:
        return first
    assert isinstance(first.average, ModelAverage)  # noqa: S101 (it is a linear regression)
    probs = np.log(np.maximum(first.average.level_probs, 1e-300))
    best = int(probs.argmax())
    log_level, said = np.log(scales.levels), []
    at = log_level[best]
    if 0 < best < len(probs) - 1:  # the peak of the parabola through three points
        left, right = probs[best - 1] - probs[best], probs[best + 1] - probs[best]
        at += 0.5 * (left - right) / min(left + right, -1e-12) * (log_level[best + 1] - log_level[best])
    else:
        said.append(_AT_THE_EDGE)
    found = find(replace(scales, levels=np.exp([at]), log_weights=np.zeros(1)))
    return replace(found, diagnostics=(*first.diagnostics, *found.diagnostics, *said))


def _enumerated(model: SpikeSlabRegression, scales: UnknownScales) -> InclusionPosterior:
    prior = model.set_prior
    gate_of = model.parts().gate_of.cpu().numpy()
    found = enumerate_sets(scales, prior, gate_of)
    average = average_of(found, model.regression_data, groups=model.groups, gate_of=gate_of, scales=scales, prior=prior)
    table = _table(model, scales.units, found.inclusion[gate_of], found.mean, found.second).assign(mcse=0.0)
    number = float(len(found.log_probs))
    return InclusionPosterior(
        table=table,
        groups=model.groups,
        inclusion=found.inclusion,
        models=average.named(_TOP).rename(columns={"predictors": "gates"}),
        sizes=found.sizes,
        gates=average,
        method="exact",
        pareto_k=math.nan,
        effective_size=number,
        diagnostics=(),
        evaluations=int(number),
        seconds=0.0,
        average=average,
        log_evidence=found.log_evidence,
    )


def by_laplace(model: SpikeSlabRegression) -> InclusionPosterior:
    """All sets of gates of a logistic or Poisson regression, their marginal likelihoods by Laplace's method."""
    regression, prior = LaplaceRegression(model), model.set_prior
    gate_of = model.parts().gate_of.cpu().numpy()
    found = enumerate_modes(regression, prior, GateMembers(gate_of))
    average = LaplaceAverage(
        model.regression_data,
        model.groups,
        gate_of,
        prior,
        found.slots[None],
        np.zeros((1, len(found.slots)), dtype=np.int64),
        found.probs[None],
        in_time=False,
        regression=regression,
    )
    table = _table(model, regression.units, found.inclusion[gate_of], found.mean, found.second).assign(mcse=0.0)
    return InclusionPosterior(
        table=table,
        groups=model.groups,
        inclusion=found.inclusion,
        models=average.named(_TOP).rename(columns={"predictors": "gates"}),
        sizes=average.sizes,
        gates=average,
        method="exact",
        pareto_k=math.nan,
        effective_size=float(2**prior.gates),
        diagnostics=(),
        evaluations=2**prior.gates,
        seconds=0.0,
        average=average,
        log_evidence=found.log_evidence,
    )


def by_gibbs(model: SpikeSlabRegression, chains: int | None, steps: int, seed: int) -> InclusionPosterior:
    """Chains over sets of gates, with everything unknown integrated out or sampled."""
    prior = model.set_prior
    gate_of = model.parts().gate_of.cpu().numpy()
    members = GateMembers(gate_of)
    sampling = partial(
        sample_sets, prior=prior, members=members, rows=model.num_data, chains=chains, steps=steps, seed=seed
    )
    if model.likelihood == "gaussian":

        def find(scales: UnknownScales) -> InclusionPosterior:
            run = sampling(partial(GibbsChains, scales, prior, members))
            sets = (model.regression_data, model.groups, gate_of, prior, run.slots, run.levels, run.weights)
            return _sampled(model, run, scales.units, ModelAverage(*sets, in_time=True, scales=scales))

        return _with_slab_learned(scales_of(model), find)
    regression = LaplaceRegression(model)
    run = sampling(partial(LaplaceChains, regression, prior, members))
    sets = (model.regression_data, model.groups, gate_of, prior, run.slots, run.levels, run.weights)
    return _sampled(model, run, regression.units, LaplaceAverage(*sets, in_time=True, regression=regression))


def _sampled(model: SpikeSlabRegression, run: GibbsRun, units: np.ndarray, average: SetAverage) -> InclusionPosterior:
    gate_of = average.gate_of
    table = _table(model, units, run.inclusion[gate_of], run.mean, run.second)
    return InclusionPosterior(
        table=table.assign(mcse=run.mcse[gate_of], rhat=run.rhat[gate_of], ess=run.ess[gate_of]),
        groups=model.groups,
        inclusion=run.inclusion,
        models=average.named(_TOP).rename(columns={"predictors": "gates"}),
        sizes=average.sizes,
        gates=average,
        method="gibbs",
        pareto_k=math.nan,
        effective_size=float(run.ess.min()),
        diagnostics=tuple(_doubts(run, model.groups)),
        evaluations=run.steps,
        seconds=0.0,
        average=average,
    )


def _doubts(run: GibbsRun, names: tuple[str, ...]) -> list[str]:
    """Where an error beyond 0.1 cannot be excluded."""
    worst = int(run.mcse.argmax())
    if _SURE * run.mcse[worst] <= _OFF:
        return []
    what = f"{names[worst]!r} has inclusion probability {run.inclusion[worst]:.2f} with a Monte Carlo standard error of"
    chains = f"R-hat {run.rhat[worst]:.2f}, chains differ by {run.spread[worst]:.2f}"
    return [f"{what} {run.mcse[worst]:.2f} ({chains}). Raise draws"]


def _table(
    model: SpikeSlabRegression, units: np.ndarray, inclusion: np.ndarray, mean: np.ndarray, second: np.ndarray
) -> pd.DataFrame:
    sd = np.sqrt(np.maximum(second - mean**2, 0))
    gate_of = model.parts().gate_of.tolist()
    return pd.DataFrame(
        {
            "name": model.names,
            "group": [model.groups[gate] for gate in gate_of],
            "inclusion": inclusion,
            "mean": mean * units,
            "sd": sd * units,
        }
    )
