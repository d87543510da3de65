"""Enumeration of all models of a linear regression, against dense algebra, published values and brute force."""

import itertools
import math
import re

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.linalg import null_space
from scipy.special import betaln
from scipy.stats import multivariate_normal
from sklearn.datasets import load_diabetes

from l0bayes.errors import DataError
from l0bayes.models import exact_inclusion, exact_posterior

# R's "attitude" (Chatterjee and Price 1977): rating, complaints, privileges, learning, raises, critical, advance.
ATTITUDE = """
43 51 30 39 61 92 45   63 64 51 54 63 73 47   71 70 68 69 76 86 48   61 63 45 47 54 84 35   81 78 56 66 71 83 47
43 55 49 44 54 49 34   58 67 42 56 66 68 35   71 75 50 55 70 66 41   72 82 72 67 71 83 31   67 61 45 47 62 80 41
64 53 53 58 58 67 34   67 60 47 39 59 74 41   69 62 57 42 55 63 25   68 83 83 45 59 77 35   77 77 54 72 79 77 46
81 90 50 72 60 54 36   74 85 64 69 79 79 63   65 60 65 75 55 80 60   65 70 46 57 75 85 46   50 58 68 54 64 78 52
50 40 33 34 43 64 33   64 61 52 62 66 80 41   53 66 52 50 63 80 37   40 37 42 58 50 57 49   63 54 42 48 66 75 33
66 77 66 63 88 76 72   78 75 58 74 80 78 49   48 57 44 45 51 83 38   85 85 71 71 77 74 55   82 82 39 59 64 78 39
"""
NAMES = ["rating", "complaints", "privileges", "learning", "raises", "critical", "advance"]


@pytest.fixture
def attitude():
    table = pd.DataFrame(np.array(ATTITUDE.split(), float).reshape(30, 7), columns=NAMES)
    return table.drop(columns="rating"), table["rating"]


def problem(n=12, p=4, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, p)) + rng.normal(size=(n, 1))
    return x, x[:, 0] - 0.7 * x[:, 2] + rng.normal(size=n) + 3


def subsets(p):
    """In the order of the models' numbers."""
    return [[j for j in range(p) if model >> j & 1] for model in range(2**p)]


def test_marginal_likelihoods_are_those_of_the_dense_normal():
    """In the directions orthogonal to the intercept, y is normal; the flat intercept adds -log(n) / 2."""
    x, y = problem()
    noise, slab, inclusion = 0.8, 0.6, 0.3
    basis = null_space(np.ones((1, len(y))))
    joint = []
    for inside in subsets(4):
        z = basis.T @ x[:, inside]
        covariance = noise**2 * np.eye(len(y) - 1) + slab**2 * z @ z.T
        log_marginal = multivariate_normal(cov=covariance).logpdf(basis.T @ y) - 0.5 * math.log(len(y))
        joint.append(log_marginal + len(inside) * math.log(inclusion) + (4 - len(inside)) * math.log1p(-inclusion))
    found = exact_posterior(x, y, noise, slab, inclusion)
    evidence = np.logaddexp.reduce(joint)
    assert found.log_evidence == pytest.approx(evidence, abs=1e-9)
    np.testing.assert_allclose(found.log_probs, joint - evidence, atol=1e-9)
    assert found.inclusion == pytest.approx(
        [sum(math.exp(joint[m] - evidence) for m, inside in enumerate(subsets(4)) if j in inside) for j in range(4)]
    )


def test_means_of_coefficients_are_those_of_ridge_regressions():
    x, y = problem()
    noise, slab = 0.8, 0.6
    xc, yc = x - x.mean(0), y - y.mean()
    found = exact_posterior(x, y, noise, slab, 0.3)
    by_hand = np.zeros(4)
    for log_prob, inside in zip(found.log_probs, subsets(4), strict=True):
        ridge = xc[:, inside].T @ xc[:, inside] + (noise / slab) ** 2 * np.eye(len(inside))
        by_hand[inside] += math.exp(log_prob) * np.linalg.solve(ridge, xc[:, inside].T @ yc)
    np.testing.assert_allclose(found.mean, by_hand, atol=1e-10)


