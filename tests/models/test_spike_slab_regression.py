"""Spike-and-slab regression: its ELBO, its units, what it refuses, and how near it comes to enumeration."""

import re

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Predictive
from scipy.linalg import null_space

from l0bayes.errors import DataError
from l0bayes.inference import ClosedFormKL_ELBO, HardConcreteGuide, TensorBatches, fit
from l0bayes.models import SpikeSlabRegression, exact_posterior


def problem(n=60, p=4, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, p)) * [1, 10, 0.1, 1][:p] + [0, 5, -3, 100][:p]
    return x, 1.5 * x[:, 0] - 0.2 * x[:, 1] + rng.normal(size=n) + 7


def counts(x):
    return np.random.default_rng(1).poisson(np.exp(0.5 + 0.6 * (x[:, 0] - x[:, 0].mean())))


RESPONSES = {
    "gaussian": lambda _, y: y,
    "bernoulli": lambda _, y: (y > np.median(y)).astype(int),
    "poisson": lambda x, _: counts(x),
}


def test_elbo_in_the_users_units():
    """Likelihood and prior are those of the written model, whatever units the columns have inside."""
    x, y = problem()
    model = SpikeSlabRegression(x, y, noise_scale=0.9, slab_scale=0.7, inclusion=0.3)
    guide = HardConcreteGuide(model, init_open=0.6)
    with torch.no_grad():
        guide.parameter("loc.slab").normal_()
    torch.manual_seed(3)
    loss = ClosedFormKL_ELBO().differentiable_loss(model, guide)
    torch.manual_seed(3)
    draws, gates, slab = guide(), guide.gates()["gate"], guide.distributions()["slab"]
    spread = torch.as_tensor(x.std(0))
    coefficient = draws["gate"] * draws["slab"] / spread
    mean = y.mean() + torch.as_tensor(x - x.mean(0)) @ coefficient
    log_lik = dist.Normal(mean, 0.9).log_prob(torch.as_tensor(y)).sum()
    p = gates.prob_nonzero
    of_gates = p * (p / 0.3).log() + (1 - p) * ((1 - p) / 0.7).log()
    in_user_units = dist.Normal(slab.mean / spread, slab.stddev / spread)
    of_slabs = p * torch.distributions.kl_divergence(in_user_units, dist.Normal(0.0, 0.7))
    torch.testing.assert_close(loss, (of_gates + of_slabs).sum() - log_lik, check_dtype=False)


@pytest.mark.parametrize("likelihood", RESPONSES)
def test_batches_and_all_the_data_agree(likelihood):
    x, y = problem()
    y = RESPONSES[likelihood](x, y)
    model = SpikeSlabRegression(x, y, likelihood=likelihood)
    guide = HardConcreteGuide(model)
    losses = []
    for batch in [(), model.data, (torch.as_tensor(x), torch.as_tensor(y))]:
        torch.manual_seed(0)
        losses.append(ClosedFormKL_ELBO().differentiable_loss(model, guide, *batch).item())
    assert losses == pytest.approx([losses[0]] * 3)
    halves = []
    for part in (slice(0, 30), slice(30, 60)):
        torch.manual_seed(0)
        batch = [value[part] for value in model.data]
        halves.append(ClosedFormKL_ELBO().differentiable_loss(model, guide, *batch).item())
    assert np.mean(halves) == pytest.approx(losses[0])


@pytest.mark.parametrize("likelihood", RESPONSES)
def test_it_finds_what_is_there(likelihood):
    x, y = problem(n=200)
    y = RESPONSES[likelihood](x, y)
    torch.manual_seed(0)
    model = SpikeSlabRegression(pd.DataFrame(x, columns=list("abcd")), y, likelihood=likelihood, slab_scale=None)
    guide = HardConcreteGuide(model, init_open=0.5)
    fit(model, guide, [model.data], epochs=600, lr=0.03, gate_lr=0.03, progress=False)
    table = model.coefficients(guide).set_index("name")
    assert table.loc["a", "p_nonzero"] > 0.95
    assert table.loc["d", "p_nonzero"] < 0.5
    assert table.loc["a", "low"] < table.loc["a", "mean"] < table.loc["a", "high"]
    truth = {"gaussian": 1.5, "poisson": 0.6}.get(likelihood)
    if truth:
        assert table.loc["a", "mean_open"] == pytest.approx(truth, abs=4 * table.loc["a", "sd_open"])
    if likelihood == "gaussian":
        assert model.scale("noise").item() == pytest.approx(1.0, abs=0.15)


def test_orthogonal_columns_against_enumeration():
    """Without correlation mean field loses nothing but what a relaxed gate adds."""
    n, p = 100, 6
    rng = np.random.default_rng(5)
    x = null_space(np.ones((1, n)))[:, :p] * np.sqrt(n)
    y = x @ [1.0, 0.5, 0.0, 0.0, 0.18, 0.0] + rng.normal(size=n)
    exact = exact_posterior(x, y, noise_scale=1.0, slab_scale=0.5)
    torch.manual_seed(0)
    model = SpikeSlabRegression(x, y, noise_scale=1.0, slab_scale=0.5)
    guide = HardConcreteGuide(model, init_open=0.5)
    fit(model, guide, [model.data], epochs=1500, lr=0.02, gate_lr=0.02, schedule="cosine", progress=False)
    table = model.coefficients(guide)
    assert np.abs(table["p_nonzero"] - exact.inclusion).max() < 0.15
    np.testing.assert_allclose(table["mean"], exact.mean, atol=0.08)


