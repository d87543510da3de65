"""Spike-and-slab regression as a Pyro user writes it, and the library's Regressor: both find the support."""

import pyro
import pytest
import torch
from guide_models import regression
from pyro.infer import SVI, Predictive, TraceMeanField_ELBO
from torch import nn

from l0bayes import sparsify
from l0bayes.inference import ClosedFormKL_ELBO, HardConcreteGuide
from l0bayes.models import Regressor

# Effects of 1.5 and more against noise of 0.5 and n = 200 have z-scores of 40: no draw of the data hides them. An
# open gate without effect costs log(5 / 0.036) = 5 nats of slab and gains z^2 / 2: more in 1 data set of 1,000.
# Over 12 seeds the largest P(z != 0) of such a gate was 0.1 after as many steps; the bound below is 0.5.
TRUTH = torch.tensor([2.0, 0.0, 0.0, -1.5, 0.0, 3.0, 0.0, 0.0])
SUPPORT = TRUTH != 0


def simulated(rows=200):
    x = torch.randn(rows, len(TRUTH))
    return x, x @ TRUTH + 0.5 * torch.randn(rows)


def train(model, guide, *args, elbo=TraceMeanField_ELBO, lr=0.1, steps=1000):
    svi = SVI(model, guide, pyro.optim.Adam({"lr": lr}), elbo())
    for _ in range(steps):
        svi.step(*args)


@pytest.mark.parametrize(
    ("subsample_size", "elbo"), [(None, TraceMeanField_ELBO), (50, TraceMeanField_ELBO), (50, ClosedFormKL_ELBO)]
)
def test_a_hand_written_model_finds_the_support(subsample_size, elbo):
    x, y = simulated()
    guide = HardConcreteGuide(regression, init_open=0.5)
    train(regression, guide, x, y, subsample_size, elbo=elbo)
    share = guide.gates()["z"].prob_nonzero.detach()
    assert share[SUPPORT].min() > 0.95
    assert share[~SUPPORT].max() < 0.5
    effect = guide.point()["z"] * guide.median()["w"]
    torch.testing.assert_close(effect[SUPPORT], TRUTH[SUPPORT], atol=0.3, rtol=0)
    assert effect[~SUPPORT].abs().max() < 0.2


def test_predictive_predicts_new_data():
    x, y = simulated()
    guide = HardConcreteGuide(regression, init_open=0.5)
    train(regression, guide, x, y, steps=600)
    new_x, new_y = simulated(100)
    samples = Predictive(regression, guide=guide, num_samples=200)(new_x)
    assert samples["y"].shape == (200, 100)
    assert samples["w"].reshape(200, -1).shape == (200, 8)
    assert set(samples) == {"z", "w", "y"}
    error = samples["y"].mean(0) - new_y
    assert error.square().mean().sqrt() < 0.7  # the noise is 0.5
    inside = (new_y > samples["y"].quantile(0.025, 0)) & (new_y < samples["y"].quantile(0.975, 0))
    assert inside.float().mean() > 0.85


def test_the_librarys_regressor_finds_the_support_too():
    x, y = simulated()
    net = nn.Sequential(nn.Linear(len(TRUTH), 16), nn.ReLU(), nn.Linear(16, 1), nn.Flatten(0))
    sparse = sparsify(net, x[:2], gates={"0": "input"}, code_cost=1.0)
    model = Regressor(sparse, num_data=len(x), noise_scale=0.5)
    guide = HardConcreteGuide(model, init_open=0.5)
    train(model, guide, x, y, lr=0.02)
    share = guide.gates()["0.input"].prob_nonzero.detach()
    assert share[SUPPORT].min() > 0.95
    assert share[~SUPPORT].max() < 0.5
    prediction = Predictive(model, guide=guide, num_samples=50)(x)["y"].mean(0)
    assert (prediction - y).square().mean().sqrt() < 0.8
