"""Simulation-based calibration: of parameters drawn from the prior, ranks among posterior draws are uniform.

Talts et al. (2018), arXiv 1804.06788. The noise has a reference prior, which no parameter can be drawn from; inclusion
and the ranks of coefficients do not depend on its scale, so any will do.
"""

import numpy as np
import pytest
from scipy.stats import chi2
from torch.distributions import Beta

from l0bayes.inference import infer_inclusion
from l0bayes.inference.regression.chains import Path
from l0bayes.inference.regression.gibbs_chains import GibbsChains
from l0bayes.models import SpikeSlabRegression
from l0bayes.models.gate_members import GateMembers
from l0bayes.models.model_average import ModelAverage
from l0bayes.models.set_prior import SetPrior
from l0bayes.models.unknown_scales import scales_of

BINS = 5


def simulated(seed, groups):
    """A draw of all that is unknown, and data: five columns of 15 rows."""
    rng = np.random.default_rng([17, seed])
    x = rng.normal(size=(15, 5)) + 0.7 * rng.normal(size=(15, 1))
    gate_of = np.array(groups)
    inside = (rng.uniform(size=gate_of.max() + 1) < rng.beta(1.0, 2.0))[gate_of]
    variance = 0.5 / rng.gamma(0.5)
    coefficient = inside * np.sqrt(variance) * 2.0 * rng.normal(size=5) / x.std(0)
    return x, x @ coefficient + 2.0 * rng.normal(size=15) + 5.0, inside, coefficient


def enumerated(x, y, groups, seed):
    model = SpikeSlabRegression(x, y, inclusion=Beta(1.0, 2.0), groups=groups)
    found = infer_inclusion(model, "exact")
    draws = found.average.draws(400, seed)
    return found.inclusion, draws.included[0].sum(-1), draws.coefficient[0]


def sampled(x, y, groups, seed):
    """Three short chains, with nothing around them."""
    model = SpikeSlabRegression(x, y, inclusion=Beta(1.0, 2.0), groups=groups)
    members, prior = GateMembers(np.array(groups)), SetPrior(Beta(1.0, 2.0), max(groups) + 1)
    starts, scales = np.zeros((3, prior.gates), dtype=bool), scales_of(model)
    chains = GibbsChains(scales, prior, members, starts, np.random.default_rng(seed))
    chains.warm_up(80)
    sums, path = chains.sums(), Path()
    for _ in range(150):
        chains.step(sums, path)
    sets = (np.stack(values, 1) for values in (path.slots, path.levels, path.weights))
    about = (model.regression_data, model.groups, np.array(groups), prior)
    draws = ModelAverage(*about, *sets, in_time=True, scales=scales).draws(100, seed)
    inclusion = sums.inclusion.sum(0) / sums.weight.sum()
    return inclusion, draws.included.sum(-1).ravel(), draws.coefficient.reshape(-1, 5)


@pytest.mark.parametrize("groups", [[0, 1, 2, 3, 4], [0, 0, 1, 2, 2]])
@pytest.mark.parametrize(("method", "number"), [(enumerated, 150), (sampled, 24)])
def test_calibration(method, number, groups):
    """Of inclusion a sum of deviations with 4 standard deviations, of ranks χ² at 1e-4: a false alarm in 6,000 runs."""
    deviation, variance, ranks = 0.0, 0.0, []
    first = [groups.index(gate) for gate in sorted(set(groups))]
    for seed in range(number):
        x, y, inside, coefficient = simulated(seed, groups)
        inclusion, size, draws = method(x, y, groups, seed)
        deviation += (inside[first] - inclusion).sum()
        # The indicators of one data set depend on each other: the variance of their sum under the posterior.
        variance += size.var()
        chance = np.random.default_rng(seed).uniform(size=5)
        below, equal = (draws < coefficient).mean(0), (draws == coefficient).mean(0)
        ranks.append((below + chance * equal)[seed % 5])  # one of each data set, so that they are independent
    assert abs(deviation) < 4 * np.sqrt(variance)
    counts = np.bincount(np.minimum((np.array(ranks) * BINS).astype(int), BINS - 1), minlength=BINS)
    expected = number / BINS
    assert ((counts - expected) ** 2 / expected).sum() < chi2(BINS - 1).isf(1e-4)