def test_coefficients_do_not_depend_on_the_units_of_a_column():
    x, y = problem()
    tables = []
    for factor in (1.0, 1000.0):
        torch.manual_seed(0)
        model = SpikeSlabRegression(x * [1, 1, 1, factor], y, noise_scale=1.0, slab_scale=None)
        guide = HardConcreteGuide(model)
        with torch.no_grad():
            guide.parameter("loc.slab").fill_(0.5)
        tables.append(model.coefficients(guide))
    for column in ("mean", "sd", "mean_open", "sd_open", "low", "high"):
        np.testing.assert_allclose(tables[0][column], tables[1][column] * [1, 1, 1, 1000], rtol=1e-9)


def test_moments_and_intervals_are_those_of_draws():
    """100,000 draws; six standard errors."""
    model = SpikeSlabRegression(*problem(), noise_scale=1.0)
    guide = HardConcreteGuide(model, init_open=0.4)
    torch.manual_seed(0)
    with torch.no_grad():
        guide.parameter("loc.slab").normal_()
    table = model.coefficients(guide, level=0.8)
    gate, slab = guide.gates()["gate"].sample((100_000,)), guide.distributions()["slab"].sample((100_000,))
    draws = (gate * slab / torch.as_tensor(problem()[0].std(0))).numpy()
    sizes = draws.std(0)
    assert (np.abs(table["mean"] - draws.mean(0)) < 6 * sizes / 316).all()
    np.testing.assert_allclose(table["sd"], sizes, rtol=0.03)
    opened = np.where(draws != 0, draws, np.nan)
    assert (np.abs(table["mean_open"] - np.nanmean(opened, 0)) < 6 * np.nanstd(opened, 0) / 190).all()
    np.testing.assert_allclose(table["sd_open"], np.nanstd(opened, 0), rtol=0.03)
    for column, share in (("low", 0.1), ("high", 0.9)):
        assert (np.abs(table[column] - np.quantile(draws, share, axis=0)) < 0.1 * sizes).all()


def test_groups_share_a_gate():
    x, y = problem()
    model = SpikeSlabRegression(x, y, groups=["u", "v", "u", "w"], inclusion=[0.1, 0.2, 0.3])
    guide = HardConcreteGuide(model)
    assert guide.gates()["gate"].batch_shape == (3,)
    table = model.coefficients(guide)
    assert table["group"].tolist() == ["u", "v", "u", "w"]
    fit(model, guide, TensorBatches(*model.data, 20, shuffle=True), epochs=2, progress=False)
    assert np.isfinite(model.coefficients(guide)["mean"]).all()


def test_predictions_and_stock_pyro():
    x, y = problem()
    model = SpikeSlabRegression(x, y)
    guide = HardConcreteGuide(model)
    draws = Predictive(model, guide=guide, num_samples=11)(torch.as_tensor(x[:5]))
    assert draws["y"].shape == (11, 5)
    svi = pyro.infer.SVI(model, guide, pyro.optim.Adam({"lr": 0.01}), pyro.infer.TraceMeanField_ELBO())
    before = model.scale("noise").item()
    for _ in range(3):
        svi.step()
    assert model.scale("noise").item() != before


@pytest.mark.parametrize(
    ("likelihood", "y", "message"),
    [
        ("gaussian", np.ones(60), "y is constant"),
        ("bernoulli", np.zeros(60), "y must hold 0 and 1, and both"),
        ("bernoulli", np.arange(60) % 3, "y must hold 0 and 1, and both"),
        ("poisson", -np.ones(60), "y must hold counts"),
        ("poisson", np.full(60, 0.5), "y must hold counts"),
        ("gaussian", np.full(60, np.nan), "y must be finite"),
    ],
)
def test_responses_that_do_not_suit(likelihood, y, message):
    with pytest.raises(DataError, match=re.escape(message)):
        SpikeSlabRegression(problem()[0], y, likelihood=likelihood)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"likelihood": "gamma"}, "likelihood must be one of gaussian, bernoulli, poisson; got 'gamma'"),
        ({"noise_scale": 0.0}, "noise_scale must be finite and > 0, or None to learn it; got 0.0"),
        ({"slab_scale": -1.0}, "slab_scale must be finite and > 0, one number or one for each of the"),
        ({"inclusion": 1.0}, "inclusion must be strictly between 0 and 1, or a Beta distribution; got 1.0"),
        ({"groups": ["a"]}, "groups must name a group for each of the 4 columns"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        SpikeSlabRegression(*problem(), **options)


def test_a_batch_of_another_width():
    model = SpikeSlabRegression(*problem())
    with pytest.raises(DataError, match=re.escape("x must be of shape (batch, 4); got (3, 5)")):
        model(torch.ones(3, 5))
    with pytest.raises(ValueError, match=r"level must be between 0 and 1; got 1\.5"):
        model.coefficients(HardConcreteGuide(model), level=1.5)