def test_published_values_for_attitude(attitude):
    """Zellner's g-prior with g = n and a uniform prior over models."""
    found = exact_posterior(*attitude, prior="g", g=30)
    published = {
        "complaints": 0.9996,
        "learning": 0.4056,
        "advance": 0.2129,
        "privileges": 0.1738,
        "raises": 0.1666,
        "critical": 0.1536,
    }
    inclusion = dict(zip(found.names, found.inclusion, strict=True))
    assert {name: round(inclusion[name], 4) for name in published} == published
    assert found.median_model == ["complaints"]
    assert found.top_models(1)["predictors"].tolist() == [["complaints"]]


def r_squared(x, y, inside):
    design = np.column_stack([np.ones(len(y)), x[:, inside]])
    residual = y - design @ np.linalg.lstsq(design, y, rcond=None)[0]
    return 1 - residual @ residual / ((y - y.mean()) ** 2).sum()


@pytest.mark.parametrize("prior", ["g", "bic"])
def test_bayes_factors_from_r_squared(prior):
    x, y = problem()
    n, g = len(y), 7.0
    log_factors = []
    for inside in subsets(4):
        unexplained, k = 1 - r_squared(x, y, inside), len(inside)
        zellner = (n - 1 - k) / 2 * math.log(1 + g) - (n - 1) / 2 * math.log(1 + g * unexplained)
        log_factors.append(zellner if prior == "g" else -n / 2 * math.log(unexplained) - k / 2 * math.log(n))
    found = exact_posterior(x, y, prior=prior, g=g)
    np.testing.assert_allclose(found.log_probs, log_factors - np.logaddexp.reduce(log_factors), atol=1e-9)


def test_diabetes():
    x, y = load_diabetes(return_X_y=True)
    x, y = x / x.std(0), (y - y.mean()) / y.std()
    expected = [0.068, 0.988, 1, 1, 0.695, 0.486, 0.533, 0.335, 1, 0.123]
    assert exact_inclusion(x, y, noise_scale=0.7, slab_scale=0.5) == pytest.approx(expected, abs=6e-4)


def test_many_chunks_are_one():
    """p = 16 takes several chunks; columns without any signal, orthogonal, have a probability in closed form."""
    n, p, noise, slab = 64, 16, 0.5, 0.9
    basis = null_space(np.ones((1, n)))[:, :p] * math.sqrt(n)
    rng = np.random.default_rng(3)
    y = basis[:, 0] * 0.3 + rng.normal(size=n) * noise
    found = exact_posterior(basis, y, noise, slab, 0.2)
    precision, moment = n / noise**2 + 1 / slab**2, basis.T @ (y - y.mean()) / noise**2
    log_odds = np.log(0.2 / 0.8) - 0.5 * np.log(precision * slab**2) + 0.5 * moment**2 / precision
    np.testing.assert_allclose(found.inclusion, 1 / (1 + np.exp(-log_odds)), atol=1e-9)
    assert found.sizes.sum() == pytest.approx(1)
    assert found.sizes @ np.arange(p + 1) == pytest.approx(found.inclusion.sum())


def test_a_beta_prior_is_the_average_over_inclusion_probabilities():
    x, y = problem()
    found = exact_posterior(x, y, 0.8, 0.6, torch.distributions.Beta(2.0, 3.0))
    by_size = [betaln(2 + k, 3 + 4 - k) - betaln(2, 3) for k in range(5)]
    uniform = exact_posterior(x, y, 0.8, 0.6, 0.5).log_probs
    joint = uniform + [by_size[len(inside)] for inside in subsets(4)]
    np.testing.assert_allclose(found.log_probs, joint - np.logaddexp.reduce(joint), atol=1e-10)


def test_one_probability_for_each_predictor():
    x, y = problem()
    each = [0.1, 0.5, 0.9, 0.3]
    uniform = exact_posterior(x, y, 0.8, 0.6, 0.5).log_probs
    joint = uniform + [sum(math.log(p if j in inside else 1 - p) for j, p in enumerate(each)) for inside in subsets(4)]
    found = exact_posterior(x, y, 0.8, 0.6, each)
    np.testing.assert_allclose(found.log_probs, joint - np.logaddexp.reduce(joint), atol=1e-10)


