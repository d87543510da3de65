"""KL between two hard concrete variables: scipy quadrature is the truth, Monte Carlo gradients are not."""

import math

import pytest
import torch
from gate_oracle import PARAMETERS, Gate, as_distribution, as_tensors, assert_close, column
from hypothesis import given
from hypothesis import strategies as st
from torch.autograd import grad, gradcheck
from torch.distributions import kl_divergence
from torch.nn.functional import logsigmoid

from l0bayes import HardConcrete

F64 = torch.float64
PAIRS = [
    (Gate(0.5), Gate(-1.0)),
    (Gate(-4.0), Gate(3.0)),
    (Gate(-1.0, 0.4), Gate(0.7, 2.0)),
    (Gate(0.7, 2.0), Gate(-1.0, 0.4)),
    (Gate(0.3, 0.7, -0.2, 1.3), Gate(-0.6, 1.5, -0.05, 1.6)),
    (Gate(0.3, 0.7, -0.02, 1.01), Gate(0.3, 0.7, -2.0, 3.0)),
    (Gate(0.3, 0.7, -2.0, 3.0), Gate(0.3, 0.7, -0.02, 1.01)),
]
HARD_PAIRS = [
    (Gate(0.3, 60.0), Gate(-0.5, 0.3)),
    (Gate(-0.5, 0.3), Gate(0.3, 60.0)),
    (Gate(-0.5, 0.3), Gate(25.0, 60.0)),
    (Gate(1.0, 0.5, -1e-3, 1.001), Gate(-1.0, 5.0, -1.0, 1.001)),
    (Gate(-25.0, 0.5), Gate(2.0, 5.0, -1e-3, 2.0)),
]


@pytest.mark.parametrize(("pairs", "atol"), [(PAIRS, 1e-9), (HARD_PAIRS, 1e-6)], ids=["ordinary", "extreme"])
def test_equals_scipy_quadrature(pairs, atol):
    q, p = (as_distribution(list(side)) for side in zip(*pairs, strict=True))
    assert_close(kl_divergence(q, p), column(a.kl(b) for a, b in pairs), atol=atol)


@pytest.mark.parametrize("pair", [*PAIRS, *HARD_PAIRS], ids=str)
def test_one_pair_alone_equals_scipy_quadrature(pair):
    # Alone, a pair gets no panels from a steeper neighbour in the batch.
    q, p = (as_distribution([gate]) for gate in pair)
    assert_close(kl_divergence(q, p), pair[0].kl(pair[1]), atol=1e-9, rtol=1e-9)


def test_is_zero_with_zero_gradient_for_identical_gates():
    gates = [g for pair in PAIRS for g in pair]
    q = [t.requires_grad_() for t in as_tensors(gates)]
    kl = kl_divergence(HardConcrete(*q), as_distribution(gates))
    assert_close(kl, 0.0, atol=0)
    for gradient in grad(kl.sum(), q):
        assert_close(gradient, 0.0, atol=1e-12)


def test_derivatives_in_the_parameters_of_both():
    q = [t.requires_grad_() for t in as_tensors([a for a, _ in PAIRS[:5]])]
    p = [t.requires_grad_() for t in as_tensors([b for _, b in PAIRS[:5]])]
    assert gradcheck(lambda *t: kl_divergence(HardConcrete(*t[:4]), HardConcrete(*t[4:])), (*q, *p))


@pytest.mark.parametrize("side", [0, 1], ids=["guide", "prior"])
@pytest.mark.parametrize("parameter", PARAMETERS)
def test_derivatives_equal_those_of_scipy_quadrature(side, parameter):
    tensors = [[t.requires_grad_() for t in as_tensors([pair[i] for pair in PAIRS[:5]])] for i in (0, 1)]
    kl = kl_divergence(*(HardConcrete(*t) for t in tensors))
    (gradient,) = grad(kl.sum(), tensors[side][PARAMETERS.index(parameter)])
    expected = [
        pair[side].slope(parameter, lambda g, pair=pair: g.kl(pair[1]) if side == 0 else pair[0].kl(g))
        for pair in PAIRS[:5]
    ]
    assert_close(gradient, expected, atol=1e-6)


