"""Draws against the density. p-values are compared with ALARM, the rate of false alarms per comparison."""

import pytest
import torch
from gate_oracle import Gate, as_distribution
from pyro.distributions.testing.gof import auto_goodness_of_fit
from scipy import stats

from l0bayes import HardConcrete

ALARM = 1e-6
GATES = [
    Gate(0.0),
    Gate(1.5),
    Gate(-2.0),
    Gate(0.5, beta=0.3),
    Gate(0.5, beta=3.0),
    Gate(-0.5, 1.2, -0.02, 1.5),
]
IDS = [str(i) for i in range(len(GATES))]


def draw(gate, n=100_000):
    """``n`` draws of one gate, in float64, where no draw inside is rounded to an atom."""
    return as_distribution([gate]).sample((n,)).squeeze(-1)


@pytest.mark.parametrize("gate", GATES, ids=IDS)
def test_shares_of_closed_inside_and_open(gate):
    z = draw(gate)
    counts = [(z == 0).sum().item(), ((z > 0) & (z < 1)).sum().item(), (z == 1).sum().item()]
    probs = [gate.prob_zero, 1 - gate.prob_zero - gate.prob_one, gate.prob_one]
    assert stats.chisquare(counts, [p * len(z) for p in probs]).pvalue > ALARM


@pytest.mark.parametrize("gate", GATES, ids=IDS)
def test_draws_between_the_atoms_follow_the_conditional_cdf(gate):
    z = draw(gate, 20_000)
    inside = z[(z > 0) & (z < 1)].tolist()
    mass = 1 - gate.prob_zero - gate.prob_one
    uniform = [(gate.cdf(x) - gate.prob_zero) / mass for x in inside]
    assert stats.kstest(uniform, "uniform").pvalue > ALARM


@pytest.mark.parametrize("gate", GATES, ids=IDS)
def test_draws_between_the_atoms_follow_log_prob(gate):
    d, z = as_distribution([gate]), draw(gate)
    inside = z[(z > 0) & (z < 1)]
    density = d.log_prob(inside).exp() / (1 - d.prob_zero - d.prob_one)
    assert auto_goodness_of_fit(inside, density) > ALARM


@pytest.mark.parametrize("gate", GATES, ids=IDS)
def test_randomised_probability_integral_transform_is_uniform(gate):
    d, z = as_distribution([gate]), draw(gate)
    low = torch.where(z == 0, 0.0, torch.where(z == 1, 1 - d.prob_one, d.cdf(z)))
    pit = low + torch.rand_like(z) * (d.cdf(z) - low)
    assert stats.kstest(pit.numpy(), "uniform").pvalue > ALARM


@pytest.mark.parametrize("log_alpha", range(-15, 16))
def test_a_million_float32_draws_have_the_closed_form_shares_of_atoms(log_alpha):
    # 31 locations and 2 atoms: ALARM over the whole grid, by Bonferroni.
    d, n = HardConcrete(torch.tensor(float(log_alpha))), 10**6
    z, gate = d.sample((n,)), Gate(float(log_alpha))
    for atom, prob in ((0, gate.prob_zero), (1, gate.prob_one)):
        count = int((z == atom).sum())
        assert stats.binomtest(count, n, float(prob)).pvalue > ALARM / 62


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("log_alpha", [-4.0, -1.0, 0.0, 2.0, 6.0])
def test_low_precision_draws_are_closed_as_often(dtype, log_alpha):
    z = HardConcrete(torch.tensor(log_alpha, dtype=dtype)).sample((200_000,))
    assert z.dtype == dtype
    count = int((z == 0).sum())
    assert stats.binomtest(count, len(z), float(Gate(log_alpha).prob_zero)).pvalue > ALARM


def test_gates_of_a_batch_are_independent():
    # Fisher's z of a correlation over n pairs has standard error 1/sqrt(n-3); six of them: 2e-9.
    z = HardConcrete(torch.zeros(2, dtype=torch.float64)).sample((100_000,))
    correlation = torch.corrcoef(z.T)[0, 1].atanh().item()
    assert abs(correlation) < 6 / (100_000 - 3) ** 0.5


def test_draws_repeat_with_the_seed_and_not_without():
    d = HardConcrete(torch.zeros(100))
    torch.manual_seed(1)
    first, second = d.rsample(), d.rsample()
    torch.manual_seed(1)
    assert torch.equal(d.sample(), first)
    assert not torch.equal(first, second)


def test_draws_stay_in_the_support():
    d = as_distribution([Gate(a, b, -5.0, 7.0) for a in (-1e4, 0.0, 1e4) for b in (1e-3, 1.0, 100.0)])
    z = d.sample((1000,))
    assert ((z >= 0) & (z <= 1)).all()
