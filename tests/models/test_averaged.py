"""Summaries, predictions, comparisons and exports by model averaging: exact ones, and the same from the sampler."""

import re

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import norm

from l0bayes import gate_table, to_arviz
from l0bayes.errors import DataError
from l0bayes.inference import HardConcreteGuide, fit, infer_inclusion
from l0bayes.models import SpikeSlabRegression, exact_posterior
from l0bayes.posterior.pictures import plot_model_space

NOISE, SLAB = 0.8, 0.6


def data(n=50, p=4, seed=0):
    rng = np.random.default_rng(seed)
    x = pd.DataFrame(rng.normal(size=(n, p)) + rng.normal(size=(n, 1)), columns=list("abcdefgh")[:p]) + 2
    return x, x["a"] - 0.25 * x["c"] + NOISE * rng.normal(size=n) + 3


@pytest.fixture(scope="module")
def known():
    """Noise and slab given: each model is a ridge regression."""
    return exact_posterior(*data(), NOISE, SLAB, 0.3)


@pytest.fixture(scope="module", params=["exact_posterior", "exact", "gibbs"])
def found(request):
    if request.param == "exact_posterior":
        return exact_posterior(*data())
    return infer_inclusion(SpikeSlabRegression(*data()), request.param, draws=1000, chains=8)


def ridges(x, y):
    """Columns, means and covariance of the coefficients of every model."""
    xc, yc = (x - x.mean()).to_numpy(), (y - y.mean()).to_numpy()
    for model in range(16):
        inside = [j for j in range(4) if model >> j & 1]
        z = xc[:, inside]
        covariance = np.linalg.inv(z.T @ z / NOISE**2 + np.eye(len(inside)) / SLAB**2)
        yield inside, covariance @ z.T @ yc / NOISE**2, covariance


def test_moments_and_predictions_are_those_of_ridge_regressions(known):
    x, y = data()
    new = x.iloc[:3] * 1.3
    centred = (new - x.mean()).to_numpy()
    first, second, mean, square = np.zeros(4), np.zeros(4), np.zeros(3), np.zeros(3)
    for log_prob, (inside, slopes, covariance) in zip(known.log_probs, ridges(x, y), strict=True):
        prob, rows = np.exp(log_prob), centred[:, inside]
        first[inside] += prob * slopes
        second[inside] += prob * (slopes**2 + covariance.diagonal())
        at = y.mean() + rows @ slopes
        mean += prob * at
        square += prob * (at**2 + np.einsum("ni,ij,nj->n", rows, covariance, rows) + NOISE**2 * (1 + 1 / len(y)))
    summary, predicted = known.summary(), known.predict(new)
    np.testing.assert_allclose(summary["mean"], first, atol=1e-9)
    np.testing.assert_allclose(summary["sd"], np.sqrt(second - first**2), atol=1e-9)
    np.testing.assert_allclose(summary["mean_open"], first / known.inclusion, atol=1e-9)
    np.testing.assert_allclose(predicted["mean"], mean, atol=1e-9)
    np.testing.assert_allclose(predicted["sd"], np.sqrt(square - mean**2), rtol=0.06)  # 4,000 draws
    assert (predicted.index == new.index).all()


def test_intervals_are_those_of_the_mixture(known):
    """Of coefficient c, whose distribution is an atom at 0 and normals; the level as it is, to four standard errors."""
    low, high = known.summary(0.9).set_index("name").loc["c", ["low", "high"]]

    def below(value):
        total = 0.0
        for log_prob, (inside, slopes, covariance) in zip(known.log_probs, ridges(*data()), strict=True):
            if 2 in inside:
                at = inside.index(2)
                total += np.exp(log_prob) * norm.cdf(value, slopes[at], np.sqrt(covariance[at, at]))
            else:
                total += np.exp(log_prob) * (value >= 0)
        return total

    error = 4 * np.sqrt(0.05 * 0.95 / 4000)
    assert below(low) == pytest.approx(0.05, abs=error)
    assert below(high) >= 0.95 - error  # the atom may lie there


