"""Derivatives: gradcheck of everything differentiable, hand-derived pathwise and score gradients, E[f(z)]."""

import math

import pytest
import torch
from gate_oracle import PARAMETERS, SUMMARIES, Gate, as_tensors, assert_close
from torch.autograd import grad, gradcheck

from l0bayes import HardConcrete

F64 = torch.float64
GATES = [Gate(-1.2), Gate(0.4, 1.0, -0.3, 1.05), Gate(2.0, 0.4, -0.1, 1.6)]
INSIDE = torch.tensor([0.2, 0.5, 0.9], dtype=F64)


def leaves(gates=GATES):
    return [t.requires_grad_() for t in as_tensors(gates)]


QUANTITIES = {
    **SUMMARIES,
    "logit_nonzero": lambda d: d.logit_nonzero,
    "log_prob at 0": lambda d: d.log_prob(torch.zeros(3, dtype=F64)),
    "log_prob inside": lambda d: d.log_prob(INSIDE),
    "log_prob at 1": lambda d: d.log_prob(torch.ones(3, dtype=F64)),
    "paper": lambda d: d.point("paper"),
    "median": lambda d: d.point("median"),
    "mean point": lambda d: d.point("mean"),
}


@pytest.mark.parametrize("name", QUANTITIES)
def test_derivatives_in_all_four_parameters(name):
    assert gradcheck(lambda *parameters: QUANTITIES[name](HardConcrete(*parameters)), leaves())


@pytest.mark.parametrize("name", ["cdf", "icdf"])
def test_derivatives_of_cdf_and_icdf_in_parameters_and_value(name):
    d = HardConcrete(*as_tensors(GATES))
    value = INSIDE.clone() if name == "cdf" else d.cdf(INSIDE)
    assert gradcheck(lambda v, *p: getattr(HardConcrete(*p), name)(v), (value.requires_grad_(), *leaves()))


@pytest.mark.parametrize("at", [0.0, 1.0, -0.5, 1.5])
def test_cdf_on_the_atoms_and_outside_has_finite_derivatives(at):
    parameters = leaves()
    gradients = grad(HardConcrete(*parameters).cdf(torch.tensor(at, dtype=F64)).sum(), parameters)
    assert all(torch.isfinite(g).all() for g in gradients)


@pytest.mark.parametrize("parameter", PARAMETERS)
@pytest.mark.parametrize("moment", ["mean", "variance", "entropy"])
def test_moments_have_the_derivatives_of_the_exact_ones(moment, parameter):
    expected = [g.slope(parameter, lambda gate: getattr(gate, moment)) for g in GATES]
    parameters = leaves()
    value = QUANTITIES[moment](HardConcrete(*parameters))
    (gradient,) = grad(value.sum(), parameters[PARAMETERS.index(parameter)])
    assert_close(gradient, expected, atol=1e-7)


def test_pathwise_derivative_of_each_draw_by_hand():
    log_alpha, beta, gamma, zeta = leaves([Gate(0.5, 0.7, -0.2, 1.3)])
    many = log_alpha.expand(5000).detach().requires_grad_()
    z = HardConcrete(many, beta, gamma, zeta).rsample()
    (actual,) = grad(z.sum(), many)
    s = (z - gamma) / (zeta - gamma)
    on_atom = (z == 0) | (z == 1)
    expected = torch.where(on_atom, 0.0, (zeta - gamma) * s * (1 - s) / beta)
    assert on_atom.any()
    assert not on_atom.all()
    assert_close(actual, expected.detach(), atol=1e-12)


@pytest.mark.parametrize("gate", [Gate(0.0), Gate(1.0, 0.4, -0.3, 1.2)], ids=str)
@pytest.mark.parametrize(
    ("f", "f_float"),
    [
        (lambda z: z, lambda z: z),
        (torch.square, lambda z: z * z),
        (lambda z: (3 * z).sin(), lambda z: math.sin(3 * z)),
    ],
    ids=["z", "z^2", "sin 3z"],
)
def test_pathwise_gradient_of_an_expectation_is_unbiased(gate, f, f_float):
    # Five standard errors: false alarms 6e-7 per parameter.
    n = 200_000
    parameters = [torch.full((n,), getattr(gate, k), dtype=F64).requires_grad_() for k in PARAMETERS]
    per_draw = grad(f(HardConcrete(*parameters).rsample()).sum(), parameters)
    for name, g in zip(PARAMETERS, per_draw, strict=True):
        truth = gate.slope(name, lambda other: other.expect(f_float))
        assert abs(g.mean().item() - truth) < 5 * g.std().item() / math.sqrt(n) + 1e-7


def test_score_in_log_alpha_by_hand():
    # d log p / d log_alpha is -(1-F) at 0, 2F-1 inside and F at 1, F being the distribution function below z.
    log_alpha = torch.tensor([0.4, 0.4, 0.4, 0.4], dtype=F64, requires_grad=True)
    d = HardConcrete(log_alpha)
    value = torch.tensor([0.0, 0.25, 0.8, 1.0], dtype=F64)
    (score,) = grad(d.log_prob(value).sum(), log_alpha)
    gate = Gate(0.4)
    expected = [
        gate.prob_zero - 1,
        2 * gate.cdf(0.25) - 1,
        2 * gate.cdf(0.8) - 1,
        1 - gate.prob_one,
    ]
    assert_close(score, expected, atol=1e-14)


@pytest.mark.parametrize("parameter", range(4), ids=PARAMETERS)
def test_scores_have_mean_zero(parameter):
    # The atoms do not move with the parameters, so E[d log p / d theta] = 0 exactly.
    gate = Gate(0.4, 0.8, -0.2, 1.3)
    parameters = leaves([gate])

    def score(z):
        log_prob = HardConcrete(*parameters).log_prob(torch.tensor([z], dtype=F64))
        return grad(log_prob, parameters[parameter])[0].item()

    assert gate.expect(score) == pytest.approx(0, abs=1e-9)


def test_sample_carries_no_gradient_and_rsample_does():
    d = HardConcrete(torch.zeros(3, requires_grad=True))
    assert not d.sample().requires_grad
    assert d.rsample().requires_grad
