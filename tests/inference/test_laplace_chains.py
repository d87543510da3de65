"""Sampling of logistic and Poisson regressions: against enumeration, and against a sampler of the coefficients."""

import numpy as np
import pytest
import torch
from scipy.special import expit

from l0bayes.inference import infer_inclusion
from l0bayes.inference.regression.laplace_chains import LaplaceChains, VisitedSets
from l0bayes.models import SpikeSlabRegression
from l0bayes.models.collapsed import collapsed
from l0bayes.models.gate_members import GateMembers
from l0bayes.models.laplace import LaplaceRegression
from l0bayes.models.set_prior import SetPrior


def problem(likelihood, n=120, p=9, correlation=0.6, seed=1):
    rng = np.random.default_rng(seed)
    x = np.sqrt(1 - correlation) * rng.normal(size=(n, p)) + np.sqrt(correlation) * rng.normal(size=(n, 1))
    eta = x[:, :3] @ [1.2, -0.8, 0.5]
    return x, rng.binomial(1, expit(eta)) if likelihood == "bernoulli" else rng.poisson(np.exp(0.4 * eta))


@pytest.mark.parametrize("groups", [None, [*"aabcccdee"]])
@pytest.mark.parametrize("likelihood", ["bernoulli", "poisson"])
@pytest.mark.parametrize("share", [0.3, torch.distributions.Beta(1.0, 2.0)])
def test_enumeration(likelihood, groups, share):
    x, y = problem(likelihood)
    model = SpikeSlabRegression(x, y, likelihood=likelihood, groups=groups, inclusion=share)
    exact, found = infer_inclusion(model, "exact"), infer_inclusion(model, "gibbs", draws=1000)
    off = np.abs(found.table["inclusion"] - exact.table["inclusion"])
    assert off.max() < 0.05
    assert (off < 6 * found.table["mcse"] + 2e-3).all()
    np.testing.assert_allclose(found.table["mean"], exact.table["mean"], atol=0.1 * exact.table["sd"].max())
    np.testing.assert_allclose(found.table["sd"], exact.table["sd"], atol=0.1 * exact.table["sd"].max())
    np.testing.assert_allclose(found.sizes, exact.sizes, atol=0.06)


@pytest.mark.parametrize("groups", [np.arange(9), np.array([0, 0, 1, 2, 2, 2, 3, 4, 4])])
def test_guesses_are_those_of_a_quadratic_about_the_mode(groups):
    """What it says of what is there: the coefficients' normal, taken at 0. Of what is not: one step of Newton's."""
    x, y = problem("bernoulli")
    model = SpikeSlabRegression(x, y, likelihood="bernoulli", slab_scale=0.7)
    regression, members = LaplaceRegression(model), GateMembers(groups)
    prior = SetPrior(torch.full((members.gates,), 0.5).double(), members.gates)
    state = VisitedSets(regression, prior, members).of([(0, 2)], [None])[0]
    slots = np.array([state.columns])
    modes = regression.modes(slots)
    for gate in range(members.gates):
        columns = (groups == gate).nonzero()[0]
        precision = regression.precision[columns]
        if gate in (0, 2):
            at = 1 + np.searchsorted(state.columns, columns)
            beta, covariance = modes.coefficients[0, at], modes.inverse[0][np.ix_(at, at)]
            log_det = -np.linalg.slogdet(covariance)[1]
            explained = beta @ np.linalg.solve(covariance, beta)
        else:
            mean, weight = regression.mean_and_weight(modes.output[0])
            z = np.concatenate([regression.design(slots)[0], regression.rows[columns]])
            hessian = (z * weight) @ z.T + np.diag([0, *regression.precision[state.columns], *precision])
            within = np.linalg.inv(hessian)[-len(columns) :, -len(columns) :]
            score = regression.rows[columns] @ (y - mean)
            log_det, explained = -np.linalg.slogdet(within)[1], score @ within @ score
        expected = 0.5 * (np.log(precision).sum() - log_det + explained)
        assert state.odds[gate] == pytest.approx(expected, abs=1e-4)


