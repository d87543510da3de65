"""Extremes: nothing is infinite or NaN, gradients included, in any dtype, for |log_alpha| up to 1e4."""

from unittest import mock

import pytest
import torch
from gate_oracle import SUMMARIES
from hypothesis import given
from hypothesis import strategies as st

from l0bayes import HardConcrete

F64 = torch.float64
DTYPES = [torch.float16, torch.bfloat16, torch.float32, F64]
LAST_UNIFORM = {torch.float32: 1 - 2.0**-24, F64: 1 - 2.0**-53}
POINTS = [0.0, 0.3, 1.0]
FAR = [-1e4, -300.0, -15.0, 0.0, 15.0, 300.0, 1e4]

dtypes = st.sampled_from(DTYPES)
locations = st.sampled_from(FAR) | st.floats(-1e4, 1e4)
parameters = st.tuples(
    locations,
    st.sampled_from([0.05, 2 / 3, 1.0, 60.0]) | st.floats(0.05, 60.0),  # beta
    st.sampled_from([-10.0, -0.1, -1e-2]) | st.floats(-10.0, -1e-2),  # gamma
    st.sampled_from([1.02, 1.1, 10.0]) | st.floats(1.02, 10.0),  # zeta
)
uniforms = st.sampled_from([0.0, 2.0**-24, 1.0]) | st.floats(0, 1)

QUANTITIES = {
    "log_prob": lambda d: d.log_prob(torch.tensor(POINTS, dtype=d.log_alpha.dtype)),
    **SUMMARIES,
    "paper": lambda d: d.point("paper"),
    "median": lambda d: d.point("median"),
    "mean point": lambda d: d.point("mean"),
    "cdf": lambda d: d.cdf(torch.tensor(POINTS, dtype=d.log_alpha.dtype)),
    "icdf": lambda d: d.icdf(torch.tensor([2.0**-10, 0.5, 1 - 2.0**-7], dtype=d.log_alpha.dtype)),
}


def finite_with_gradients(value, tensors, dtype):
    assert value.dtype == dtype
    assert torch.isfinite(value).all()
    for gradient in torch.autograd.grad(value.sum(), tensors, allow_unused=True):
        assert gradient is None or torch.isfinite(gradient).all()


def leaves(dtype, *numbers):
    return [torch.tensor(x, dtype=dtype).requires_grad_() for x in numbers]


def rsample_at(d, u):
    """A draw for which the generator returned ``u``, the largest possible number if ``u`` is 1."""

    def rand(shape, *, dtype, device):
        return torch.full(shape, min(u, LAST_UNIFORM[dtype]), dtype=dtype, device=device)

    with mock.patch.object(torch, "rand", rand):
        return d.rsample()


@pytest.mark.parametrize("name", QUANTITIES)
@given(dtype=dtypes, numbers=parameters)
def test_quantities_are_finite_and_so_are_their_gradients(name, dtype, numbers):
    tensors = leaves(dtype, *numbers)
    finite_with_gradients(QUANTITIES[name](HardConcrete(*tensors)), tensors, dtype)


@pytest.mark.parametrize("name", QUANTITIES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_quantities_are_finite_with_the_papers_numbers(name, dtype):
    log_alpha = torch.tensor(FAR, dtype=dtype).unsqueeze(-1).requires_grad_()
    finite_with_gradients(QUANTITIES[name](HardConcrete(log_alpha)), [log_alpha], dtype)


@given(dtype=dtypes, numbers=parameters, u=uniforms)
def test_draws_are_finite_and_so_are_their_gradients(dtype, numbers, u):
    tensors = leaves(dtype, *numbers)
    z = rsample_at(HardConcrete(*tensors), u)
    finite_with_gradients(z, tensors, dtype)
    assert 0 <= z.item() <= 1


@given(dtype=dtypes, numbers=parameters, u=uniforms)
def test_every_draw_has_a_finite_log_prob_and_score(dtype, numbers, u):
    tensors = leaves(dtype, *numbers)
    d = HardConcrete(*tensors)
    finite_with_gradients(d.log_prob(rsample_at(d, u).detach()), tensors, dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_last_numbers_of_the_generator_give_the_atoms(dtype):
    d = HardConcrete(torch.tensor([-10.0, 0.0, 10.0], dtype=dtype))
    assert (rsample_at(d, 0.0) == 0).all()
    assert (rsample_at(d, 1.0) == 1).all()


@pytest.mark.parametrize(("dtype", "half_cell"), [(torch.float32, 2.0**-25), (F64, 2.0**-54)], ids=str)
def test_a_zero_of_the_generator_stands_for_the_middle_of_its_cell(dtype, half_cell):
    # Zero comes once in 2**24 or 2**53 draws: it must not close a gate that is closed far more seldom.
    d = HardConcrete(torch.tensor([15.0, 20.0, 38.0, 50.0], dtype=dtype))
    assert torch.equal(rsample_at(d, 0.0), d.icdf(torch.full((4,), half_cell, dtype=dtype)))
    assert rsample_at(d, 0.0)[-1] == 1


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_gates_far_out_are_certain(dtype):
    d = HardConcrete(torch.tensor([-1e4, 1e4], dtype=dtype))
    assert torch.equal(d.sample(), torch.tensor([0.0, 1.0], dtype=dtype))
    for sure in (d.mean, d.prob_one, d.prob_nonzero, d.point("paper"), d.point("median")):
        assert torch.equal(sure, torch.tensor([0.0, 1.0], dtype=dtype))
    assert torch.equal(d.variance, torch.zeros(2, dtype=dtype))
    assert torch.equal(d.entropy(), torch.zeros(2, dtype=dtype))


def test_log_prob_of_an_unlikely_atom_does_not_underflow():
    d = HardConcrete(torch.tensor([1e4, -1e4]))
    log_prob = d.log_prob(torch.tensor([0.0, 1.0]))
    assert log_prob == pytest.approx(-1e4, rel=1e-3)
    assert (d.prob_zero[0], d.prob_one[1]) == (0, 0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_low_precision_equals_float32_up_to_the_last_rounding(dtype):
    low = torch.linspace(-6, 6, 13).to(dtype)
    narrow, wide = HardConcrete(low), HardConcrete(low.float())
    for name in ("mean", "variance", "entropy", "prob_zero", "prob_one", "prob_nonzero", "paper", "median"):
        torch.testing.assert_close(QUANTITIES[name](narrow), QUANTITIES[name](wide).to(dtype), atol=0, rtol=0)
