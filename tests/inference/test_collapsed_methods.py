"""Enumeration and Gibbs sampling by infer_inclusion: errors, what the sampler says of its own, what is chosen when."""

import re
import resource
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.datasets import load_diabetes

from l0bayes.errors import DataError, UntrustedPosteriorWarning
from l0bayes.inference import infer_inclusion
from l0bayes.models import SpikeSlabRegression, exact_posterior

EFFECTS = np.array([1.0, -0.8, 0.6, 0.5, -0.4, 0.3])
CLOSENESS = {"blocks": (5, 0.95), "pairs": (2, 0.999), "equicorrelated": (10_000, 0.9)}


def columns_of(design, n, p, rng):
    noise = rng.normal(size=(n, p))
    if design == "autoregressive":
        for j in range(1, p):
            noise[:, j] = 0.8 * noise[:, j - 1] + 0.6 * noise[:, j]
    if design in CLOSENESS:
        size, share = CLOSENESS[design]
        common = np.repeat(rng.normal(size=(n, -(-p // size))), min(size, p), 1)[:, :p]
        noise = np.sqrt(1 - share) * noise + np.sqrt(share) * common
    return noise


def problem(design, n, p, seed):
    rng = np.random.default_rng(seed)
    x, effects = columns_of(design, n, p, rng), np.zeros(p)
    effects[np.linspace(0, p - 1, min(p, 6)).astype(int)] = EFFECTS[: min(p, 6)]
    return x, x @ effects + rng.normal(size=n)


DESIGNS = ["independent", "autoregressive", "equicorrelated", "blocks", "pairs"]


@pytest.mark.parametrize("design", DESIGNS)
def test_errors_and_what_is_said_of_them(design):
    """Noise and slab unknown, 12 columns of 25 rows; six standard errors."""
    x, y = problem(design, 25, 12, 1)
    exact = exact_posterior(x, y, inclusion=0.3)
    found = infer_inclusion(SpikeSlabRegression(x, y, inclusion=0.3), "gibbs", draws=1000)
    off = np.abs(found.inclusion - exact.inclusion)
    assert off.max() < 0.03
    assert (off < 6 * found.table["mcse"] + 1e-3).all()
    np.testing.assert_allclose(found.table["mean"], exact.mean, atol=0.1 * exact.sd.max())
    np.testing.assert_allclose(found.table["sd"], exact.sd, atol=0.1 * exact.sd.max())
    np.testing.assert_allclose(found.sizes, exact.sizes, atol=0.05)
    assert found.group_inclusion(["x0", "x1"]) == pytest.approx(exact.group_inclusion(["x0", "x1"]), abs=0.05)
    assert (found.table["rhat"] < 1.1).all()
    assert (found.table["ess"] > 100).all()


def test_an_unknown_share():
    """Sizes from none to all are then likely, and take longer to go through."""
    x, y = problem("independent", 25, 10, 1)
    prior = torch.distributions.Beta(1.0, 2.0)
    exact = exact_posterior(x, y, inclusion=prior)
    found = infer_inclusion(SpikeSlabRegression(x, y, inclusion=prior), "gibbs", draws=1200)
    assert np.abs(found.inclusion - exact.inclusion).max() < 0.06
    of_exact, of_gibbs = exact.scales, found.scales
    assert list(of_gibbs.index) == ["noise_scale", "slab_scale", "inclusion"]
    for name in ("noise_scale", "inclusion"):
        assert of_gibbs.loc[name, "mean"] == pytest.approx(
            of_exact.loc[name, "mean"], abs=0.2 * of_exact.loc[name, "sd"]
        )


def test_standard_errors_are_those_of_runs():
    """Deviations from enumeration over 8 seeds, in standard errors: their mean square is 1 to within sampling."""
    x, y = problem("blocks", 25, 10, 2)
    exact = exact_posterior(x, y).inclusion
    z = []
    for seed in range(8):
        found = infer_inclusion(SpikeSlabRegression(x, y), "gibbs", draws=500, chains=4, seed=seed)
        z.append((found.inclusion - exact) / found.table["mcse"])
    assert 0.5 < np.sqrt(np.mean(np.square(z))) < 1.6


def test_a_run_that_is_too_short_says_so():
    x, y = problem("pairs", 80, 60, 0)
    with pytest.warns(UntrustedPosteriorWarning, match=r"Monte Carlo standard error of 0\.\d+ \(R-hat .*Raise draws"):
        found = infer_inclusion(SpikeSlabRegression(x, y), "gibbs", draws=200, chains=2)
    assert len(found.diagnostics) == 1


@pytest.mark.parametrize("design", ["blocks", "equicorrelated"])
def test_seeds_agree_on_sixty_columns(design):
    x, y = problem(design, 100, 60, 3)
    model = SpikeSlabRegression(x, y, expected_open=5)
    one, other = (infer_inclusion(model, draws=500, seed=seed) for seed in range(2))
    assert one.method == "gibbs"
    assert np.abs(one.inclusion - other.inclusion).max() < 0.08
    assert one.diagnostics == ()


def test_many_more_columns_than_rows():
    """No matrix of columns by columns: 3,000 of them would take 72 MB."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 3000))
    y = x[:, :2] @ [2.0, -1.5] + 0.5 * rng.normal(size=60)
    model = SpikeSlabRegression(x, y, inclusion=torch.distributions.Beta(1.0, 3000.0))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = infer_inclusion(model, draws=200, chains=4)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kilobytes
    assert found.inclusion[:2].min() > 0.99
    assert found.inclusion[2:].max() < 0.3
    assert found.best_model == ["x0", "x1"]


def test_diabetes_with_its_quadratic_terms():
    """64 terms, highly correlated; two halves of the truth that everybody finds."""
    data = load_diabetes(as_frame=True)
    x = data.data.copy()
    squares = {f"{name}^2": x[name] ** 2 for name in x if name != "sex"}
    crossed = {f"{a}:{b}": x[a] * x[b] for i, a in enumerate(x) for b in list(x)[i + 1 :]}
    x = pd.concat([x, pd.DataFrame(squares | crossed)], axis=1)
    assert x.shape == (442, 64)
    found = infer_inclusion(
        SpikeSlabRegression(x, data.target, inclusion=torch.distributions.Beta(1.0, 1.0)), draws=500
    )
    table = found.table.set_index("name")
    assert table.loc[["bmi", "bp", "s5"], "inclusion"].min() > 0.9
    assert table.loc["age:sex", "inclusion"] > 0.5  # published again and again since Efron et al. 2004
    assert table["mcse"].max() < 0.04


def test_a_shuffled_response_goes_by_its_index():
    data = load_diabetes(as_frame=True)
    here = infer_inclusion(SpikeSlabRegression(data.data, data.target))
    shuffled = data.target.sample(frac=1, random_state=0)
    np.testing.assert_allclose(infer_inclusion(SpikeSlabRegression(data.data, shuffled)).inclusion, here.inclusion)
    np.testing.assert_allclose(exact_posterior(data.data, shuffled).inclusion, here.inclusion)
    with pytest.raises(DataError, match=re.escape("y: its index lacks 0, a row of X. Align them")):
        exact_posterior(data.data, shuffled.set_axis(range(1, 443)))
    with pytest.raises(DataError, match="labels occur more than once"):
        exact_posterior(data.data, shuffled.set_axis([0] * 442))


def test_groups_are_enumerated_with_everything_unknown():
    x, y = problem("independent", 40, 4, 0)
    found = infer_inclusion(SpikeSlabRegression(x, y, groups=["a", "a", "b", "c"]))
    single = exact_posterior(x, y)
    kept = [m for m in range(16) if (m & 1) == (m >> 1 & 1)]  # x0 and x1 together
    probs = np.exp(single.log_probs[kept]) / np.exp(single.log_probs[kept]).sum()
    expected = [probs[[bool(m >> bit & 1) for m in kept]].sum() for bit in (0, 2, 3)]
    np.testing.assert_allclose(found.inclusion, expected, atol=1e-8)
    assert found.best_model == [
        name for name, bit in zip("abc", (0, 2, 3), strict=True) if kept[int(probs.argmax())] >> bit & 1
    ]
    assert found.summary()["group"].tolist() == ["a", "a", "b", "c"]


@pytest.mark.parametrize("share", [0.3, torch.distributions.Beta(1.0, 2.0)])
def test_groups_are_sampled(share):
    """Nine gates of one to three columns that are correlated; against enumeration."""
    x, y = problem("equicorrelated", 40, 18, 3)
    groups = [*"aabcccdeeffghhhiii"]
    model = SpikeSlabRegression(x, y, groups=groups, inclusion=share)
    exact, found = infer_inclusion(model, "exact"), infer_inclusion(model, "gibbs", draws=1500)
    assert np.abs(found.inclusion - exact.inclusion).max() < 0.05
    np.testing.assert_allclose(found.table["mean"], exact.table["mean"], atol=0.1 * exact.table["sd"].max())
    np.testing.assert_allclose(found.table["sd"], exact.table["sd"], atol=0.1 * exact.table["sd"].max())
    np.testing.assert_allclose(found.sizes, exact.sizes, atol=0.06)
    assert found.table["mcse"].tolist() == found.table.groupby("group")["mcse"].transform("first").tolist()
    assert found.best_model == exact.best_model


def test_columns_of_a_group_that_are_collinear():
    """All levels of a category have a column: their sum is constant."""
    rng = np.random.default_rng(0)
    level, other = rng.integers(4, size=60), rng.normal(size=(60, 2))
    x = np.c_[np.eye(4)[level], other, other[:, 0] + other[:, 1]]
    y = np.array([0.0, 1.0, -1.0, 0.3])[level] + 0.4 * other[:, 0] + rng.normal(size=60)
    model = SpikeSlabRegression(x, y, groups=[*"ccccabd"])
    exact, found = infer_inclusion(model, "exact"), infer_inclusion(model, "gibbs", draws=800)
    assert np.abs(found.inclusion - exact.inclusion).max() < 0.04


@pytest.mark.parametrize("noise", [None, 1.0])
def test_a_learned_slab_is_the_one_under_which_the_data_are_most_probable(noise):
    """By evidence under given slabs where the noise is known; by what the sampler and enumeration say of each other."""
    x, y = problem("independent", 60, 8, 2)
    model = SpikeSlabRegression(x, y, noise_scale=noise, slab="learned", inclusion=0.4)
    exact, found = infer_inclusion(model, "exact"), infer_inclusion(model, "gibbs", draws=800)
    learned = exact.scales.loc["slab_scale", "mean"]
    assert exact.scales.loc["slab_scale", "sd"] == pytest.approx(0, abs=1e-9)
    assert found.scales.loc["slab_scale", "mean"] == pytest.approx(learned, rel=0.1)
    assert np.abs(found.inclusion - exact.inclusion).max() < 0.03
    if noise:
        evidence = [exact_posterior(x, y, noise, learned * by, 0.4).log_evidence for by in (0.9, 1.0, 1.1)]
        assert max(evidence) == evidence[1] == pytest.approx(exact.log_evidence, abs=1e-6)


def test_a_learned_slab_that_has_nothing_to_learn_from():
    rng = np.random.default_rng(5)
    x, y = rng.normal(size=(40, 3)), rng.normal(size=40)
    y -= np.c_[np.ones(40), x] @ np.linalg.lstsq(np.c_[np.ones(40), x], y, rcond=None)[0]
    with pytest.warns(UntrustedPosteriorWarning, match="the narrowest or the widest slab there is"):
        infer_inclusion(SpikeSlabRegression(x, y, slab="learned"))


def model_of(p=4, **options):
    x, y = problem("independent", 60, p, 0)
    y = y > 0 if options.get("likelihood") == "bernoulli" else y
    return SpikeSlabRegression(x, y, **options)


@pytest.mark.parametrize(
    ("model", "method"),
    [
        (model_of, "exact"),
        (lambda: model_of(15), "gibbs"),
        (lambda: model_of(likelihood="bernoulli"), "exact"),
        (lambda: model_of(11, likelihood="bernoulli"), "gibbs"),
        (lambda: model_of(4, slab="learned"), "exact"),
        (lambda: model_of(4, slab="learned", likelihood="bernoulli"), "importance"),
        (lambda: model_of(16, groups=[*"aabcdefghijklmno"]), "gibbs"),
    ],
)
def test_what_is_chosen(model, method):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UntrustedPosteriorWarning)
        assert infer_inclusion(model(), draws=200).method == method


@pytest.mark.parametrize(
    ("options", "method", "message"),
    [
        (
            {"slab": "learned", "likelihood": "bernoulli"},
            "gibbs",
            "method='gibbs' learns a slab for likelihood='gaussian' only. Use slab='unit-information'",
        ),
        ({"slab": "learned", "likelihood": "bernoulli"}, "exact", "method='exact' learns a slab for"),
        ({"p": 21}, "exact", "method='exact' is for up to 20 gates; got 21. Use 'gibbs'"),
        (
            {"p": 2400},
            "gibbs",
            "inclusion: under this prior 1200 of 2400 columns are expected, too many to sample. Give",
        ),
    ],
)
def test_what_cannot_be(options, method, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        infer_inclusion(model_of(**options), method)


def test_chains_to_compare():
    with pytest.raises(ValueError, match="chains at least 2; got 1"):
        infer_inclusion(model_of(), "gibbs", chains=1)
