"""The weight of the KL rises step by step, and multiplies the KL alone."""

import signal
from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from drawn import fit
from toy_problem import Surprise, assert_equal_states, blobs, loader, pair, state

from l0bayes import L0Prior
from l0bayes.inference import ClosedFormKL_ELBO, HardConcreteGuide
from l0bayes.inference.objective.loss import Objective

STEPS = 3  # an epoch


@pytest.fixture
def weights(monkeypatch):
    """Those that each training step used, in order."""
    used = []
    forward = Objective.forward

    def watched(self, *batch):
        used.append(self.kl_weight)
        return forward(self, *batch)

    monkeypatch.setattr(Objective, "forward", watched)
    return used


def run(warmup, epochs=4, path=None, batches=None, **options):
    model, guide = pair()
    batches = batches or loader()
    fit(model, guide, batches, epochs=epochs, kl_warmup=warmup, checkpoint=path, progress=False, **options)
    return model, guide


@pytest.mark.parametrize("warmup", [0.5, 1, 2, 2.5, 4])
def test_it_rises_linearly_over_so_many_epochs(warmup, weights):
    run(warmup)
    steps = 4 * STEPS
    assert weights == pytest.approx([min(1.0, step / (STEPS * warmup)) for step in range(1, steps + 1)])


def test_one_that_never_ends_is_refused():
    with pytest.raises(ValueError, match="kl_warmup must be at most epochs, 4; got 10"):
        run(10)


def test_without_it_the_weight_is_one(weights):
    run(0)
    assert weights == [1.0] * 4 * STEPS


def test_with_accumulation_it_goes_by_steps(weights):
    """Three batches make two steps, of two and of one."""
    run(2, epochs=3, accumulate=2)
    assert weights == pytest.approx([0.25, 0.25, 0.5, 0.75, 0.75, 1.0, 1.0, 1.0, 1.0])


def test_it_is_resumed_within_an_epoch(weights, tmp_path):
    whole = run(2.5, path=tmp_path / "whole")
    expected = list(weights)
    weights.clear()
    with pytest.raises(KeyboardInterrupt):
        run(2.5, path=tmp_path / "parts", batches=Surprise(loader(), 5, partial(signal.raise_signal, signal.SIGINT)))
    parts = run(2.5, path=tmp_path / "parts")
    assert weights == expected
    assert_equal_states(state(*whole), state(*parts))


# -- what is weighted ------------------------------------------------------------------------------------------------


def losses(model, guide, *batch, weights):
    torch.set_default_dtype(torch.float64)
    objective = Objective(ClosedFormKL_ELBO(), model, guide)
    found = []
    for weight in weights:
        objective.kl_weight = weight
        torch.manual_seed(3)
        found.append(objective(*batch))
    return found


@pytest.mark.parametrize("options", [{}, {"inclusion": 0.2}, {"cost": "macs"}, {"cost": "paper"}, {"slab_scale": 0.5}])
def test_the_loss_is_the_likelihood_and_so_much_of_the_kl(options):
    model, guide = pair(**options)
    one, half, none = losses(model, guide, *blobs(), weights=[1.0, 0.5, 1e-9])
    kl = one - none
    assert kl > 1
    torch.testing.assert_close(half, none + 0.5 * kl)
    gates = list(guide.parameters())
    of_one, of_half, of_none = (torch.autograd.grad(loss, gates) for loss in (one, half, none))
    torch.testing.assert_close(of_half, tuple((a + b) / 2 for a, b in zip(of_one, of_none, strict=True)))


def test_the_kl_by_hand():
    """Each gate pays its code cost with P(z ≠ 0), each weight the KL of normals; the data are not weighted."""

    def program():
        z = pyro.sample("z", L0Prior(torch.tensor(0.7)).expand([3]).to_event(1))
        w = pyro.sample("w", dist.Normal(0.0, 2.0).expand([3]).to_event(1))
        pyro.sample("y", dist.Normal((z * w).sum(), 1.0), obs=torch.tensor(2.0))

    torch.set_default_dtype(torch.float64)
    model = pyro.nn.PyroModule()
    model.forward = program
    guide = HardConcreteGuide(program)
    one, some = losses(model, guide, weights=[1.0, 0.3])
    slab = torch.distributions.kl_divergence(guide.distributions()["w"].base_dist, dist.Normal(0.0, 2.0))
    by_hand = 0.7 * guide.gates()["z"].prob_nonzero.sum() + slab.sum()
    torch.testing.assert_close(one - some, 0.7 * by_hand)
