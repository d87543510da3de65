"""The priors of gates: two events, their frequencies and their probabilities."""

import math

import pytest
import torch
from scipy import stats
from torch.autograd import gradcheck

from l0bayes import HardConcrete, L0Prior, SpikeAndSlabPrior

F64 = torch.float64
ALARM = 1e-6  # rate of false alarms per comparison
COSTS = torch.tensor([0.0, 0.1, 1.0, 5.0, 40.0], dtype=F64)
INCLUSIONS = torch.tensor([1e-6, 0.05, 0.5, 0.9, 1 - 1e-6], dtype=F64)
PRIORS = {
    "L0Prior": (L0Prior(COSTS), 1 / (1 + COSTS.exp())),
    "SpikeAndSlabPrior": (SpikeAndSlabPrior(INCLUSIONS), INCLUSIONS),
    "SpikeAndSlabPrior with code cost": (SpikeAndSlabPrior(INCLUSIONS, 3.0), INCLUSIONS),
}
each_prior = pytest.mark.parametrize(("prior", "open_prob"), PRIORS.values(), ids=PRIORS)


@each_prior
def test_draws_are_zero_or_one_and_open_as_often_as_they_should(prior, open_prob):
    n = 100_000
    z = prior.sample((n,))
    assert z.dtype == F64
    assert ((z == 0) | (z == 1)).all()
    for count, p in zip(z.sum(0).int().tolist(), open_prob.tolist(), strict=True):
        assert stats.binomtest(count, n, p).pvalue > ALARM


@each_prior
def test_log_prob_is_that_of_two_exhaustive_events(prior, open_prob):
    closed = prior.log_prob(torch.zeros((), dtype=F64)).exp()
    torch.testing.assert_close(closed, 1 - open_prob, atol=1e-15, rtol=1e-9)
    for z in (1e-12, 0.3, 1.0):
        opened = prior.log_prob(torch.tensor(z, dtype=F64)).exp()
        torch.testing.assert_close(opened, open_prob, atol=1e-15, rtol=1e-9)
        torch.testing.assert_close(closed + opened, torch.ones_like(opened), atol=1e-15, rtol=0)


@each_prior
def test_mean_and_variance_are_those_of_a_bernoulli(prior, open_prob):
    torch.testing.assert_close(prior.mean, open_prob, atol=1e-15, rtol=1e-9)
    torch.testing.assert_close(prior.variance, open_prob * (1 - open_prob), atol=1e-15, rtol=1e-9)


def test_l0_prior_has_odds_of_exp_minus_the_code_cost():
    prior = L0Prior(torch.tensor([0.5, 700.0], dtype=F64))
    zero, one = (prior.log_prob(torch.tensor(z, dtype=F64)) for z in (0.0, 1.0))
    torch.testing.assert_close(one - zero, -prior.code_cost, atol=1e-12, rtol=0)


def test_spike_and_slab_log_odds_leave_the_code_cost_out():
    assert SpikeAndSlabPrior(0.2, 7.0).logit_inclusion.item() == pytest.approx(math.log(0.25), rel=1e-6)


def test_log_prob_is_differentiable_in_the_priors_parameters():
    z = torch.tensor([0.0, 0.4, 1.0], dtype=F64)
    assert gradcheck(lambda c: L0Prior(c).log_prob(z), torch.tensor(0.7, dtype=F64, requires_grad=True))
    inclusion = torch.tensor(0.3, dtype=F64, requires_grad=True)
    assert gradcheck(lambda i: SpikeAndSlabPrior(i).log_prob(z), inclusion)


@each_prior
def test_priors_have_no_pathwise_draws(prior, open_prob):  # noqa: ARG001 (the table has two columns)
    assert not prior.has_rsample
    with pytest.raises(NotImplementedError):
        prior.rsample()


def test_draws_of_a_prior_carry_no_gradient():
    assert not L0Prior(torch.tensor(1.0, requires_grad=True)).sample().requires_grad


def test_log_prob_of_a_gate_counts_its_event():
    gate = HardConcrete(torch.zeros(1000))
    z = gate.sample()
    log_prob = SpikeAndSlabPrior(0.2).log_prob(z)
    expected = torch.where(z == 0, math.log(0.8), math.log(0.2))
    torch.testing.assert_close(log_prob, expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, F64])
def test_dtype_is_that_of_the_parameters(dtype):
    for prior in (L0Prior(torch.ones(2, dtype=dtype)), SpikeAndSlabPrior(torch.full((2,), 0.5, dtype=dtype))):
        for value in (prior.sample(), prior.mean, prior.variance, prior.log_prob(torch.ones(2, dtype=dtype))):
            assert value.dtype == dtype