def plain_log_prob(z, log_alpha):
    """log q(z) at the paper's beta, gamma, zeta as one would first write it, differentiable in z."""
    beta, gamma, zeta = 2 / 3, -0.1, 1.1
    logit = beta * ((z - gamma) / (zeta - z)).log() - log_alpha
    slope = (beta * (1 / (z - gamma) + 1 / (zeta - z))).log()
    inside = logsigmoid(logit) + logsigmoid(-logit) + slope
    return torch.where(z == 0, logsigmoid(logit), torch.where(z == 1, logsigmoid(-logit), inside))


@pytest.mark.parametrize(("q", "p"), [(Gate(0.5), Gate(-1.0)), (Gate(-1.0), Gate(1.0))], ids=str)
def test_exact_gradient_where_the_pathwise_one_is_biased(q, p):
    n = 400_000
    each = torch.full((n,), q.log_alpha, dtype=F64, requires_grad=True)
    noise = torch.rand(n, dtype=F64).logit()
    z = (torch.sigmoid((noise + each) / (2 / 3)) * 1.2 - 0.1).clamp(0, 1)
    ratio = plain_log_prob(z, each) - plain_log_prob(z, p.log_alpha)
    pathwise = grad(ratio.sum(), each)[0]

    exact = q.slope("log_alpha", lambda g: g.kl(p))
    log_alpha = torch.tensor(q.log_alpha, dtype=F64, requires_grad=True)
    kl = kl_divergence(HardConcrete(log_alpha), HardConcrete(torch.tensor(p.log_alpha, dtype=F64)))
    assert grad(kl, log_alpha)[0].item() == pytest.approx(exact, abs=1e-7)

    # The value by Monte Carlo is right (five standard errors: false alarms 6e-7), its gradient far off.
    assert abs(ratio.mean().item() - kl.item()) < 5 * ratio.std().item() / math.sqrt(n)
    assert abs(pathwise.mean().item() - exact) > 20 * pathwise.std().item() / math.sqrt(n)


gates = st.builds(Gate, st.floats(-20, 20), st.floats(0.1, 10), st.floats(-3, -0.01), st.floats(1.01, 4))


@given(q=gates, p=gates)
def test_is_never_negative_and_agrees_with_scipy(q, p):
    kl = kl_divergence(as_distribution([q]), as_distribution([p])).item()
    assert kl >= -1e-12
    assert kl == pytest.approx(q.kl(p), abs=1e-8, rel=1e-8)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, F64], ids=str)
def test_finite_with_finite_gradients_far_out(dtype):
    far = torch.tensor([-1e4, -50.0, 0.0, 50.0, 1e4], dtype=dtype)
    q = [t.to(dtype).requires_grad_() for t in (far[:, None], *torch.tensor([0.5, -0.2, 1.3]))]
    p = [t.to(dtype).requires_grad_() for t in (far[:], *torch.tensor([2.0, -0.1, 1.1]))]
    kl = kl_divergence(HardConcrete(*q), HardConcrete(*p))
    assert kl.shape == (5, 5)
    assert kl.dtype == dtype
    assert torch.isfinite(kl).all()
    # In half precision the sum over pairs may pass 65504 though no single gradient does.
    total = kl.sum(dtype=torch.float32) / kl.numel()
    assert all(torch.isfinite(g).all() for g in grad(total, [*q, *p]))


def test_low_precision_guide_against_a_wider_prior():
    low = torch.linspace(-3, 3, 7).to(torch.bfloat16)
    kl = kl_divergence(HardConcrete(low), HardConcrete(torch.ones(7, dtype=F64), 1.5))
    exact = column(Gate(float(x)).kl(Gate(1.0, 1.5)) for x in low)
    assert kl.dtype == torch.bfloat16
    assert_close(kl.double(), exact, atol=1e-3, rtol=2**-7)
