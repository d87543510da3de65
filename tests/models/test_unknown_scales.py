"""Noise, slab and prior inclusion integrated out: against quadrature over dense normals, without any grid of ours."""

import math

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.linalg import null_space
from scipy.special import betaln
from scipy.stats import invgamma, multivariate_normal

from l0bayes.inference import infer_inclusion
from l0bayes.models import SpikeSlabRegression, exact_inclusion, exact_posterior

SUBSETS = [[j for j in range(3) if model >> j & 1] for model in range(8)]


def problem(n=9, p=3, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, p)) * [1, 10, 0.1][:p] + rng.normal(size=(n, 1))
    return x, x[:, 0] - 0.5 * x[:, 2] + 1.3 * rng.normal(size=n) + 3


def rotated(x, y):
    """In the directions orthogonal to the intercept; its flat prior adds -log(n) / 2."""
    basis = null_space(np.ones((1, len(y))))
    return basis.T @ x, basis.T @ y


def quadrature(log_integrand, points=None):
    peak = max(log_integrand(t) for t in np.linspace(-12, 16, 400))
    return peak + math.log(quad(lambda t: math.exp(log_integrand(t) - peak), -14, 24, limit=400, points=points)[0])


def t_density(z, covariance):
    """Log ∫ N(z; 0, σ² V) dσ²/σ²."""
    half = len(z) / 2
    quadratic = z @ np.linalg.solve(covariance, z)
    return (
        math.lgamma(half) - half * math.log(math.pi) - np.linalg.slogdet(covariance)[1] / 2 - half * math.log(quadratic)
    )


def zellner_siow(x, y, inside):
    """Log p(y | set), noise and slab unknown."""
    z, target = rotated(x[:, inside] / x[:, inside].std(0), y)

    def log_integrand(log_v):
        v = math.exp(log_v)
        return t_density(target, np.eye(len(target)) + v * z @ z.T) + invgamma.logpdf(v, 0.5, scale=0.5) + log_v

    if not inside:
        return t_density(target, np.eye(len(target))) - 0.5 * math.log(len(y))
    return quadrature(log_integrand) - 0.5 * math.log(len(y))


def unknown_noise(x, y, inside, slab):
    """Log p(y | set), a slab in the user's units."""
    z, target = rotated(x[:, inside], y)
    outer = slab**2 * z @ z.T

    def log_integrand(log_variance):
        covariance = math.exp(log_variance) * np.eye(len(target)) + outer
        return multivariate_normal(cov=covariance).logpdf(target)

    return quadrature(log_integrand) - 0.5 * math.log(len(y))


def by_hand(log_marginals, inclusion=0.5):
    joint = np.array(
        [
            one + len(inside) * math.log(inclusion) + (3 - len(inside)) * math.log1p(-inclusion)
            for one, inside in zip(log_marginals, SUBSETS, strict=True)
        ]
    )
    evidence = np.logaddexp.reduce(joint)
    return joint - evidence, evidence


@pytest.mark.parametrize("seed", range(2))
def test_noise_and_slab_unknown(seed):
    x, y = problem(seed=seed)
    log_probs, evidence = by_hand([zellner_siow(x, y, inside) for inside in SUBSETS], 0.3)
    found = exact_posterior(x, y, inclusion=0.3)
    np.testing.assert_allclose(found.log_probs, log_probs, atol=2e-3)
    assert found.log_evidence == pytest.approx(evidence, abs=2e-3)
    assert found.bayes_factor(["x0", "x2"], ["x1"], log=True) == pytest.approx(
        zellner_siow(x, y, [0, 2]) - zellner_siow(x, y, [1]), abs=2e-3
    )


def test_noise_unknown_and_a_slab_in_the_users_units():
    x, y = problem(n=14)
    log_probs, evidence = by_hand([unknown_noise(x, y, inside, 0.7) for inside in SUBSETS])
    found = exact_posterior(x, y, slab_scale=0.7)
    np.testing.assert_allclose(found.log_probs, log_probs, atol=5e-3)
    assert found.log_evidence == pytest.approx(evidence, abs=5e-3)