def test_groups_and_top_models():
    x, y = problem()
    found = exact_posterior(pd.DataFrame(x, columns=list("abcd")), y, 0.8, 0.6, 0.3)
    for pair in itertools.combinations("abcd", 2):
        without = [not {"abcd"[j] for j in inside} & set(pair) for inside in subsets(4)]
        assert found.group_inclusion(pair) == pytest.approx(1 - np.exp(found.log_probs)[without].sum())
    assert found.group_inclusion("a") == pytest.approx(found.inclusion[0])
    table = found.top_models(16)
    assert table["probability"].is_monotonic_decreasing
    assert table["probability"].sum() == pytest.approx(1)
    assert (table["size"] == table["predictors"].map(len)).all()
    with pytest.raises(ValueError, match="'e' is none of a, b, c, d"):
        found.group_inclusion(["a", "e"])


def test_shifts_and_more_columns_than_rows():
    """The intercept takes up any shift; a normal slab needs no full rank."""
    x, y = problem(n=3, p=6)
    np.testing.assert_allclose(exact_inclusion(x + 5, y - 9, 1.0, 1.0), exact_inclusion(x, y, 1.0, 1.0), atol=1e-9)
    doubled = np.column_stack([x, x[:, 0]])
    found = exact_inclusion(doubled, y, 1.0, 1.0)
    assert found[0] == pytest.approx(found[-1])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x, y: (x * np.where(np.arange(4) == 1, 0, 1) + 2, y), "column 'x1' is constant"),
        (lambda x, y: (np.where(x == x[2, 1], np.nan, x), y), r"X must be finite; nan at (2, 1)"),
        (lambda x, y: (x, y[:-1]), "y must be of shape (12,), a response for each row; got (11,)"),
        (lambda x, y: (x[:, 0], y), "X must be of shape (rows, predictors)"),
        (lambda x, y: (np.tile(x, 6), y), "X has 24 columns, and 2^24 models are too many"),
        (lambda x, y: (np.full(x.shape, "a"), y), "X must hold numbers only"),
    ],
)
def test_bad_data(change, message):
    with pytest.raises(DataError, match=re.escape(message)):
        exact_posterior(*change(*problem()), 1.0, 1.0)


@pytest.mark.parametrize("prior", ["g", "bic"])
def test_data_that_leave_the_fit_of_the_full_model_open(prior):
    x, y = problem()
    with pytest.raises(DataError, match="not collinear"):
        exact_posterior(np.column_stack([x, x[:, 0] - x[:, 1]]), y, prior=prior)
    with pytest.raises(DataError, match="5 rows and 4 columns"):
        exact_posterior(x[:5], y[:5], prior=prior)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"noise_scale": 0.0, "slab_scale": 1.0}, "noise_scale must be a finite number > 0; got 0.0"),
        ({"slab_scale": -1.0}, "slab_scale must be a finite number > 0; got -1.0"),
        ({"noise_scale": 1.0, "slab_scale": 1.0, "inclusion": 1.0}, "inclusion must be strictly between 0 and 1"),
        ({"prior": "horseshoe"}, "prior must be one of normal, g, bic; got 'horseshoe'"),
        ({"prior": "g", "g": -1.0}, "g must be a finite number > 0; got -1.0"),
        ({"prior": "bic", "noise_scale": 1.0}, "noise_scale and slab_scale are for prior='normal'"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        exact_posterior(*problem(), **options)


@pytest.mark.parametrize("seed", range(8))
def test_probabilities_that_are_sums_of_many_are_no_larger_than_one(seed):
    """Pictures and entropies refuse 1 + 2e-16."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(60, 6))
    found = exact_posterior(x, 9 * x[:, 0] - 7 * x[:, 1] + 0.1 * rng.normal(size=60))
    assert found.inclusion.min() >= 0
    assert found.inclusion.max() <= 1
