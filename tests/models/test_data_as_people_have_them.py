"""Offsets, exposures, formulas, categories, sparse matrices, a slab for each column: what they are defined by."""

import re

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.sparse import csr_array

from l0bayes import to_arviz
from l0bayes.errors import DataError
from l0bayes.inference import HardConcreteGuide, fit, infer_inclusion
from l0bayes.models import SpikeSlabRegression, exact_posterior, read_formula


def data(n=80, seed=0):
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame(rng.normal(size=(n, 3)) + rng.normal(size=(n, 1)), columns=["a", "b", "d"])
    frame["c"] = rng.choice(["u", "v", "w"], n)
    frame["y"] = frame["a"] + 0.8 * (frame["c"] == "w") + 0.7 * rng.normal(size=n)
    frame["exposure"] = rng.uniform(0.5, 20, n)
    frame["counts"] = rng.poisson(frame["exposure"] * np.exp(0.4 * frame["a"] - 1))
    return frame


def test_an_offset_of_a_linear_regression_is_taken_off_the_response():
    it = data()
    x, offset = it[["a", "b", "d"]], 3 * it["exposure"]
    found = infer_inclusion(SpikeSlabRegression(x, it["y"] + offset, offset=offset.sample(frac=1, random_state=0)))
    plain = infer_inclusion(SpikeSlabRegression(x, it["y"]))
    np.testing.assert_allclose(found.inclusion, plain.inclusion)
    predicted = found.predict(x, offset=offset)
    np.testing.assert_allclose(predicted["mean"], plain.predict(x)["mean"] + offset)
    np.testing.assert_allclose(predicted["low"], plain.predict(x)["low"] + offset)
    one, other = to_arviz(found, 50), to_arviz(plain, 50)
    np.testing.assert_allclose(one["observed_data"]["y"], it["y"] + offset)
    np.testing.assert_allclose(one["log_likelihood"]["y"], other["log_likelihood"]["y"], atol=1e-9)


@pytest.mark.parametrize("method", ["exact", "gibbs", "importance"])
def test_exposures_are_what_counts_are_divided_by(method):
    """Rates do not change where a row is split into two of half its exposure, with all of its counts in one of them."""
    it = data()
    x = it[["a", "b", "d"]]
    split = pd.concat([it, it.assign(counts=0)], ignore_index=True)
    whole = SpikeSlabRegression(x, it["counts"], likelihood="poisson", exposure=it["exposure"], slab_scale=1.0)
    halves = SpikeSlabRegression(
        split[["a", "b", "d"]], split["counts"], likelihood="poisson", exposure=split["exposure"] / 2, slab_scale=1.0
    )
    one, other = infer_inclusion(whole, method), infer_inclusion(halves, method)
    tolerance = 1e-6 if method == "exact" else 0.03
    np.testing.assert_allclose(other.inclusion, one.inclusion, atol=tolerance)
    np.testing.assert_allclose(other.table["mean"], one.table["mean"], atol=tolerance)
    assert one.inclusion[0] > 0.99
    if method != "importance":
        rates = one.predict(x, noise=False, exposure=it["exposure"])["mean"]
        double = one.predict(x, noise=False, exposure=2 * it["exposure"])["mean"]
        np.testing.assert_allclose(double, 2 * rates)
        assert rates.sum() == pytest.approx(it["counts"].sum(), rel=0.05)


def test_a_guide_with_exposures():
    it = data()
    model = SpikeSlabRegression(it[["a", "b", "d"]], it["counts"], likelihood="poisson", exposure=it["exposure"])
    torch.manual_seed(0)
    guide = HardConcreteGuide(model, init_open=0.5)
    fit(model, guide, [model.data], epochs=600, lr=0.02, gate_lr=0.02, progress=False)
    exact = infer_inclusion(model)
    np.testing.assert_allclose(model.coefficients(guide)["mean"], exact.table["mean"], atol=0.1)
    x, y, offset = model.data
    assert model(x[:4], None, offset[:4]).shape == (4,)
    with pytest.raises(DataError, match="offset must be given with a batch"):
        model(x[:4], y[:4])
    plain = SpikeSlabRegression(it[["a"]], it["y"])
    with pytest.raises(DataError, match="offset must not be given with a batch"):
        plain(x[:4, :1], None, offset[:4])


def test_a_slab_for_each_column():
    """Widths of 1 for columns in other units are widths in those units."""
    it = data()
    x, units = it[["a", "b", "d"]], np.array([1.0, 1000.0, 0.01])
    here = infer_inclusion(SpikeSlabRegression(x, it["y"], slab_scale=1.0))
    there = infer_inclusion(SpikeSlabRegression(x * units, it["y"], slab_scale=1 / units))
    np.testing.assert_allclose(there.inclusion, here.inclusion, rtol=1e-9)
    np.testing.assert_allclose(here.inclusion, exact_posterior(x, it["y"], slab_scale=1.0).inclusion, rtol=1e-9)
    logistic = [
        SpikeSlabRegression(x * by, it["y"] > 0, likelihood="bernoulli", slab_scale=1 / by) for by in (units, units**0)
    ]
    np.testing.assert_allclose(*(infer_inclusion(model).inclusion for model in logistic), rtol=1e-6)
    assert logistic[0].slab_deviation().shape == (3,)