def test_one_can_stand_in_for_the_other(found):
    exact = exact_posterior(*data())
    x = data()[0]
    assert found.best_model == exact.best_model
    assert found.median_model == exact.median_model
    np.testing.assert_allclose(found.summary()["inclusion"], exact.inclusion, atol=0.03)
    for column in ("mean", "sd", "low", "high"):
        np.testing.assert_allclose(found.summary()[column], exact.summary()[column], atol=0.06)
        np.testing.assert_allclose(found.predict(x)[column], exact.predict(x)[column], atol=0.25)
    assert found.bayes_factor(["a"], ["b"]) == pytest.approx(exact.bayes_factor(["a"], ["b"]))
    assert found.bayes_factor(["a"], log=True) == pytest.approx(np.log(found.bayes_factor(["a"])))
    tops = found.top_models(3), exact.top_models(3)
    assert tops[0]["predictors"][0] == tops[1]["predictors"][0]
    np.testing.assert_allclose(tops[0]["probability"], tops[1]["probability"], atol=0.04)
    pd.testing.assert_frame_equal(found.coefficients_of(["a", "c"]), exact.coefficients_of(["a", "c"]))
    assert found.scales.loc["noise_scale", "median"] == pytest.approx(
        exact.scales.loc["noise_scale", "median"], rel=0.05
    )


def test_coverage_of_predictions():
    """95 % intervals of 600 new responses; four standard errors."""
    x, y = data(n=650, seed=3)
    found = infer_inclusion(SpikeSlabRegression(x[:50], y[:50]))
    predicted = found.predict(x[50:])
    inside = (predicted["low"] < y[50:]) & (y[50:] < predicted["high"])
    assert inside.mean() == pytest.approx(0.95, abs=0.05)
    of_means = found.predict(x[50:], noise=False)
    assert (of_means["high"] - of_means["low"] < predicted["high"] - predicted["low"]).all()
    assert list(found.predict(x[50:52], interval=None).columns) == ["mean", "sd"]


def test_new_rows_go_by_the_names_of_their_columns(found):
    x = data()[0]
    pd.testing.assert_frame_equal(found.predict(x[list("dbca")]), found.predict(x))
    pd.testing.assert_frame_equal(found.predict(x.assign(other=1.0)), found.predict(x))
    np.testing.assert_allclose(found.predict(torch.as_tensor(x.to_numpy().copy())), found.predict(x))
    for wrong, message in (
        (x[["a", "b", "c"]], "X_new lacks column 'd'; it needs a, b, c, d"),
        (x.to_numpy()[:, :3], "X_new must be of shape (rows, 4); got (50, 3)"),
        (x * np.nan, "X_new must be finite"),
    ):
        with pytest.raises(DataError, match=re.escape(message)):
            found.predict(wrong)


def test_exports(found):
    x, y = data()
    idata = to_arviz(found, 250)
    posterior = idata["posterior"]
    assert posterior["included"].dims == ("chain", "draw", "group")
    assert posterior["coefficient"].sizes["chain"] >= 4
    assert set(np.unique(posterior["included"])) == {0, 1}
    assert ((posterior["coefficient"].to_numpy() != 0) == (posterior["included"].to_numpy() == 1)).all()
    np.testing.assert_allclose(posterior["included"].mean(("chain", "draw")), found.inclusion, atol=0.08)
    draw = {name: posterior[name].to_numpy()[1, 7] for name in ("coefficient", "intercept", "noise_scale")}
    expected = norm.logpdf(y, x.to_numpy() @ draw["coefficient"] + draw["intercept"], draw["noise_scale"])
    np.testing.assert_allclose(idata["log_likelihood"]["y"][1, 7], expected, atol=1e-9)
    np.testing.assert_allclose(idata["observed_data"]["y"], y)
    with pytest.raises(ValueError, match="num_samples must be at least 1; got 0"):
        to_arviz(found, 0)