def test_means_with_noise_and_slab_unknown():
    """E β = Σ over models of ∫ p(v | y, model) E[β | y, model, v] dv."""
    x, y = problem()
    xc, yc, spread = x - x.mean(0), y - y.mean(), x.std(0)
    found = exact_posterior(x, y, inclusion=0.3)
    mean = np.zeros(3)
    for log_prob, inside in zip(found.log_probs, SUBSETS, strict=True):
        if inside:
            z, target = rotated(x[:, inside] / spread[inside], y)
            grid = np.linspace(-10, 20, 3000)
            weights = [
                t_density(target, np.eye(len(target)) + math.exp(t) * z @ z.T)
                + invgamma.logpdf(math.exp(t), 0.5, scale=0.5)
                + t
                for t in grid
            ]
            weights = np.exp(weights - np.logaddexp.reduce(weights))
            gram, moment = xc[:, inside].T @ xc[:, inside], xc[:, inside].T @ yc
            ridges = [np.linalg.solve(gram + np.diag(spread[inside] ** 2 / math.exp(t)), moment) for t in grid]
            mean[inside] += math.exp(log_prob) * weights @ np.array(ridges)
    np.testing.assert_allclose(found.mean, mean, atol=2e-3)


def test_a_beta_prior_and_all_else_unknown():
    x, y = problem()
    prior = torch.distributions.Beta(2.0, 3.0)
    joint = [
        zellner_siow(x, y, inside) + betaln(2 + len(inside), 3 + 3 - len(inside)) - betaln(2, 3) for inside in SUBSETS
    ]
    found = exact_posterior(x, y, inclusion=prior)
    np.testing.assert_allclose(found.log_probs, joint - np.logaddexp.reduce(joint), atol=2e-3)


@pytest.mark.parametrize("method", ["exact", "gibbs"])
@pytest.mark.parametrize("noise", [None, 1.3])
def test_units_make_no_difference(method, noise):
    x, y = problem(n=40)
    factors, factor = np.array([1000.0, 1e-3, 7.0]), 50.0
    scaled = None if noise is None else noise * factor
    here = infer_inclusion(SpikeSlabRegression(x, y, noise_scale=noise), method, draws=400)
    there = infer_inclusion(SpikeSlabRegression(x * factors, y * factor, noise_scale=scaled), method, draws=400)
    np.testing.assert_allclose(there.inclusion, here.inclusion, rtol=1e-9)
    np.testing.assert_allclose(there.table["mean"] * factors / factor, here.table["mean"], rtol=1e-7)
    np.testing.assert_allclose(there.predict(x[:3] * factors) / factor, here.predict(x[:3]), rtol=1e-6)
    if method == "exact":
        np.testing.assert_allclose(exact_inclusion(x, y, noise), here.inclusion, rtol=1e-9)


def test_a_slab_in_units_does_depend_on_them():
    """The old default, by asking for it."""
    x, y = problem(n=40)
    here, there = (exact_inclusion(x * factor, y, slab_scale=1.0) for factor in (1.0, 1000.0))
    assert np.abs(here - there).max() > 0.3


def test_unit_information_is_a_slab_of_variance_one():
    x, y = problem(n=30)
    found = infer_inclusion(SpikeSlabRegression(x, y, slab="unit-information"))
    joint = []
    for inside in SUBSETS:
        z, target = rotated(x[:, inside] / x[:, inside].std(0), y)
        joint.append(t_density(target, np.eye(len(target)) + z @ z.T))
    probs = np.exp(joint - np.logaddexp.reduce(joint))
    expected = [sum(prob for prob, inside in zip(probs, SUBSETS, strict=True) if j in inside) for j in range(3)]
    np.testing.assert_allclose(found.inclusion, expected, atol=1e-9)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"slab": "learned", "slab_scale": 1.0}, "give slab_scale or slab, not both; got 1.0 and 'learned'"),
        ({"slab": "zellner-siow", "likelihood": "bernoulli"}, "slab='zellner-siow' is for likelihood='gaussian'"),
        ({"slab": "wide"}, "slab must be one of zellner-siow, unit-information, learned or None"),
    ],
)
def test_slabs_that_cannot_be(options, message):
    x, y = problem()
    with pytest.raises(ValueError, match=message):
        SpikeSlabRegression(x, y > y.mean() if "likelihood" in options else y, **options)