def test_sparse_matrices():
    it = data()
    x = it[["a", "b", "d"]].to_numpy() * (np.abs(it[["a", "b", "d"]]) > 1).to_numpy()
    sparse = infer_inclusion(SpikeSlabRegression(csr_array(x), it["y"]))
    np.testing.assert_allclose(sparse.inclusion, infer_inclusion(SpikeSlabRegression(x, it["y"])).inclusion)
    np.testing.assert_allclose(sparse.predict(csr_array(x[:5])), sparse.predict(x[:5]))


def test_a_formula():
    it = data()
    design = read_formula("y ~ a * b + C(c) + np.exp(d)", it)
    expected = pd.DataFrame(
        {
            "a": it["a"],
            "b": it["b"],
            "C(c)[T.v]": (it["c"] == "v") * 1.0,
            "C(c)[T.w]": (it["c"] == "w") * 1.0,
            "np.exp(d)": np.exp(it["d"]),
            "a:b": it["a"] * it["b"],
        }
    )
    pd.testing.assert_frame_equal(design.X.astype(float), expected, check_names=False)
    assert design.groups == ["a", "b", "C(c)", "C(c)", "np.exp(d)", "a:b"]
    model = SpikeSlabRegression(design.X, design.y, groups=design.groups)
    found = infer_inclusion(model)
    by_hand = infer_inclusion(SpikeSlabRegression(expected, it["y"], groups=["a", "b", "c", "c", "d", "ab"]))
    np.testing.assert_allclose(found.inclusion, by_hand.inclusion)
    new = data(seed=1).head(7).drop(columns="y").assign(c="v")  # one category only
    predicted = found.predict(design.rows(new))
    codes = (
        expected.iloc[:0]
        .reindex(range(7))
        .assign(**{"a": new["a"], "b": new["b"], "C(c)[T.v]": 1.0, "C(c)[T.w]": 0.0, "np.exp(d)": np.exp(new["d"])})
    )
    np.testing.assert_allclose(predicted["mean"], by_hand.predict(codes.assign(**{"a:b": new["a"] * new["b"]}))["mean"])


@pytest.mark.parametrize(
    ("formula", "change", "message"),
    [
        ("y ~ a + q", {}, "formula: 'y ~ a + q' does not suit data: Unable to evaluate factor `q`"),
        ("a + b", {}, "formula must have responses on its left, as in 'y ~ a + b'; got 'a + b'"),
        ("y ~ a - 1", {}, "leave out '- 1' or '+ 0'"),
        ("y ~ 1", {}, "formula: 'y ~ 1' has no predictors"),
        ("y ~ a +", {}, "formula: 'y ~ a +' does not suit data"),
        ("y ~ a", {"a": np.nan}, "`a` contains null values"),
        ("C(c) ~ a", {}, "formula must have one response"),
    ],
)
def test_formulas_that_cannot_be(formula, change, message):
    with pytest.raises(DataError, match=re.escape(message)):
        read_formula(formula, data().assign(**change))


def test_new_data_that_do_not_suit_a_formula():
    design = read_formula("y ~ a + C(c)", data())
    with pytest.raises(DataError, match=r"data does not suit the formula: .*categories outside"):
        design.rows(data().assign(c="z"))
    with pytest.raises(DataError, match="data does not suit the formula"):
        design.rows(data()[["a"]])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"offset": [1.0]}, "offset must be of shape (80,), a number for each row; got (1,)"),
        ({"offset": np.full(80, np.inf)}, "offset must be finite"),
        ({"exposure": np.ones(80)}, "exposure is for likelihood='poisson'; give an offset for 'gaussian'"),
        ({"exposure": np.zeros(80), "likelihood": "poisson"}, "exposure must be > 0; got 0.0. Leave out rows"),
        ({"slab_scale": [1.0, 2.0]}, "one number or one for each of the 3 columns"),
        ({"slab_scale": [1.0, 2.0, -1.0]}, "slab_scale must be finite and > 0"),
    ],
)
def test_what_cannot_be(options, message):
    it = data()
    y = it["counts"] if options.get("likelihood") == "poisson" else it["y"]
    with pytest.raises(ValueError, match=re.escape(message)):
        SpikeSlabRegression(it[["a", "b", "d"]], y, **options)


def test_predictions_need_what_the_regression_has():
    it = data()
    x = it[["a"]]
    plain = infer_inclusion(SpikeSlabRegression(x, it["y"]))
    with pytest.raises(DataError, match="offset and exposure must not be given: the regression has none"):
        plain.predict(x, offset=it["b"])
    shifted = infer_inclusion(SpikeSlabRegression(x, it["y"], offset=it["b"]))
    with pytest.raises(DataError, match="offset or exposure must be given: the regression has one"):
        shifted.predict(x)
