"""mean, variance and entropy against scipy's quadrature over the noise; the point rules by hand."""

import math

import pytest
import torch
from gate_oracle import EXTREMES, GRID, Gate, as_distribution, assert_close, column

from l0bayes import HardConcrete

F64 = torch.float64


def library(gates, moment):
    d = as_distribution(gates)
    return d.entropy() if moment == "entropy" else getattr(d, moment)


@pytest.mark.parametrize("moment", ["mean", "variance", "entropy"])
@pytest.mark.parametrize(("gates", "atol"), [(GRID, 1e-9), (EXTREMES, 1e-6)], ids=["grid", "extremes"])
def test_moments_equal_scipy_quadrature(moment, gates, atol):
    expected = column(getattr(g, moment) for g in gates)
    assert_close(library(gates, moment), expected, atol=atol)


@pytest.mark.parametrize("moment", ["mean", "variance", "entropy"])
def test_numbers_and_tensors_as_parameters_give_the_same_moments(moment):
    log_alpha = torch.tensor([-1.0, 0.5], dtype=F64)
    numbers = HardConcrete(log_alpha, 0.5, -0.2, 1.3)
    tensors = as_distribution([Gate(-1.0, 0.5, -0.2, 1.3), Gate(0.5, 0.5, -0.2, 1.3)])
    pair = (getattr(d, moment) for d in (numbers, tensors))
    first, second = (m() if callable(m) else m for m in pair)
    assert_close(first, second, atol=1e-14)


def test_a_temperature_row_of_its_own_broadcasts_in_the_quadrature():
    log_alpha = torch.tensor([-1.0, 0.5, 2.0], dtype=F64)
    beta = torch.tensor([[0.5], [2.0]], dtype=F64)
    d = HardConcrete(log_alpha, beta)
    expected = [[Gate(a, b).mean for a in log_alpha.tolist()] for b in beta.flatten().tolist()]
    assert_close(d.mean, column(expected), atol=1e-12)


def test_moments_respect_their_bounds_far_out():
    d = HardConcrete(torch.linspace(-200, 200, 401, dtype=F64))
    assert ((d.mean >= 0) & (d.mean <= 1 + 1e-14)).all()
    assert (d.mean.diff() >= -1e-14).all()
    assert ((d.variance >= 0) & (d.variance <= 0.25)).all()


def test_the_moments_are_symmetric_like_the_default_stretch():
    log_alpha = torch.linspace(-8, 8, 17, dtype=F64)
    plus, minus = HardConcrete(log_alpha), HardConcrete(-log_alpha)
    assert_close(plus.mean, 1 - minus.mean, atol=1e-14)
    assert_close(plus.variance, minus.variance, atol=1e-14)
    assert_close(plus.entropy(), minus.entropy(), atol=1e-13)


def test_a_small_mean_keeps_its_relative_precision():
    gates = [Gate(-30.0), Gate(-30.0, beta=0.3)]
    assert_close(library(gates, "mean"), column(g.mean for g in gates), atol=0, rtol=1e-8)


@pytest.mark.parametrize("beta", [2e3, 1e4, 1e6])
def test_a_huge_temperature_is_either_right_or_refused(beta):
    try:
        mean = HardConcrete(torch.tensor(0.5, dtype=F64), beta).mean.item()
    except ValueError:
        return
    assert mean == pytest.approx(Gate(0.5, beta).mean, abs=1e-6)


def stretched(sigmoid, gamma, zeta):
    return min(1.0, max(0.0, sigmoid * (zeta - gamma) + gamma))


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def test_paper_point_leaves_the_temperature_out():
    expected = column(stretched(sigmoid(g.log_alpha), g.gamma, g.zeta) for g in GRID)
    assert_close(as_distribution(GRID).point("paper"), expected, atol=1e-15)
    assert_close(as_distribution(GRID).point(), expected, atol=1e-15)


def test_median_point_is_the_gate_of_one_half():
    d = as_distribution(GRID)
    expected = column(stretched(sigmoid(g.log_alpha / g.beta), g.gamma, g.zeta) for g in GRID)
    assert_close(d.point("median"), expected, atol=1e-15)
    assert_close(d.point("median"), d.icdf(torch.tensor(0.5, dtype=F64)), atol=1e-15)


def test_paper_and_median_agree_only_at_temperature_one():
    at = {beta: HardConcrete(torch.tensor(1.0, dtype=F64), beta) for beta in (0.5, 2 / 3, 1.0, 2.0)}
    gap = {beta: (d.point("paper") - d.point("median")).abs().item() for beta, d in at.items()}
    assert gap.pop(1.0) == 0
    assert min(gap.values()) > 0.05


def test_median_point_is_the_empirical_median():
    # The median of n draws has standard error 1/(2 density sqrt(n)); six of them: false alarms 2e-9 a gate.
    gates = [Gate(0.3), Gate(-0.5, beta=1.5), Gate(0.7, 0.4, -0.3, 1.2)]
    d, n = as_distribution(gates), 100_000
    medians = d.sample((n,)).median(0).values
    error = 1 / (2 * d.log_prob(d.point("median")).exp() * math.sqrt(n))
    assert ((medians - d.point("median")).abs() < 6 * error).all()


def test_mean_point_is_the_mean_and_never_closed():
    d = HardConcrete(torch.linspace(-50, 5, 12, dtype=F64))
    assert_close(d.point("mean"), d.mean, atol=0)
    assert (d.point("mean") > 0).all()
    assert (d.point("paper") == 0).any()


@pytest.mark.parametrize("rule", ["mode", "", "Paper", None])
def test_unknown_rule_is_named_beside_the_known_ones(rule):
    with pytest.raises(ValueError, match=r"paper.*median.*mean") as error:
        HardConcrete(0.0).point(rule)
    assert repr(rule) in str(error.value)