def coefficient_sampler(x, y, slab, share, *, sweeps):
    """Metropolis over coefficients and indicators themselves, nothing integrated: births, deaths and small steps."""
    rng = np.random.default_rng(0)
    p = x.shape[1]
    beta, intercept, output = np.zeros(p), 0.0, np.zeros(len(y))
    seen = np.zeros(p)

    def log_lik(output):
        return (y * output - np.logaddexp(0, output)).sum()

    current = log_lik(output)
    for sweep in range(sweeps):
        for j in range(p + 1):
            for move in range(2):
                value = intercept if j == p else beta[j]
                if j == p or (move and value):
                    new = value + 0.4 * rng.normal()
                    log_ratio = 0.0 if j == p else 0.5 * (value**2 - new**2) / slab**2
                elif not move:
                    # Births from the prior: its density cancels.
                    new = 0.0 if value else slab * rng.normal()
                    log_ratio = np.log(share / (1 - share)) * (-1 if value else 1)
                else:
                    continue
                column = np.ones(len(y)) if j == p else x[:, j]
                moved = output + (new - value) * column
                theirs = log_lik(moved)
                if np.log(rng.uniform()) < theirs - current + log_ratio:
                    output, current = moved, theirs
                    if j == p:
                        intercept = new
                    else:
                        beta[j] = new
        if sweep >= sweeps // 10:
            seen += beta != 0
    return seen / (sweeps - sweeps // 10)


def test_a_sampler_that_integrates_nothing():
    """Laplace's method at 60 rows, and the chains; the other sampler has errors of about 0.015."""
    rng = np.random.default_rng(3)
    x = rng.normal(size=(60, 4))
    y = rng.binomial(1, expit(x[:, 0] - 0.4 * x[:, 1]))
    x = (x - x.mean(0)) / x.std(0)
    other = coefficient_sampler(x, y, 1.0, 0.4, sweeps=6000)
    found = infer_inclusion(
        SpikeSlabRegression(x, y, likelihood="bernoulli", slab_scale=1.0, inclusion=0.4), "gibbs", draws=1000
    )
    np.testing.assert_allclose(found.inclusion, other, atol=0.07)


def test_a_plain_chain_over_sets():
    """16 columns, its marginals from the implementation for all columns; errors of about 0.02."""
    x, y = problem("poisson", p=16, n=80)
    model = SpikeSlabRegression(x, y, likelihood="poisson", inclusion=0.15)
    regression, rng, seen = collapsed(model), np.random.default_rng(0), {}

    def log_joint(inside):
        key = inside.tobytes()
        if key not in seen:
            seen[key] = float(regression.log_joint(torch.as_tensor(inside[None]).double())[0])
        return seen[key]

    inside, total = np.zeros(16, dtype=bool), np.zeros(16)
    current = log_joint(inside)
    for step in range(7000):
        other = inside.copy()
        if step % 2 and 0 < inside.sum() < 16:
            other[[rng.choice(inside.nonzero()[0]), rng.choice((~inside).nonzero()[0])]] ^= True
        else:
            other[rng.integers(16)] ^= True
        theirs = log_joint(other)
        if np.log(rng.uniform()) < theirs - current:
            inside, current = other, theirs
        if step >= 1000:
            total += inside
    found = infer_inclusion(model, "gibbs", draws=1000)
    assert np.abs(found.inclusion - total / 6000).max() < 0.12
    assert np.abs(found.inclusion - total / 6000).mean() < 0.025


def test_what_is_forgotten_is_computed_again():
    x, y = problem("bernoulli")
    model = SpikeSlabRegression(x, y, likelihood="bernoulli")
    members, prior = GateMembers(np.arange(9)), SetPrior(torch.full((9,), 0.3).double(), 9)
    runs = []
    for most in (10, 10_000):
        chains = LaplaceChains(
            LaplaceRegression(model), prior, members, np.zeros((4, 9), dtype=bool), np.random.default_rng(0)
        )
        chains.visited._most = most
        sums = chains.sums()
        for _ in range(100):
            chains.step(sums)
        runs.append((sums.inclusion, chains.visited.evaluations))
    np.testing.assert_allclose(runs[0][0], runs[1][0], atol=1e-5)
    assert runs[0][1] > runs[1][1]
