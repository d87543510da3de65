"""Pyro's own ELBOs with gate sites: TraceMeanField_ELBO is exact, the others refuse to train."""

import math

import pyro
import pytest
import torch
from pyro import distributions as dist
from pyro import poutine
from pyro.infer import SVI, RenyiELBO, Trace_ELBO, TraceGraph_ELBO, TraceMeanField_ELBO
from pyro.infer.autoguide import AutoNormal
from torch.distributions import kl_divergence

from l0bayes import HardConcrete, L0Prior, SpikeAndSlabPrior
from l0bayes.errors import PathwiseGradientError

LOG_ALPHA = torch.tensor([-0.5, 0.3, 1.0], dtype=torch.float64)
PRIORS = {
    "L0Prior": L0Prior(torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64)),
    "SpikeAndSlabPrior": SpikeAndSlabPrior(torch.tensor([0.2, 0.5, 0.7], dtype=torch.float64), 0.3),
    "HardConcrete": HardConcrete(torch.tensor([0.0, -1.0, 1.0], dtype=torch.float64), 1.5),
}
each_prior = pytest.mark.parametrize("prior", PRIORS.values(), ids=PRIORS)


@pytest.fixture(autouse=True)
def _own_param_store():
    with pyro.get_param_store().scope():
        yield


def in_plate(d):
    with pyro.plate("gates", 3):
        return pyro.sample("z", d)


def as_event(d):
    return pyro.sample("z", d.to_event(1))


def event_in_plate(d):
    with pyro.plate("rows", 2):
        return pyro.sample("z", d.expand((2, 3)).to_event(1))


def in_two_plates(d):
    with pyro.plate("rows", 2, dim=-2), pyro.plate("gates", 3, dim=-1):
        return pyro.sample("z", d.expand((2, 3)))


SITES = {in_plate: 1, as_event: 1, event_in_plate: 2, in_two_plates: 2}  # and how often each gate occurs
each_site = pytest.mark.parametrize("site", SITES)


def programs(prior, site=in_plate, *, likelihood=True):
    """A model that regresses on the sum of the gates, and its mean-field guide."""

    def model():
        z = site(prior)
        model.last_draw = z.detach()
        if likelihood:
            pyro.sample("y", dist.Normal(z.sum(), 1.0), obs=torch.tensor(2.0, dtype=torch.float64))

    def guide():
        site(HardConcrete(pyro.param("log_alpha", LOG_ALPHA.clone())))

    return model, guide


def gradient():
    return pyro.get_param_store()["log_alpha"].grad


@each_prior
@each_site
def test_mean_field_elbo_has_the_closed_form_and_its_gradient(prior, site):
    model, guide = programs(prior, site, likelihood=False)
    log_alpha = LOG_ALPHA.clone().requires_grad_()
    expected = SITES[site] * kl_divergence(HardConcrete(log_alpha), prior).sum()
    elbo = TraceMeanField_ELBO()
    assert elbo.loss(model, guide) == pytest.approx(expected.item(), rel=1e-12)
    assert elbo.loss_and_grads(model, guide) == pytest.approx(expected.item(), rel=1e-12)
    torch.testing.assert_close(gradient(), torch.autograd.grad(expected, log_alpha)[0])


@each_prior
@each_site
def test_mean_field_elbo_adds_the_likelihood_of_the_draw(prior, site):
    model, guide = programs(prior, site)
    loss = TraceMeanField_ELBO().loss_and_grads(model, guide)
    likelihood = -0.5 * (2 - model.last_draw.sum()).item() ** 2 - 0.5 * math.log(2 * math.pi)
    kl = SITES[site] * kl_divergence(HardConcrete(LOG_ALPHA), prior).sum().item()
    assert loss == pytest.approx(kl - likelihood, rel=1e-9)


@each_prior
def test_scale_and_mask_of_the_guide_reach_the_kl(prior):
    model, guide = programs(prior, likelihood=False)
    mask = torch.tensor([True, False, True])
    kl = kl_divergence(HardConcrete(LOG_ALPHA), prior)
    elbo = TraceMeanField_ELBO()
    assert elbo.loss(model, poutine.scale(guide, 0.25)) == pytest.approx(0.25 * kl.sum().item())
    assert elbo.loss(poutine.mask(model, mask), poutine.mask(guide, mask)) == pytest.approx((kl * mask).sum().item())


def test_stock_svi_closes_gates_that_the_data_do_not_want():
    model, guide = programs(L0Prior(torch.tensor(3.0, dtype=torch.float64)), likelihood=False)
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.3}), TraceMeanField_ELBO())
    losses = [svi.step() for _ in range(40)]
    assert losses[-1] < 0.2 * losses[0]


@each_prior
@pytest.mark.parametrize(
    "elbo",
    [Trace_ELBO(), TraceGraph_ELBO(), RenyiELBO(num_particles=2), Trace_ELBO(num_particles=3)],
    ids=["Trace", "TraceGraph", "Renyi", "Trace 3"],
)
def test_pathwise_elbos_evaluate_but_do_not_train(elbo, prior):
    model, guide = programs(prior)
    assert math.isfinite(elbo.loss(model, guide))
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.1}), elbo)
    with pytest.raises(PathwiseGradientError):
        svi.step()
    assert torch.equal(pyro.param("log_alpha"), LOG_ALPHA)


def test_the_value_of_a_monte_carlo_elbo_is_right():
    # Five standard errors over 400 particles: false alarms 6e-7.
    prior = PRIORS["HardConcrete"]
    model, guide = programs(prior, likelihood=False)
    losses = torch.tensor([Trace_ELBO().loss(model, guide) for _ in range(400)], dtype=torch.float64)
    kl = kl_divergence(HardConcrete(LOG_ALPHA), prior).sum()
    assert (losses.mean() - kl).abs() < 5 * losses.std() / 20


@pytest.mark.parametrize("other", [dist.Beta(torch.ones(3), 2.0), dist.Uniform(-torch.ones(3), 2.0)], ids=repr)
@pytest.mark.parametrize("wrap", [lambda d: d, lambda d: d.mask(torch.tensor([True, False, True]))])
def test_a_prior_without_exact_kl_is_loud(other, wrap):
    def model():
        in_plate(wrap(other))

    def guide():
        in_plate(wrap(HardConcrete(pyro.param("log_alpha", LOG_ALPHA.float()))))

    with pytest.raises((TypeError, PathwiseGradientError)):
        TraceMeanField_ELBO().loss_and_grads(model, guide)


@each_prior
@pytest.mark.parametrize("sites", [(in_plate, as_event), (as_event, in_plate)], ids=["guide", "model"])
@pytest.mark.parametrize("validation", [True, False])
def test_to_event_on_one_side_only_is_loud(prior, sites, validation):
    model, _ = programs(prior, sites[0], likelihood=False)
    _, guide = programs(prior, sites[1])
    # With validation Pyro itself refuses; without it the missing KL or the guard must.
    errors = ValueError if validation else (TypeError, PathwiseGradientError)
    with pyro.validation_enabled(validation), pytest.raises(errors):
        TraceMeanField_ELBO().loss_and_grads(model, guide)


@each_prior
@pytest.mark.parametrize("elbo", [Trace_ELBO(), TraceMeanField_ELBO()], ids=["Trace", "TraceMeanField"])
def test_a_continuous_autoguide_on_a_gate_is_loud(elbo, prior):
    model, _ = programs(prior)
    guide = AutoNormal(model)
    guide()
    with pytest.raises((TypeError, PathwiseGradientError)):
        elbo.loss_and_grads(model, guide)
