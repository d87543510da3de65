"""log_prob, cdf and icdf against each other, against scipy quadrature and against the definition."""

import pytest
import torch
from gate_oracle import EXTREMES, GRID, Gate, as_distribution, assert_close, column
from scipy.integrate import quad

F64 = torch.float64
POINTS = torch.linspace(0.0, 1.0, 21, dtype=F64)
INSIDE = POINTS[1:-1]


def over_grid(points):
    """Points as a column, so that they broadcast against a row of gates."""
    return points.unsqueeze(-1)


def grid_of(function, points, gates=GRID):
    return torch.tensor([[function(g, float(z)) for g in gates] for z in points], dtype=F64)


@pytest.mark.parametrize("gates", [GRID, EXTREMES], ids=["grid", "extremes"])
def test_log_prob_equals_the_change_of_variables(gates):
    expected = grid_of(Gate.log_prob, POINTS, gates)
    assert_close(as_distribution(gates).log_prob(over_grid(POINTS)), expected, atol=1e-10, rtol=1e-12)


@pytest.mark.parametrize("gates", [GRID, EXTREMES], ids=["grid", "extremes"])
def test_atoms_equal_the_noise_that_is_clipped(gates):
    d = as_distribution(gates)
    assert_close(d.prob_zero, column(g.prob_zero for g in gates), atol=0, rtol=1e-12)
    assert_close(d.prob_one, column(g.prob_one for g in gates), atol=0, rtol=1e-12)
    assert_close(d.prob_zero + d.prob_nonzero, 1.0, atol=1e-15)
    assert_close(d.logit_nonzero, column(-g.noise_at(0) for g in gates), atol=1e-12, rtol=1e-12)
    assert_close(d.log_prob(torch.zeros((), dtype=F64)).exp(), d.prob_zero, atol=0, rtol=1e-12)
    assert_close(d.log_prob(torch.ones((), dtype=F64)).exp(), d.prob_one, atol=0, rtol=1e-12)


def test_defaults_are_the_papers_formula():
    log_alpha = torch.linspace(-5, 5, 11, dtype=F64)
    d = as_distribution([Gate(float(x)) for x in log_alpha])
    shift = 2 / 3 * torch.tensor(0.1 / 1.1, dtype=F64).log()
    assert_close(d.prob_nonzero, torch.sigmoid(log_alpha - shift), atol=1e-15)


@pytest.mark.parametrize("gate", [*GRID[::7], *EXTREMES[:2], *EXTREMES[3:7]], ids=str)
def test_atoms_and_density_have_total_mass_one_and_add_up_to_the_cdf(gate):
    d = as_distribution([gate])

    def density(z):
        return d.log_prob(torch.tensor([z], dtype=F64)).exp().item()

    mass, near_ends = d.prob_zero.item(), (1e-4, 1e-2, 0.99, 0.9999)
    for low, high in ((0.0, 0.2), (0.2, 0.5), (0.5, 0.9), (0.9, 1.0)):
        points = [p for p in near_ends if low < p < high] or None
        mass += quad(density, low, high, points=points, epsabs=1e-12, epsrel=1e-10, limit=200)[0]
        if high < 1:
            assert d.cdf(torch.tensor([high], dtype=F64)).item() == pytest.approx(mass, abs=1e-9)
    assert mass + d.prob_one.item() == pytest.approx(1, abs=1e-9)


def test_cdf_equals_the_definition():
    values = torch.tensor([-3.0, -1e-9, 0.0, 1e-9, 0.2, 0.9, 1.0, 1.5], dtype=F64)
    actual = as_distribution(GRID).cdf(over_grid(values))
    assert_close(actual, grid_of(Gate.cdf, values), atol=1e-14)


def test_cdf_is_right_continuous_with_jumps_at_zero_and_one():
    d = as_distribution(GRID)
    at = {x: d.cdf(torch.tensor(x, dtype=F64)) for x in (-1e-14, 0.0, 1e-14, 1 - 1e-14, 1.0)}
    assert (at[-1e-14] == 0).all()
    assert_close(at[0.0], d.prob_zero, atol=0)
    assert_close(at[1e-14], at[0.0], atol=1e-12)
    assert_close(1 - at[1 - 1e-14], d.prob_one, atol=1e-12)
    assert (at[1.0] == 1).all()


def test_icdf_inverts_the_cdf_between_the_atoms():
    d = as_distribution([g for g in GRID if abs(g.log_alpha) < 2])
    points = over_grid(INSIDE)
    assert_close(d.icdf(d.cdf(points)), points, atol=1e-8)


def test_icdf_is_the_gate_of_a_uniform_number():
    u = torch.tensor([1e-9, 0.01, 0.3, 0.5, 0.9, 1 - 1e-9], dtype=F64)
    actual = as_distribution(GRID).icdf(over_grid(u))
    assert_close(actual, grid_of(Gate.of_uniform, u), atol=1e-12)


def test_icdf_is_the_smallest_value_whose_cdf_reaches_the_probability():
    d = as_distribution(GRID)
    p = over_grid(torch.linspace(0.001, 0.999, 101, dtype=F64))
    z = d.icdf(p)
    assert (d.cdf(z) >= p - 1e-13).all()
    below = z - 1e-6
    assert (d.cdf(below) < p)[z > 0].all()
    assert (d.cdf(below) == 0)[z == 0].all()


def test_icdf_stays_on_the_atoms_for_their_whole_mass():
    d = as_distribution(GRID)
    share = over_grid(torch.linspace(0, 1 - 1e-9, 9, dtype=F64))
    assert (d.icdf(share * d.prob_zero) == 0).all()
    assert (d.icdf(1 - share * d.prob_one) == 1).all()
    assert (d.icdf(torch.ones((), dtype=F64)) == 1).all()


def test_log_prob_works_in_float32_at_least():
    d64 = as_distribution(GRID)
    exact = d64.log_prob(over_grid(POINTS).float().double())
    assert_close(as_distribution(GRID, torch.float32).log_prob(over_grid(POINTS).float()).double(), exact, 1e-4)
