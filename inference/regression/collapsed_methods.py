"""Inclusion without approximating the posterior: all sets of gates enumerated, or sampled."""

import math

import numpy as np
import pandas as pd
import torch

from l0bayes.inference.regression.gibbs import GibbsRun, sample_sets
from l0bayes.inference.regression.gibbs_chains import GibbsChains
from l0bayes.inference.regression.importance import WeightedGates
from l0bayes.inference.regression.inclusion_posterior import InclusionPosterior, coefficient_table
from l0bayes.models import SpikeSlabRegression
from l0bayes.models.collapsed import collapsed
from l0bayes.models.enumeration import enumerate_sets, open_gates
from l0bayes.models.gate_members import GateMembers
from l0bayes.models.model_average import ModelAverage, average_of
from l0bayes.models.set_prior import SetPrior
from l0bayes.models.unknown_scales import UnknownScales, scales_of

_OFF = 0.1  # an error that must not go without a warning
_SURE = 2.5  # standard errors within which an error is
_CHUNK = 512  # sets at a time
_TOP = 10  # models that are named


def by_enumeration(model: SpikeSlabRegression) -> InclusionPosterior:
    """All sets of gates of a linear regression, with everything unknown integrated out."""
    scales, prior = scales_of(model), SetPrior(model.parts().inclusion, len(model.groups))
    gate_of = model.parts().gate_of.cpu().numpy()
    found = enumerate_sets(scales, prior, gate_of)
    average = average_of(found, model.regression_data, groups=model.groups, gate_of=gate_of, scales=scales, prior=prior)
    table = _table(model, scales, found.inclusion[gate_of], found.mean, found.second).assign(mcse=0.0)
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


@torch.no_grad()
def by_laplace(model: SpikeSlabRegression) -> InclusionPosterior:
    """All sets of gates of a logistic or Poisson regression, their marginal likelihoods by Laplace's method."""
    regression = collapsed(model)
    gates = torch.as_tensor(open_gates(np.arange(2 ** len(model.groups)), len(model.groups)))
    parts = [regression.posterior(chunk) for chunk in gates.split(_CHUNK)]
    log_marginal, mean, sd = (torch.cat(values) for values in zip(*parts, strict=True))
    joint = log_marginal + regression.prior.log_prob(gates)
    weighted = WeightedGates(gates, joint.softmax(0), mean, sd, joint)
    return InclusionPosterior(
        table=coefficient_table(model, weighted.inclusion, *weighted.coefficients()).assign(mcse=0.0),
        groups=model.groups,
        inclusion=weighted.inclusion.numpy(),
        models=weighted.top_models(model.groups),
        sizes=weighted.sizes,
        gates=weighted,
        method="exact",
        pareto_k=math.nan,
        effective_size=float(len(gates)),
        diagnostics=(),
        evaluations=len(gates),
        seconds=0.0,
    )


def by_gibbs(model: SpikeSlabRegression, chains: int | None, steps: int, seed: int) -> InclusionPosterior:
    """Chains over sets of columns, with everything unknown integrated out or sampled."""
    scales, prior = scales_of(model), SetPrior(model.parts().inclusion, len(model.groups))
    gate_of = model.parts().gate_of.cpu().numpy()
    members = GateMembers(gate_of)

    def make(starts: np.ndarray, rng: np.random.Generator) -> GibbsChains:
        return GibbsChains(scales, prior, members, starts, rng)

    run = sample_sets(make, prior, members, len(scales.y), chains=chains, steps=steps, seed=seed)
    average = ModelAverage(
        model.regression_data, model.groups, gate_of, scales, prior, run.slots, run.levels, run.weights, in_time=True
    )
    table = _table(model, scales, run.inclusion[gate_of], run.mean, run.second)
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
    model: SpikeSlabRegression, scales: UnknownScales, inclusion: np.ndarray, mean: np.ndarray, second: np.ndarray
) -> pd.DataFrame:
    sd = np.sqrt(np.maximum(second - mean**2, 0))
    gate_of = model.parts().gate_of.tolist()
    return pd.DataFrame(
        {
            "name": model.names,
            "group": [model.groups[gate] for gate in gate_of],
            "inclusion": inclusion,
            "mean": mean * scales.units,
            "sd": sd * scales.units,
        }
    )
