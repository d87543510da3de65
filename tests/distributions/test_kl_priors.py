"""KL from a gate to the priors on its being open: closed forms."""

import math

import pytest
import torch
from gate_oracle import GRID, Gate, as_distribution, as_tensors, assert_close, column
from pyro import distributions as dist
from torch.autograd import gradcheck
from torch.distributions import kl_divergence

from l0bayes import HardConcrete, L0Prior, SpikeAndSlabPrior

F64 = torch.float64
OPEN = column(1 - g.prob_zero for g in GRID)


def double(*numbers):
    return [torch.tensor(x, dtype=F64) for x in numbers]


@pytest.mark.parametrize("cost", [0.0, 0.1, 25.0])
def test_l0_is_cost_times_probability_of_an_open_gate(cost):
    kl = kl_divergence(as_distribution(GRID), L0Prior(*double(cost)))
    assert_close(kl, cost * OPEN, atol=1e-13)


@pytest.mark.parametrize("inclusion", [1e-4, 0.2, 0.5, 0.99])
@pytest.mark.parametrize("cost", [0.0, 3.0])
def test_spike_and_slab_is_the_kl_of_two_coins_plus_the_cost(inclusion, cost):
    kl = kl_divergence(as_distribution(GRID), SpikeAndSlabPrior(*double(inclusion, cost)))
    coins = kl_divergence(dist.Bernoulli(OPEN), dist.Bernoulli(*double(inclusion)))
    assert_close(kl, coins + cost * OPEN, atol=1e-12)


def test_spike_and_slab_without_cost_is_zero_at_the_priors_probability():
    # P(z != 0) = sigmoid(log_alpha - shift), so log_alpha = logit(inclusion) + shift.
    inclusion = torch.tensor([1e-5, 0.3, 0.9], dtype=F64)
    log_alpha = (inclusion.logit() + 2 / 3 * math.log(0.1 / 1.1)).requires_grad_()
    kl = kl_divergence(HardConcrete(log_alpha), SpikeAndSlabPrior(inclusion))
    assert_close(kl, 0.0, atol=1e-14)
    assert_close(torch.autograd.grad(kl.sum(), log_alpha)[0], 0.0, atol=1e-14)


def test_code_cost_moves_the_best_probability_by_its_odds():
    # d KL / d P(z != 0) = 0 where the odds are those of the prior times exp(-code_cost).
    prior_logit, cost = double(0.4, 1.5)
    log_alpha = (prior_logit - cost + 2 / 3 * math.log(0.1 / 1.1)).requires_grad_()
    kl = kl_divergence(HardConcrete(log_alpha), SpikeAndSlabPrior(prior_logit.sigmoid(), cost))
    assert_close(torch.autograd.grad(kl, log_alpha)[0], 0.0, atol=1e-14)


def test_derivatives_in_every_parameter_of_gate_and_prior():
    gates = [Gate(-1.0), Gate(0.5, 1.5, -0.3, 1.4)]
    q = [t.requires_grad_() for t in as_tensors(gates)]
    inclusion, cost = (t.requires_grad_() for t in double(0.3, 0.8))
    assert gradcheck(lambda c, *a: kl_divergence(HardConcrete(*a), L0Prior(c)), (cost, *q))
    assert gradcheck(lambda i, c, *a: kl_divergence(HardConcrete(*a), SpikeAndSlabPrior(i, c)), (inclusion, cost, *q))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, F64], ids=str)
@pytest.mark.parametrize(
    "prior", [L0Prior(torch.tensor([0.1, 9.0])), SpikeAndSlabPrior(torch.tensor([1e-3, 0.999]), 9.0)]
)
def test_finite_with_finite_gradients_and_the_gates_dtype(prior, dtype):
    log_alpha = torch.tensor([-1e4, -50.0, 0.0, 50.0, 1e4], dtype=dtype).unsqueeze(-1).requires_grad_()
    kl = kl_divergence(HardConcrete(log_alpha), prior)
    assert kl.shape == (5, 2)
    assert torch.isfinite(kl).all()
    assert torch.isfinite(torch.autograd.grad(kl.sum(), log_alpha)[0]).all()
    assert kl.dtype == dtype


def test_spike_and_slab_far_out_keeps_the_exact_limit():
    inclusion, cost = double(1e-3, 2.0)
    kl = kl_divergence(HardConcrete(torch.tensor([-1e4, 1e4], dtype=F64)), SpikeAndSlabPrior(inclusion, cost))
    assert_close(kl, [-math.log1p(-1e-3), 2 - math.log(1e-3)], atol=1e-12)


@pytest.mark.parametrize("other", [dist.Beta(1.0, 1.0), dist.Normal(0.0, 1.0), dist.Bernoulli(0.5)], ids=repr)
def test_a_prior_without_an_exact_kl_is_refused_with_the_remedy(other):
    with pytest.raises(TypeError, match=type(other).__name__) as error:
        kl_divergence(HardConcrete(0.0), other)
    for remedy in ("L0Prior", "SpikeAndSlabPrior", "to_event", "register_kl"):
        assert remedy in str(error.value)


def test_subclasses_of_gate_and_prior_inherit_the_kl():
    class MyGate(HardConcrete):
        pass

    class MyPrior(L0Prior):
        pass

    kl = kl_divergence(MyGate(torch.zeros(2)), MyPrior(torch.full((2,), 2.0)))
    assert_close(kl, 2 * HardConcrete(torch.zeros(2)).prob_nonzero, atol=1e-6)
