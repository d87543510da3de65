import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import TraceMeanField_ELBO
from pyro.nn import PyroModule
from torch import nn

from l0bayes.inference import ClosedFormKL_ELBO


def normal_model(y):
    loc = pyro.sample("loc", dist.Normal(0.0, 1.0))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(loc[..., None] if loc.dim() else loc, 1.0), obs=y)


class NormalGuide(PyroModule):
    def __init__(self):
        super().__init__()
        self.location = nn.Parameter(torch.tensor(0.3))

    def forward(self, _y):
        return pyro.sample("loc", dist.Normal(self.location, 0.5))


@pytest.mark.parametrize("num_particles", [1, 200])
def test_vectorised_particles_are_averaged(num_particles):
    y, guide = torch.randn(5), NormalGuide()
    losses = {}
    for elbo_class in (TraceMeanField_ELBO, ClosedFormKL_ELBO):
        pyro.set_rng_seed(0)
        elbo = elbo_class(num_particles=num_particles, vectorize_particles=True, max_plate_nesting=1)
        losses[elbo_class] = elbo.differentiable_loss(normal_model, guide, y).item()
    assert losses[ClosedFormKL_ELBO] == pytest.approx(losses[TraceMeanField_ELBO], rel=1e-5)


def test_a_log_prob_of_another_shape_than_the_plate_is_refused():
    def model():
        with pyro.plate("data", 50):
            pyro.sample("y", dist.Normal(torch.zeros(50, 1), 1.0), obs=torch.zeros(50))

    for elbo_class in (TraceMeanField_ELBO, ClosedFormKL_ELBO):
        with pytest.raises(ValueError, match="invalid log_prob shape"):
            elbo_class().loss(model, lambda: None)


def test_a_guide_that_is_not_reparameterised_is_refused():
    logits = torch.zeros((), requires_grad=True)
    with pytest.raises(NotImplementedError, match=r"'b'.*not reparameterised"):
        ClosedFormKL_ELBO().differentiable_loss(
            lambda: pyro.sample("b", dist.Bernoulli(0.5)), lambda: pyro.sample("b", dist.Bernoulli(logits=logits))
        )


def test_a_missing_kl_is_named_with_a_reason():
    with pytest.raises(NotImplementedError, match=r"site 't': no KL is registered|site 't': .+KL"):
        ClosedFormKL_ELBO().loss(
            lambda: pyro.sample("t", dist.HalfCauchy(1.0)), lambda: pyro.sample("t", dist.LogNormal(0.0, 1.0))
        )
