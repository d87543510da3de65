"""Laplace's method set by set: against the implementation for all columns, and what an average over sets says."""

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.special import expit
from scipy.stats import poisson

from l0bayes import to_arviz
from l0bayes.inference import infer_inclusion
from l0bayes.models import SpikeSlabRegression
from l0bayes.models.collapsed import collapsed
from l0bayes.models.laplace import LaplaceRegression


def problem(likelihood, n=90, p=4, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, p)) * [1, 10, 0.1, 1][:p] + rng.normal(size=(n, 1))
    eta = 0.8 * x[:, 0] + 0.1 * x[:, 1] - 0.5
    if likelihood == "bernoulli":
        return x, rng.binomial(1, expit(eta))
    return x, rng.poisson(np.exp(0.5 * eta))


@pytest.mark.parametrize("likelihood", ["bernoulli", "poisson"])
def test_marginals_and_moments_of_every_set(likelihood):
    x, y = problem(likelihood)
    model = SpikeSlabRegression(x, y, likelihood=likelihood)
    gates = (torch.arange(16)[:, None] >> torch.arange(4) & 1).double()
    expected, mean, sd = (value.numpy() for value in collapsed(model).posterior(gates))
    slots = np.sort(np.where(gates.numpy() > 0, np.arange(4), 4), 1)
    regression = LaplaceRegression(model)
    modes = regression.modes(slots)
    np.testing.assert_allclose(modes.log_marginal - expected, (modes.log_marginal - expected)[0], atol=1e-8)
    for row, inside in enumerate(gates.bool().numpy()):
        count = inside.sum()
        np.testing.assert_allclose(modes.coefficients[row, 1 : 1 + count], mean[row, inside], atol=1e-6)
        deviation = np.sqrt(modes.inverse[row].diagonal()[1 : 1 + count])
        np.testing.assert_allclose(deviation, sd[row, inside], atol=1e-6)
    again = regression.modes(slots, modes.coefficients + 3.0)
    np.testing.assert_allclose(again.log_marginal, modes.log_marginal, atol=1e-8)


def test_starts_from_which_newton_overshoots():
    """A Poisson mean of e^40, and responses that two classes separate."""
    x, y = problem("poisson")
    regression = LaplaceRegression(SpikeSlabRegression(x, y, likelihood="poisson"))
    slots = np.array([[0, 1, 2, 3]])
    far = regression.modes(slots, np.array([[40.0, 5.0, -5.0, 3.0, 0.0]]))
    np.testing.assert_allclose(far.log_marginal, regression.modes(slots).log_marginal, atol=1e-8)
    model = SpikeSlabRegression(x, x[:, 0] > 0, likelihood="bernoulli", slab_scale=30.0)
    separated = LaplaceRegression(model).modes(slots)
    assert np.isfinite(separated.log_marginal).all()
    assert (separated.output[0] > 0).tolist() == (x[:, 0] > 0).tolist()


@pytest.mark.parametrize("method", ["exact", "gibbs"])
@pytest.mark.parametrize("likelihood", ["bernoulli", "poisson"])
def test_summaries_predictions_and_exports(likelihood, method):
    x, y = problem(likelihood, n=150)
    frame = pd.DataFrame(x, columns=list("abcd"))
    found = infer_inclusion(SpikeSlabRegression(frame, y, likelihood=likelihood), method, draws=600, chains=8)
    exact = infer_inclusion(SpikeSlabRegression(frame, y, likelihood=likelihood))
    np.testing.assert_allclose(found.summary()["mean"], exact.table["mean"], atol=0.1 * exact.table["sd"].max())
    draws = found.average.standard_draws
    mean = draws.coefficient.reshape(-1, 4).mean(0)
    np.testing.assert_allclose(mean, exact.table["mean"], atol=0.1 * exact.table["sd"].max())
    predicted = found.predict(frame, noise=False)
    output = draws.coefficient.reshape(-1, 4) @ x.T + draws.intercept.reshape(-1, 1)
    means = expit(output) if likelihood == "bernoulli" else np.exp(output)
    np.testing.assert_allclose(predicted["mean"], means.mean(0))
    np.testing.assert_allclose(predicted["sd"], means.std(0))
    assert np.abs(predicted["mean"].mean() - y.mean()) < 0.05
    assert set(np.unique(found.predict(frame.head(20))["low"])) <= set(np.arange(20.0))
    idata = to_arviz(found, 100)
    output = (idata["posterior"]["coefficient"].to_numpy() @ x.T) + idata["posterior"]["intercept"].to_numpy()[
        ..., None
    ]
    expected = np.log(np.where(y, expit(output), expit(-output)))
    if likelihood == "poisson":
        expected = poisson.logpmf(y, np.exp(output))
    np.testing.assert_allclose(idata["log_likelihood"]["y"], expected, atol=1e-9)
    assert "noise_scale" not in idata["posterior"]
    assert found.bayes_factor(["a"], log=True) == pytest.approx(exact.bayes_factor(["a"], log=True))
    assert found.best_model == exact.best_model
    assert found.coefficients_of(["a", "c"])["sd"].min() > 0
    assert found.scales.empty


def test_counts_that_cannot_be_drawn():
    """Far from the data the mean of a count has no bounds."""
    x, y = problem("poisson")
    found = infer_inclusion(SpikeSlabRegression(x, y, likelihood="poisson"))
    predicted = found.predict(x[:1] + 200.0)
    assert predicted["high"][0] <= 1.1e15
    assert predicted["mean"][0] > predicted["high"][0]


def test_evidence_is_that_of_the_responses():
    """Of a Poisson regression without columns that matter: quadrature over the intercept."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(40, 1)), rng.poisson(2.0, size=40)
    found = infer_inclusion(SpikeSlabRegression(x, y, likelihood="poisson", inclusion=1e-9))
    grid = np.linspace(-1, 2, 4001)
    log_joint = poisson.logpmf(y[:, None], np.exp(grid)).sum(0)
    expected = np.log(np.exp(log_joint - log_joint.max()).sum() * (grid[1] - grid[0])) + log_joint.max()
    assert found.log_evidence == pytest.approx(expected, abs=0.01)
