"""The sampler's state and its moves: against dense algebra, a sampler written differently, and Geweke's joint test."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from plain_gibbs import plain_gibbs
from torch.distributions import Beta

from l0bayes.inference import infer_inclusion
from l0bayes.inference.regression.active_sets import ActiveSets
from l0bayes.inference.regression.chains import Path
from l0bayes.inference.regression.gibbs_chains import GibbsChains
from l0bayes.models import SpikeSlabRegression
from l0bayes.models import column_products as products
from l0bayes.models.column_products import ColumnProducts
from l0bayes.models.gate_members import GateMembers
from l0bayes.models.set_prior import SetPrior
from l0bayes.models.unknown_scales import given_slab, relative_slab


def problem(n=30, p=12, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, p)) + rng.normal(size=(n, 1))
    y = x[:, 0] - 0.5 * x[:, 1] + rng.normal(size=n)
    return x - x.mean(0), y - y.mean()


SCALES = {
    "all known": lambda x, y: given_slab(x, y, 1.3, np.full(x.shape[1], 0.7)),
    "noise unknown": lambda x, y: given_slab(x, y, None, np.full(x.shape[1], 0.7)),
    "slab unknown": lambda x, y: relative_slab(x, y, 1.3),
    "both unknown": lambda x, y: relative_slab(x, y, None),
}


def log_marginal(scales, inside, level):
    """Of a set given λ, by dense algebra."""
    z, y, penalty = scales.z[:, inside], scales.y, scales.levels[level]
    matrix = z.T @ z + penalty * np.eye(z.shape[1])
    rss = y @ y - (z.T @ y) @ np.linalg.solve(matrix, z.T @ y)
    log_det = np.linalg.slogdet(matrix)[1] - z.shape[1] * np.log(penalty)
    return -0.5 * log_det + scales.log_lik(rss, penalty)


GATES = {"a gate a column": np.arange(12), "groups": np.array([0, 1, 1, 0, 2, 3, 3, 3, 4, 5, 6, 6])}


@pytest.mark.parametrize("gates", GATES)
@pytest.mark.parametrize("name", SCALES)
@pytest.mark.parametrize("shared", [True, False])
def test_odds_of_every_flip_are_those_of_dense_algebra(name, shared, gates):
    """After a hundred flips, none of which computed anything anew; and the coefficients of what is there."""
    x, y = problem()
    scales, rng, members = SCALES[name](x, y), np.random.default_rng(1), GateMembers(GATES[gates])
    number = members.gates
    prior = SetPrior(Beta(1.5, 4.0) if shared else torch.linspace(0.1, 0.6, number).double(), number)
    chains = GibbsChains(scales, prior, members, rng.uniform(size=(3, number)) < 0.3, rng)
    for _ in range(100):
        chains.sets.flip(np.array([0, 2]), rng.integers(number, size=2))
    odds, _, entries = chains._log_odds(np.arange(3))
    means = members.by_column(entries.value)
    for chain in range(3):
        opened, level = chains.sets.inside[chain, :-1], chains.sets.level[chain]
        inside = opened[members.gate_of[:-1]]
        assert sorted(set(chains.sets.slots[chain]) - {12}) == inside.nonzero()[0].tolist()
        z = scales.z[:, inside]
        ridge = np.linalg.solve(z.T @ z + scales.levels[level] * np.eye(z.shape[1]), z.T @ scales.y)
        np.testing.assert_allclose(means[chain, inside], ridge, atol=1e-8)
        for gate in range(number):
            joint = []
            for there in (False, True):
                other = opened.copy()
                other[gate] = there
                log_prior = float(prior.log_prob(torch.as_tensor(other).double()[None])[0])
                joint.append(log_marginal(scales, other[members.gate_of[:-1]], level) + log_prior)
            assert odds[chain, gate] == pytest.approx(joint[1] - joint[0], abs=1e-8)


def test_products_from_the_data_are_those_of_the_gram_matrix(monkeypatch):
    x, y = problem(n=10, p=30)
    scales, rng = relative_slab(x, y, None), np.random.default_rng(0)
    with_gram = ColumnProducts(scales)
    monkeypatch.setattr(products, "_MOST_FOR_GRAM", 5)
    from_data = ColumnProducts(scales)
    monkeypatch.setattr(products, "_SMALL", 5)
    columns, weights = rng.integers(31, size=(4, 6)), rng.normal(size=(4, 6))
    for one in (with_gram, from_data):
        np.testing.assert_allclose(one.within(columns), with_gram.within(columns), atol=1e-9)
        np.testing.assert_allclose(one.with_all(columns[0]), with_gram.with_all(columns[0]), atol=1e-9)
        np.testing.assert_allclose(one.combined(weights, columns), with_gram.combined(weights, columns), atol=1e-9)
        first = columns[:, 0]
        np.testing.assert_allclose(one.between(first, columns), with_gram.between(first, columns), atol=1e-9)


def test_collinear_columns_stay_finite():
    x, y = problem(n=8, p=6)
    x = np.c_[x, x[:, :3], x[:, 0] - x[:, 1]]
    scales, rng = relative_slab(x, y, None), np.random.default_rng(0)
    sets = ActiveSets(
        scales, ColumnProducts(scales), GateMembers(np.arange(10)), np.zeros((2, 10), dtype=bool), np.full(2, 60)
    )
    for _ in range(300):
        sets.flip(np.arange(2), rng.integers(10, size=2))
    found = sets.schur.copy(), sets.moment.copy(), sets.rss.copy()
    sets.rebuild(np.arange(2))
    for one, other in zip(found, (sets.schur, sets.moment, sets.rss), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("correlation", [0.0, 0.9])
def test_a_sampler_written_differently(correlation):
    """20 columns; errors of the plain chain are about 0.02, five standard errors of both together 0.12."""
    rng = np.random.default_rng(4)
    x = np.sqrt(1 - correlation) * rng.normal(size=(40, 20)) + np.sqrt(correlation) * rng.normal(size=(40, 1))
    y = x[:, :3] @ [1.0, 0.7, 0.5] + rng.normal(size=40)
    scaled = (x - x.mean(0)) / x.std(0)
    plain = plain_gibbs(scaled, y - y.mean(), lambda inside: inside.sum() * np.log(0.2 / 0.8), sweeps=1000, seed=0)
    found = infer_inclusion(SpikeSlabRegression(x, y, inclusion=0.2), "gibbs", draws=1500)
    assert np.abs(found.inclusion - plain).max() < 0.12
    assert np.abs(found.inclusion - plain).mean() < 0.02


def test_exchanges_leave_the_posterior_given_the_size_as_it_is():
    """With propensities that differ; 12,800 draws, which depend on each other little, of ten sets."""
    x, y = problem(p=5)
    scales, rng = given_slab(x, 0.3 * y, 1.0, np.ones(5)), np.random.default_rng(0)
    starts = np.zeros((64, 5), dtype=bool)
    starts[:, :2] = True
    chains = GibbsChains(
        scales, SetPrior(torch.tensor([0.1, 0.5, 0.3, 0.4, 0.2]).double(), 5), GateMembers(np.arange(5)), starts, rng
    )
    chains.propensity[:-1] = [3.0, 0.1, 1.0, 0.5, 0.2]
    seen = np.zeros(32)
    for step in range(220):
        chains._exchange(np.arange(64))
        if step >= 20:
            seen += np.bincount(chains.sets.inside[:, :5] @ (1 << np.arange(5)), minlength=32)
    sets = np.array([m for m in range(32) if m.bit_count() == 2])
    inside = (sets[:, None] >> np.arange(5) & 1).astype(bool)
    prior = chains.prior.log_prob(torch.as_tensor(inside).double()).numpy()
    joint = np.array([log_marginal(scales, row, 0) for row in inside]) + prior
    expected = np.exp(joint - np.logaddexp.reduce(joint))
    assert seen[sets].sum() == seen.sum()
    np.testing.assert_allclose(seen[sets] / seen.sum(), expected, atol=0.02)
    assert expected.max() < 0.5


def held(chains, length, rng):
    """The state after so much time: each is held for an exponential time, whose mean is its weight."""
    path, sums, clock = Path(), chains.sums(), 0.0
    while clock < length:
        chains.step(sums, path)
        clock += rng.exponential(path.weights[-1][0])
    columns = path.slots[-1][0]
    inside = np.zeros(chains.products.p, dtype=bool)
    inside[columns[columns < len(inside)]] = True
    return inside, path.levels[-1][0]


@pytest.mark.parametrize("shared", [True, False])
def test_gewekes_joint_test(shared):
    """Data from what is unknown, what is unknown from data, in turn: its distribution stays the prior.

    Seven means, with batch standard errors: |z| > 4.5 once in some 20,000 runs.
    """
    n, p, rng = 12, 4, np.random.default_rng(7)
    x = rng.normal(size=(n, p)) + rng.normal(size=(n, 1))
    x = (x - x.mean(0)) / x.std(0)
    prior = SetPrior(Beta(1.0, 2.0) if shared else torch.full((p,), 0.35).double(), p)
    # A slab so wide that data give everything away would make for a chain that hardly moves.
    levels, probs = np.array([0.5, 1.0, 3.0]), np.array([0.3, 0.3, 0.4])
    inside, level = rng.uniform(size=p) < 1 / 3, rng.choice(len(probs), p=probs)
    seen = []
    for _ in range(900):
        slopes = inside * rng.normal(size=p) / np.sqrt(levels[level])
        y = x @ slopes + rng.normal(size=n)
        scales = replace(relative_slab(x, y - y.mean(), 1.0), levels=levels, log_weights=np.log(probs))
        chains = GibbsChains(scales, prior, GateMembers(np.arange(len(scales.z[0]))), inside[None], rng)
        chains.propensity[:-1] = [3.0, 0.1, 1.0, 0.5]  # as a warm-up may have left them
        inside, level = held(chains, 1.0, rng)
        seen.append([*inside, inside.sum() ** 2, level == 0, level == 1])
    of_size = np.exp([float(prior.log_prob(torch.eye(p).double()[:k].sum(0, keepdim=True))) for k in range(p + 1)])
    of_size *= [1, 4, 6, 4, 1]
    expected = [*[of_size @ np.arange(p + 1) / p] * p, of_size @ np.arange(p + 1) ** 2]
    expected += [*probs[:2]]
    batches = np.array(seen).reshape(30, -1, len(expected)).mean(1)
    z = (batches.mean(0) - expected) / (batches.std(0, ddof=1) / np.sqrt(30))
    assert np.abs(z).max() < 4.5, z
