"""Coefficients integrated out: against enumeration, ridge regression, and quadrature."""

import numpy as np
import pytest
import torch
from scipy.integrate import dblquad, trapezoid
from scipy.special import expit
from scipy.stats import norm

from l0bayes.models import SpikeSlabRegression, exact_posterior
from l0bayes.models.collapsed import collapsed


def problem(n=40, p=4, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, p)) * [1, 10, 0.1, 1][:p] + rng.normal(size=(n, 1))
    return x, x[:, 0] - 0.1 * x[:, 1] + rng.normal(size=n) + 7


def all_gates(gates):
    models = torch.arange(2**gates)
    return (models[:, None] >> torch.arange(gates) & 1).double()


def test_gaussian_marginals_are_those_of_enumeration():
    x, y = problem()
    model = SpikeSlabRegression(x, y, noise_scale=0.8, slab_scale=0.6, inclusion=0.3)
    exact = exact_posterior(x, y, 0.8, 0.6, 0.3)
    found = collapsed(model).log_joint(all_gates(4)).log_softmax(0)
    np.testing.assert_allclose(found, exact.log_probs, atol=1e-9)


def test_moments_are_those_of_ridge_regression():
    x, y = problem()
    it = collapsed(SpikeSlabRegression(x, y, noise_scale=0.8, slab_scale=0.6))
    gates = all_gates(4)
    mean, sd = (values.numpy() for values in it.posterior(gates)[1:])
    xc, yc, spread = x - x.mean(0), y - y.mean(), x.std(0)
    for row, inside in enumerate(gates.bool().numpy()):
        covariance = np.linalg.inv(xc[:, inside].T @ xc[:, inside] / 0.64 + np.eye(inside.sum()) / 0.36)
        expected = covariance @ xc[:, inside].T @ yc / 0.64
        np.testing.assert_allclose(mean[row, inside] / spread[inside], expected, rtol=1e-8)
        np.testing.assert_allclose(sd[row, inside] / spread[inside], np.sqrt(np.diag(covariance)), rtol=1e-8)
        assert (mean[row, ~inside] == 0).all()
        assert (sd[row, ~inside] == 0).all()


def test_a_group_is_open_as_a_whole():
    x, y = problem()
    whole = SpikeSlabRegression(x, y, noise_scale=1.0, groups=["a", "a", "b", "c"])
    single = SpikeSlabRegression(x, y, noise_scale=1.0)
    for gates, columns in (((1, 0, 0), (1, 1, 0, 0)), ((0, 1, 1), (0, 0, 1, 1))):
        one, other = (
            collapsed(model).posterior(torch.tensor([values]).double())
            for model, values in ((whole, gates), (single, columns))
        )
        for found, expected in zip(one, other, strict=True):
            torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("likelihood", ["bernoulli", "poisson"])
def test_laplaces_method_against_quadrature(likelihood):
    """Its error is of the order of 1/n; log Bayes factors of one predictor are right to 0.03 nats."""
    rng = np.random.default_rng(3)
    x = rng.normal(size=120)
    eta = 0.3 + 0.5 * x
    y = rng.binomial(1, expit(eta)) if likelihood == "bernoulli" else rng.poisson(np.exp(eta))
    model = SpikeSlabRegression(x[:, None], y, likelihood=likelihood, slab_scale=0.7)
    it = collapsed(model)
    xc = x - x.mean()

    def log_lik(a, b):
        output = a + b * xc
        return (y * output - (np.exp(output) if likelihood == "poisson" else np.logaddexp(0, output))).sum()

    centre = model.intercept.item()
    beta = it.posterior(torch.ones(1, 1).double())[1].item() / x.std()
    peak = log_lik(centre, beta)

    def density(b, a):
        return np.exp(log_lik(a, b) - peak) * norm.pdf(b, scale=0.7)

    box = (centre - 1.5, centre + 1.5, beta - 1.5, beta + 1.5)
    with_it = dblquad(density, *box, epsabs=1e-7)[0]
    moment = dblquad(lambda b, a: b * density(b, a), *box, epsabs=1e-7)[0] / with_it
    second = dblquad(lambda b, a: b * b * density(b, a), *box, epsabs=1e-7)[0] / with_it
    grid = np.linspace(centre - 2, centre + 2, 4001)
    without = trapezoid([np.exp(log_lik(a, 0.0) - peak) for a in grid], grid)
    found = it.posterior(torch.tensor([[0.0], [1.0]]).double())
    log_factor = float(found[0][1] - found[0][0])
    assert log_factor == pytest.approx(np.log(with_it / without), abs=0.03)
    assert float(found[1][1] / x.std()) == pytest.approx(moment, abs=0.02)
    assert float(found[2][1] / x.std()) == pytest.approx(np.sqrt(second - moment**2), rel=0.03)


@pytest.mark.parametrize("likelihood", ["bernoulli", "poisson"])
def test_the_quadratic_touches_the_log_likelihood_at_its_mode(likelihood):
    x, y = problem(n=80)
    y = (y > np.median(y)).astype(int) if likelihood == "bernoulli" else np.random.default_rng(0).poisson(2.0, 80)
    model = SpikeSlabRegression(x, y, likelihood=likelihood, slab_scale=1.0)
    it = collapsed(model)
    quadratic, mode = it.quadratic(), it.posterior(torch.ones(1, 4).double())[1][0]
    unknown = torch.zeros(5, dtype=torch.float64)
    parts = model.parts()
    design = torch.cat([torch.ones(len(y), 1).double(), parts.x], 1)

    def log_lik(values):
        output = design @ values
        of_output = output.exp() if likelihood == "poisson" else torch.nn.functional.softplus(output)
        return (parts.y * output - of_output).sum()

    unknown[1:] = mode
    for _ in range(50):  # the intercept's mode, by Newton's method
        unknown[0] -= float(
            torch.autograd.functional.jacobian(log_lik, unknown)[0]
            / torch.autograd.functional.hessian(log_lik, unknown)[0, 0]
        )
    gradient = torch.autograd.functional.jacobian(log_lik, unknown)
    hessian = torch.autograd.functional.hessian(log_lik, unknown)
    profiled = hessian[1:, 1:] - torch.outer(hessian[1:, 0], hessian[0, 1:]) / hessian[0, 0]
    torch.testing.assert_close(quadratic.vector - quadratic.matrix @ mode, gradient[1:])
    torch.testing.assert_close(quadratic.matrix, -profiled)


def test_separable_classes_have_a_mode():
    x = np.linspace(-1, 1, 20)[:, None]
    it = collapsed(SpikeSlabRegression(x, (x[:, 0] > 0).astype(int), likelihood="bernoulli", slab_scale=3.0))
    assert all(torch.isfinite(value).all() for value in it.posterior(torch.ones(1, 1).double()))