@pytest.mark.filterwarnings("ignore")  # what ArviZ says of itself
def test_leave_one_out_means_something():
    """Effective parameters are about those of the model, and a model without what matters is worse."""
    import arviz as az  # noqa: PLC0415 (heavy)

    x, y = data(n=120)
    whole = infer_inclusion(SpikeSlabRegression(x, y))
    without = infer_inclusion(SpikeSlabRegression(x[["b", "c", "d"]], y))
    loo = az.loo(to_arviz(whole, 300))
    assert 1.5 < loo.p_loo < 6
    compared = az.compare({"whole": to_arviz(whole, 300), "without": to_arviz(without, 300)})
    assert compared.index[0] == "whole"


@pytest.mark.filterwarnings("ignore")  # what ArviZ says of itself
def test_leave_one_out_of_a_guide_means_something():
    """Of independent columns, two of which matter: as many effective parameters as the sampler has, and not 120."""
    import arviz as az  # noqa: PLC0415 (heavy)

    rng = np.random.default_rng(0)
    x = rng.normal(size=(120, 5))
    model = SpikeSlabRegression(
        x, x[:, 0] - 0.5 * x[:, 1] + NOISE * rng.normal(size=120), noise_scale=NOISE, slab_scale=1.0
    )
    torch.manual_seed(0)
    guide = HardConcreteGuide(model, init_open=0.5)
    fit(model, guide, [model.data], epochs=1500, lr=0.02, gate_lr=0.02, schedule="cosine", progress=False)
    by_guide, sampled = (az.loo(to_arviz(it, 500, data=())).p_loo for it in (guide, infer_inclusion(model)))
    assert 2 < sampled < 5
    assert by_guide == pytest.approx(sampled, abs=1.5)


def test_a_table_like_that_of_a_guide(found):
    table = gate_table(found)
    assert table["group"].tolist() == ["a", "b", "c", "d"]
    np.testing.assert_allclose(table["p_nonzero"], found.inclusion)
    np.testing.assert_allclose(table["coefficient"], found.summary()["mean"])
    assert table["open"].tolist() == [name in found.median_model for name in "abcd"]
    assert set(gate_table({"found": found, "again": found}))
    with pytest.raises(ValueError, match="rule must be one of paper, median, mean; got 'mode'"):
        gate_table(found, "mode")


def test_it_can_be_read_and_drawn(found):
    assert "median model: a" in repr(found)
    assert "0.99" in repr(found) or "  1 " in repr(found)
    with mpl.rc_context({"backend": "agg"}):
        figure = found.plot()
    assert [bool(axes.has_data()) for axes in figure.axes] == [True] * 3
    mpl.pyplot.close(figure)


def test_a_picture_of_nothing():
    with pytest.raises(ValueError, match="models and names must not be empty; got 0 and 1"):
        plot_model_space(pd.DataFrame({"predictors": [], "probability": []}), ["a"])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda it: it.summary(1.5), "level must be between 0 and 1; got 1.5"),
        (lambda it: it.predict(np.ones((1, 4)), 0.0), "interval must be between 0 and 1; got 0.0"),
        (lambda it: it.bayes_factor(["z"]), "first: 'z' is none of a, b, c, d"),
        (lambda it: it.coefficients_of(["z"]), "predictors: 'z' is none of a, b, c, d"),
    ],
)
def test_bad_questions(known, call, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        call(known)


def test_what_has_no_sets_to_average_over():
    x, y = data()
    for found in (
        exact_posterior(x, y, prior="g"),
        infer_inclusion(SpikeSlabRegression(x, y, noise_scale=NOISE, slab_scale=SLAB), "importance"),
    ):
        assert "median model" in repr(found)
        with pytest.raises(ValueError, match=r"no sets of predictors to average over\. Use infer_inclusion"):
            found.summary()
