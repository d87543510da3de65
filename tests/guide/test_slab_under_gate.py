"""A slab that is there only where its gate is open: its KL is weighted by P(z ≠ 0)."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI, Predictive, TraceMeanField_ELBO
from torch.distributions import kl_divergence

from l0bayes import SpikeAndSlabPrior
from l0bayes.errors import StructureError
from l0bayes.inference import ClosedFormKL_ELBO, HardConcreteGuide

INDEX = torch.tensor([0, 0, 1])


def one_each():
    with pyro.plate("members", 3):
        z = pyro.sample("z", SpikeAndSlabPrior(torch.tensor([0.2, 0.5, 0.7])))
        w = pyro.sample("w", dist.Normal(0.0, 2.0).expand([3]), infer={"gate": "z"})
    pyro.sample("y", dist.Normal((z * w).sum(), 1.0), obs=torch.tensor(0.3))


def shared():
    with pyro.plate("gates", 2):
        z = pyro.sample("z", SpikeAndSlabPrior(torch.tensor([0.2, 0.5])))
    with pyro.plate("members", 3):
        w = pyro.sample("w", dist.Normal(0.0, 2.0).expand([3]), infer={"gate": "z", "gate_index": INDEX})
    pyro.sample("y", dist.Normal((z[INDEX] * w).sum(), 1.0), obs=torch.tensor(0.3))


MODELS = pytest.mark.parametrize(
    ("model", "index"), [(one_each, torch.arange(3)), (shared, INDEX)], ids=["one", "shared"]
)


def guide_of(model):
    guide = HardConcreteGuide(model, args=())
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in guide.parameters():
            parameter.normal_()
    return guide


def kl_by_hand(guide, index):
    gates, slab = guide.gates()["z"], guide.distributions()["w"]
    prior = SpikeAndSlabPrior(torch.tensor([0.2, 0.5, 0.7])[: len(gates.log_alpha)])
    weighted = gates.prob_nonzero[index] * kl_divergence(slab, dist.Normal(0.0, 2.0))
    return kl_divergence(gates, prior).sum() + weighted.sum()


@MODELS
@pytest.mark.parametrize("elbo", [ClosedFormKL_ELBO, TraceMeanField_ELBO])
def test_elbo_is_the_likelihood_less_both_kls(elbo, model, index):
    """With value and gradient of KL(Bernoulli‖Bernoulli) + P(z ≠ 0) · KL(slab)."""
    guide = guide_of(model)
    losses = []
    for by_hand in (False, True):
        guide.zero_grad()
        torch.manual_seed(2)
        if by_hand:
            draws = guide()
            mean = (draws["z"][index] * draws["w"]).sum()
            loss = kl_by_hand(guide, index) - dist.Normal(mean, 1.0).log_prob(torch.tensor(0.3))
        else:
            loss = elbo().differentiable_loss(model, guide)
        loss.backward()
        losses.append([loss.detach(), *(parameter.grad.clone() for parameter in guide.parameters())])
    for found, expected in zip(*losses, strict=True):
        torch.testing.assert_close(found, expected)


def test_what_is_not_there_costs_nothing():
    guide = guide_of(one_each)
    with torch.no_grad():
        guide.parameter("log_alpha.z").fill_(-60.0)
    loss = ClosedFormKL_ELBO().differentiable_loss(one_each, guide)
    loss.backward()
    expected = kl_divergence(dist.Bernoulli(torch.zeros(3)), dist.Bernoulli(torch.tensor([0.2, 0.5, 0.7]))).sum()
    expected = expected - dist.Normal(0.0, 1.0).log_prob(torch.tensor(0.3))
    torch.testing.assert_close(loss.detach(), expected)
    assert guide.parameter("loc.w").grad.abs().max() < 1e-12


def test_stock_svi_and_predictive_run():
    guide = guide_of(one_each)
    svi = SVI(one_each, guide, pyro.optim.Adam({"lr": 0.05}), TraceMeanField_ELBO())
    losses = [svi.step() for _ in range(5)]
    assert all(torch.isfinite(torch.tensor(losses)))
    assert Predictive(one_each, guide=guide, num_samples=7)()["w"].shape[0] == 7


def wrong_name():
    with pyro.plate("members", 3):
        z = pyro.sample("z", SpikeAndSlabPrior(0.5).expand([3]))
        pyro.sample("w", dist.Normal(z.new_zeros(3), 2.0), infer={"gate": "gates"})


def drawn_too_late():
    with pyro.plate("members", 3):
        pyro.sample("w", dist.Normal(torch.zeros(3), 2.0), infer={"gate": "z"})
        pyro.sample("z", SpikeAndSlabPrior(0.5).expand([3]))


def no_gate():
    with pyro.plate("members", 3):
        pyro.sample("z", dist.Normal(torch.zeros(3), 1.0))
        pyro.sample("w", dist.Normal(torch.zeros(3), 2.0), infer={"gate": "z"})


def other_shapes():
    with pyro.plate("gates", 2):
        pyro.sample("z", SpikeAndSlabPrior(0.5).expand([2]))
    with pyro.plate("members", 3):
        pyro.sample("w", dist.Normal(torch.zeros(3), 2.0), infer={"gate": "z"})


def events():
    pyro.sample("z", SpikeAndSlabPrior(0.5).expand([3]).to_event(1))
    pyro.sample("w", dist.Normal(torch.zeros(3), 2.0).to_event(1), infer={"gate": "z"})


@pytest.mark.parametrize("model", [wrong_name, drawn_too_late, no_gate])
def test_a_gate_that_is_none_is_refused(model):
    with pytest.raises(StructureError, match=r"site 'w': infer names '\w+', which is no site of gates drawn before it"):
        HardConcreteGuide(model, args=())()


@pytest.mark.parametrize("model", [other_shapes, events])
def test_shapes_that_do_not_go_together_are_refused(model):
    with pytest.raises(StructureError, match="each member needs a gate of its own"):
        HardConcreteGuide(model, args=())()
