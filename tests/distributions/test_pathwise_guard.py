"""No gradient flows through the value into the log-density of a gate; scores do flow."""

import pytest
import torch
from torch.autograd import grad

from l0bayes import HardConcrete, L0Prior, SpikeAndSlabPrior
from l0bayes.errors import L0BayesError, PathwiseGradientError

MAKERS = {
    "HardConcrete": HardConcrete,
    "L0Prior": lambda x: L0Prior(x.square()),
    "SpikeAndSlabPrior": lambda x: SpikeAndSlabPrior(x.sigmoid()),
    "expanded": lambda x: HardConcrete(x).expand((2, 3)),
    "event": lambda x: L0Prior(x.square()).to_event(1),
    "masked": lambda x: SpikeAndSlabPrior(x.sigmoid()).mask(torch.tensor([True, False, True])),
}
each = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)


def draw():
    """A reparameterised draw of three gates and the parameter it depends on."""
    log_alpha = torch.tensor([-0.5, 0.0, 0.5], requires_grad=True)
    return HardConcrete(log_alpha).rsample(), log_alpha


@each
@pytest.mark.parametrize("own_gradient", [True, False])
def test_a_gradient_through_the_value_raises(make, own_gradient):
    z, _ = draw()
    d = make(torch.tensor([0.1, 0.2, 0.3], requires_grad=own_gradient))
    with pytest.raises(PathwiseGradientError):
        d.log_prob(z).sum().backward()


def test_the_usual_mistake_raises():
    log_alpha = torch.zeros(3, requires_grad=True)
    q = HardConcrete(log_alpha)
    z = q.rsample()
    with pytest.raises(PathwiseGradientError):
        (q.log_prob(z) - L0Prior(1.0).log_prob(z)).sum().backward()


@each
def test_the_value_of_log_prob_is_untouched_by_the_guard(make):
    z, _ = draw()
    d = make(torch.tensor([0.1, 0.2, 0.3]))
    assert torch.equal(d.log_prob(z), d.log_prob(z.detach()))


@each
def test_a_detached_value_gives_the_score(make):
    parameter = torch.tensor([0.1, 0.2, 0.3], requires_grad=True)
    z, log_alpha = draw()
    (score,) = grad(make(parameter).log_prob(z.detach()).sum(), parameter)
    assert torch.isfinite(score).all()
    assert (score != 0).any()
    assert log_alpha.grad is None


def test_score_of_a_closed_gate_by_hand():
    log_alpha = torch.tensor([-1.0, 0.0, 2.0], requires_grad=True)
    d = HardConcrete(log_alpha)
    (score,) = grad(d.log_prob(torch.zeros(3)).sum(), log_alpha)
    torch.testing.assert_close(score, -d.prob_nonzero.detach())
    (score,) = grad(d.log_prob(torch.ones(3)).sum(), log_alpha)
    torch.testing.assert_close(score, 1 - d.prob_one.detach())


def test_score_function_gradient_is_unbiased():
    # E[z d log q / d log_alpha] = d E[z] / d log_alpha; five standard errors: false alarms 6e-7.
    log_alpha = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    (exact,) = grad(HardConcrete(log_alpha).mean, log_alpha)
    n = 200_000
    many = torch.full((n,), 0.3, dtype=torch.float64, requires_grad=True)
    d = HardConcrete(many)
    z = d.sample()
    estimates = z * grad(d.log_prob(z).sum(), many)[0]
    assert (estimates.mean() - exact).abs() < 5 * estimates.std() / n**0.5


def test_the_draw_itself_is_free_to_be_differentiated():
    z, log_alpha = draw()
    z.square().sum().backward()
    assert torch.isfinite(log_alpha.grad).all()


def test_the_error_says_what_to_do_and_can_be_caught_as_a_family():
    z, _ = draw()
    with pytest.raises(L0BayesError) as error:
        HardConcrete(torch.zeros(3)).log_prob(z).sum().backward()
    assert isinstance(error.value, RuntimeError)
    for remedy in ("TraceMeanField_ELBO", "L0Prior", "SpikeAndSlabPrior", ".to_event", "detach"):
        assert remedy in str(error.value)
