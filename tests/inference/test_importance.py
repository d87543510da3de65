"""Importance sampling of sets of gates, and the mixture it draws from."""

import numpy as np
import pytest
import torch

from l0bayes.inference.regression.bernoulli_mixture import BernoulliMixture
from l0bayes.inference.regression.importance import WeightedGates, importance_sample, joined
from l0bayes.models import SpikeSlabRegression, exact_posterior
from l0bayes.models.collapsed import collapsed

MIXTURE = BernoulliMixture(torch.tensor([[0.1, 0.7, 0.5], [0.9, 0.2, 0.3]]).double(), torch.tensor([0.3, 0.7]).double())
EVERY = (torch.arange(8)[:, None] >> torch.arange(3) & 1).double()


def test_probabilities_of_the_mixture():
    by_hand = torch.zeros(8).double()
    for probs, share in zip(MIXTURE.probs, MIXTURE.shares, strict=True):
        by_hand += share * torch.where(EVERY.bool(), probs, 1 - probs).prod(1)
    torch.testing.assert_close(MIXTURE.log_prob(EVERY).exp(), by_hand)
    assert float(by_hand.sum()) == pytest.approx(1)


def test_draws_of_the_mixture():
    """40,000 draws; false alarms once in 10⁵ runs."""
    drawn = MIXTURE.sample(40_000, torch.Generator().manual_seed(0))
    numbers = (drawn @ torch.tensor([1.0, 2.0, 4.0]).double()).long().bincount(minlength=8)
    probs = MIXTURE.log_prob(EVERY).exp()
    assert ((numbers / 40_000 - probs).abs() < 5 * (probs * (1 - probs) / 40_000).sqrt()).all()


def test_a_refit_raises_the_weighted_likelihood_and_one_component_takes_the_weighted_mean():
    weights = torch.rand(8, generator=torch.Generator().manual_seed(1)).double()
    weights /= weights.sum()
    before = weights @ MIXTURE.log_prob(EVERY)
    assert weights @ MIXTURE.refit(EVERY, weights).log_prob(EVERY) > before
    one = BernoulliMixture(torch.full((1, 3), 0.5).double(), torch.ones(1).double())
    torch.testing.assert_close(one.refit(EVERY, weights).probs[0], weights @ EVERY, atol=1e-3, rtol=0)


def test_nothing_is_proposed_for_certain():
    certain = torch.tensor([[0.0, 1.0]]).double()
    mixture = BernoulliMixture.defensive(certain, torch.ones(1).double(), torch.tensor([0.5, 1e-9]).double())
    assert mixture.probs.min() >= 0.02
    assert mixture.probs.max() <= 0.98
    assert float(mixture.shares.sum()) == pytest.approx(1)
    assert float(mixture.shares[-1]) == pytest.approx(0.1)


@pytest.mark.parametrize("seed", range(3))
def test_inclusion_and_coefficients_are_those_of_enumeration(seed):
    """From a proposal that knows nothing; ten standard errors at 8,000 draws are about 0.05."""
    rng = np.random.default_rng(seed)
    x = 0.5 * rng.normal(size=(60, 6)) + rng.normal(size=(60, 1))
    y = x[:, 0] + 0.5 * x[:, 1] + rng.normal(size=60)
    model = SpikeSlabRegression(x, y, noise_scale=1.0, slab_scale=0.7, inclusion=0.4)
    proposal = BernoulliMixture(torch.full((2, 6), 0.5).double(), torch.full((2,), 0.5).double())
    runs = [importance_sample(collapsed(model), proposal, 4000, 2 * seed + run) for run in range(2)]
    found, exact = joined(runs), exact_posterior(x, y, 1.0, 0.7, 0.4)
    np.testing.assert_allclose(found.inclusion, exact.inclusion, atol=0.05)
    np.testing.assert_allclose(found.coefficients()[0] / model.parts().spread, exact.mean, atol=0.05)
    assert float(found.weights.sum()) == pytest.approx(1)
    assert len(found.gates.unique(dim=0)) == len(found.gates)
    best, theirs = found.top_models(list("abcdef"), 1), exact.top_models(1)
    assert best["probability"][0] == pytest.approx(theirs["probability"][0], abs=0.05)
    assert [f"x{'abcdef'.index(name)}" for name in best["gates"][0]] == theirs["predictors"][0]


def weighted(log_weights):
    number = len(log_weights)
    return WeightedGates(*[torch.ones(number, 1).double()] * 4, torch.as_tensor(log_weights).double())


def test_effective_size():
    assert weighted(np.zeros(50)).effective_size == pytest.approx(50)
    assert weighted(np.log([0.5, 0.25, 0.25])).effective_size == pytest.approx(1 / 0.375)
    assert weighted(np.array([1000.0, 0.0, -1000.0])).effective_size == pytest.approx(1)


@pytest.mark.parametrize("k", [0.3, 0.9])
def test_pareto_k_is_the_shape_of_the_tail(k):
    """Weights of a Pareto with this shape; its estimate from 300 of 10,000 has a standard deviation near 0.1."""
    uniform = np.random.default_rng(0).uniform(size=10_000)
    assert weighted(-k * np.log(uniform)).pareto_k == pytest.approx(k, abs=0.3)


def test_pareto_k_of_equal_weights():
    assert weighted(np.zeros(1000)).pareto_k == 0


def test_pareto_k_where_the_largest_weights_are_equal():
    """110 weights beyond the threshold, all alike: at some such numbers the estimate divides by zero."""
    assert weighted(np.log(np.r_[np.ones(110), np.full(1234, 0.5)])).pareto_k == 0
