"""With fixed gates what is left of the ELBO is that of the network which these gates select."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from torch.distributions import Normal, kl_divergence
from torch.nn.functional import cross_entropy
from toy_problem import ROWS, blobs, pair

from l0bayes import SpikeAndSlabPrior
from l0bayes.inference import ClosedFormKL_ELBO, HardConcreteGuide, predict
from l0bayes.inference.objective.fixed_gates import FixedGates
from l0bayes.inference.objective.loss import Objective


def mixed_pair(**options):
    """Gates of which some are closed, some between and some open at test time."""
    model, guide = pair(**options)
    with torch.no_grad():
        for parameter in guide.parameters():
            parameter.copy_(torch.linspace(-4, 3, len(parameter)))
    return model, guide


def objective(model, guide, **options):
    objective = Objective(ClosedFormKL_ELBO(**options), model, guide)
    objective.fixed_gates = guide.point()
    return objective


@pytest.mark.parametrize("options", [{}, {"num_particles": 2}, {"num_particles": 2, "antithetic": True}])
@pytest.mark.parametrize("network", [{}, {"gates": "unit"}, {"inclusion": 0.3}, {"cost": "paper"}])
def test_the_loss_is_the_cross_entropy_of_the_network_that_predicts(network, options):
    model, guide = mixed_pair(**network)
    x, y = blobs()
    assert any(0 < z < 1 for z in torch.cat(list(guide.point().values())))
    expected = cross_entropy(predict(model, guide, x), y, reduction="sum")
    torch.testing.assert_close(objective(model, guide, **options)(x, y), expected)


def test_a_mini_batch_stands_for_all_data():
    model, guide = mixed_pair()
    x, y = (value[:10] for value in blobs())
    expected = ROWS * cross_entropy(predict(model, guide, x), y)
    torch.testing.assert_close(objective(model, guide)(x, y), expected)


def test_the_loss_draws_nothing():
    model, guide = mixed_pair()
    state = torch.get_rng_state()
    objective(model, guide)(*blobs())
    assert torch.equal(torch.get_rng_state(), state)


def test_traces_have_no_gate_sites():
    model, guide = mixed_pair()
    gates = guide.point()
    for program, left in ((guide, set()), (model, {"y", "data"})):
        trace = poutine.trace(FixedGates(gates)(program)).get_trace(*blobs())
        assert {name for name, site in trace.nodes.items() if site["type"] == "sample"} == left


def test_weights_get_gradients_and_gates_none():
    model, guide = mixed_pair()
    objective(model, guide)(*blobs()).backward()
    assert all(parameter.grad is None for parameter in guide.parameters())
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    assert all(gradient is not None for gradient in gradients.values())
    assert gradients["net.net.fc3.weight"].abs().sum() > 0
    closed = guide.point()["fc1.input"] == 0
    assert closed.any()
    assert torch.equal(gradients["net.net.fc1.weight"][:, closed], torch.zeros(5, int(closed.sum())))


def test_the_gradient_is_that_of_the_network_that_predicts():
    model, guide = mixed_pair()
    x, y = blobs()
    weights = list(model.parameters())
    found = torch.autograd.grad(objective(model, guide)(x, y), weights)
    output = model.net.run(guide.point(), x)
    expected = torch.autograd.grad(cross_entropy(output, y, reduction="sum"), weights)
    torch.testing.assert_close(found, expected)


# -- beside other sites ----------------------------------------------------------------------------------------------


def regression(x, y=None):
    z = pyro.sample("z", SpikeAndSlabPrior(0.5).expand([x.shape[1]]).to_event(1))
    w = pyro.sample("w", dist.Normal(0.0, 2.0).expand([x.shape[1]]).to_event(1))
    with pyro.plate("data", len(x)):
        return pyro.sample("y", dist.Normal(x @ (z * w), 0.5), obs=y)


@pytest.fixture
def line():
    torch.set_default_dtype(torch.float64)
    x = torch.randn(20, 3)
    return x, x[:, 0] - x[:, 2]


def loss_by_hand(guide, z, w, line):
    x, y = line
    likelihood = Normal(x @ (z * w), 0.5).log_prob(y).sum()
    slab = kl_divergence(guide.distributions()["w"].base_dist, Normal(0.0, 2.0)).sum()
    return slab - likelihood


def test_other_sites_keep_their_kl_and_their_draws(line):
    guide = HardConcreteGuide(regression, args=line)
    z = torch.tensor([1.0, 0.0, 0.3])
    torch.manual_seed(4)
    loss = ClosedFormKL_ELBO().differentiable_loss(*(FixedGates({"z": z})(it) for it in (regression, guide)), *line)
    torch.manual_seed(4)
    w = guide.distributions()["w"].rsample()
    expected = loss_by_hand(guide, z, w, line)
    torch.testing.assert_close(loss, expected)
    parameters = [guide.parameter("loc.w"), guide.parameter("log_scale.w")]
    found, by_hand = (torch.autograd.grad(value, parameters) for value in (loss, expected))
    torch.testing.assert_close(found, by_hand)


def test_other_sites_are_mirrored_as_ever(line):
    guide = HardConcreteGuide(regression, args=line)
    z = torch.tensor([1.0, 0.0, 0.3])
    elbo = ClosedFormKL_ELBO(num_particles=2, antithetic=True)
    torch.manual_seed(4)
    loss = elbo.differentiable_loss(*(FixedGates({"z": z})(it) for it in (regression, guide)), *line)
    torch.manual_seed(4)
    w = guide.distributions()["w"].rsample()
    mirrored = 2 * guide.parameter("loc.w") - w
    torch.testing.assert_close(loss, sum(loss_by_hand(guide, z, each, line) for each in (w, mirrored)) / 2)


def test_only_the_sites_named_are_fixed(line):
    guide = HardConcreteGuide(regression, args=line)
    trace = poutine.trace(FixedGates({"w": torch.ones(3)})(guide)).get_trace(*line)
    assert [name for name, site in trace.nodes.items() if site["type"] == "sample"] == ["z"]
