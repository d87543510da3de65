"""ClosedFormKL_ELBO is Pyro's TraceMeanField_ELBO wherever both apply: same draws, loss and gradients."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from guide_models import batch, classifier, gates_and_slab, regression, spread
from pyro import poutine
from pyro.infer import TraceMeanField_ELBO

from l0bayes import HardConcrete, L0Prior
from l0bayes.inference import ClosedFormKL_ELBO, HardConcreteGuide


@pytest.fixture(autouse=True)
def _double(_same_start):
    torch.set_default_dtype(torch.float64)


def numbers(elbo, model, guide, parameters, *args, **options):
    """The loss as a tensor and as a number, and its gradients, from one seed."""
    torch.manual_seed(6)
    loss = elbo(**options).differentiable_loss(model, guide, *args)
    gradients = torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)
    torch.manual_seed(6)
    value = elbo(**options).loss(model, guide, *args)
    assert value == pytest.approx(loss.item(), rel=1e-12)
    return loss, gradients


def assert_equal_elbos(model, guide, parameters, *args, **options):
    parameters = list(parameters)
    ours, stock = (
        numbers(elbo, model, guide, parameters, *args, **options) for elbo in (ClosedFormKL_ELBO, TraceMeanField_ELBO)
    )
    torch.testing.assert_close(ours, stock, rtol=1e-12, atol=1e-12)


PARTICLES = pytest.mark.parametrize("num_particles", [1, 3])


@PARTICLES
@pytest.mark.parametrize("options", [{}, {"inclusion": 0.3}, {"gates": "unit"}])
def test_networks(num_particles, options):
    model = classifier(**options)
    guide = spread(HardConcreteGuide(model))
    parameters = [*model.parameters(), *guide.parameters()]
    assert_equal_elbos(model, guide, parameters, *batch(), num_particles=num_particles)


@PARTICLES
@pytest.mark.parametrize("others", ["normal", "point"])
def test_regression_with_mini_batches(num_particles, others):
    x, y = torch.randn(12, 3), torch.randn(12)
    guide = HardConcreteGuide(regression, args=(x, y, 5), others=others)
    assert_equal_elbos(regression, guide, guide.parameters(), x, y, 5, num_particles=num_particles)


@PARTICLES
@pytest.mark.parametrize("scale", [1e-3, 0.25, 7.0])
def test_scale_of_the_guide(num_particles, scale):
    model = classifier()
    guide = spread(HardConcreteGuide(model))
    parameters = [*model.parameters(), *guide.parameters()]
    scaled = poutine.scale(guide, scale=scale)
    assert_equal_elbos(model, scaled, parameters, *batch(), num_particles=num_particles)


def test_scale_of_a_slab_by_its_gate():
    # The third term of the full objective: P(z != 0) times the KL of the weight, by a scale on the guide's site.
    log_alpha = torch.tensor([-1.0, 0.5, 2.0], requires_grad=True)
    loc = torch.tensor([0.3, -1.0, 2.0], requires_grad=True)

    def model():
        with pyro.plate("features", 3):
            pyro.sample("z", L0Prior(0.0))
            pyro.sample("w", dist.Normal(0.0, 1.0))

    def guide():
        gate = HardConcrete(log_alpha)
        with pyro.plate("features", 3):
            pyro.sample("z", gate)
            with poutine.scale(scale=gate.prob_nonzero):
                pyro.sample("w", dist.Normal(loc, 1.0))

    assert_equal_elbos(model, guide, [log_alpha, loc])
    by_hand = (HardConcrete(log_alpha).prob_nonzero * loc.square() / 2).sum()
    torch.testing.assert_close(ClosedFormKL_ELBO().differentiable_loss(model, guide), by_hand)


@PARTICLES
@pytest.mark.parametrize("mask", [True, False, "some"])
def test_mask_of_the_guide_and_of_the_data(num_particles, mask):
    mask = torch.tensor([True, False, True]) if mask == "some" else mask
    log_alpha = torch.tensor([-1.0, 0.5, 2.0], requires_grad=True)
    loc = torch.tensor([0.3, -1.0, 2.0], requires_grad=True)
    observed = torch.tensor([0.1, 0.2, 0.3])

    def model():
        with pyro.plate("features", 3), poutine.mask(mask=mask):
            z = pyro.sample("z", L0Prior(0.4))
            w = pyro.sample("w", dist.Normal(0.0, 1.0))
            pyro.sample("y", dist.Normal(z * w, 1.0), obs=observed)
        pyro.sample("always", dist.Normal((z * w).sum(), 1.0), obs=torch.tensor(0.5))

    def guide():
        with pyro.plate("features", 3), poutine.mask(mask=mask):
            pyro.sample("z", HardConcrete(log_alpha))
            pyro.sample("w", dist.Normal(loc, 0.5))

    assert_equal_elbos(model, guide, [log_alpha, loc], num_particles=num_particles)


def test_observed_sites_of_every_kind():
    # Factors, deterministic sites, scaled data, and sites without gradients.
    loc = torch.tensor(0.3, requires_grad=True)

    def model():
        w = pyro.sample("w", dist.Normal(0.0, 1.0))
        pyro.deterministic("twice", 2 * w)
        pyro.factor("penalty", -w.square())
        pyro.sample("constant", dist.Normal(0.0, 1.0), obs=torch.tensor(1.0))
        with pyro.plate("data", 4), poutine.scale(scale=2.5):
            pyro.sample("y", dist.Normal(w, 1.0), obs=torch.arange(4.0))

    assert_equal_elbos(model, lambda: pyro.sample("w", dist.Normal(loc, 0.5)), [loc], num_particles=2)


def test_a_model_without_data_is_the_kl_alone():
    guide = spread(HardConcreteGuide(gates_and_slab))
    assert_equal_elbos(gates_and_slab, guide, guide.parameters())


def test_a_model_without_latent_sites():
    bias = torch.tensor(0.3, requires_grad=True)

    def model():
        pyro.sample("y", dist.Normal(bias, 1.0), obs=torch.tensor(1.0))

    assert_equal_elbos(model, lambda: None, [bias])


@PARTICLES
def test_loss_and_grads_leaves_the_gradients_without_svi_too(num_particles):
    model = classifier()
    guide = spread(HardConcreteGuide(model))
    parameters = [*model.parameters(), *guide.parameters()]
    x, y = batch()
    loss, expected = numbers(TraceMeanField_ELBO, model, guide, parameters, x, y, num_particles=num_particles)
    torch.manual_seed(6)
    value = ClosedFormKL_ELBO(num_particles=num_particles).loss_and_grads(model, guide, x, y)
    assert value == pytest.approx(loss.item(), rel=1e-12)
    for parameter, gradient in zip(parameters, expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-12, atol=1e-12)


def test_the_loss_is_a_number_in_the_dtype_of_the_model():
    torch.set_default_dtype(torch.float32)
    model = classifier()
    guide = HardConcreteGuide(model)
    x, y = batch()
    loss = ClosedFormKL_ELBO().differentiable_loss(model, guide, x, y)
    assert loss.shape == ()
    assert loss.dtype == torch.float32
    assert isinstance(ClosedFormKL_ELBO().loss(model, guide, x, y), float)
