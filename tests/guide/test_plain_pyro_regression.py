"""Spike-and-slab regression as a Pyro user writes it, and the library's Regressor: both find the support."""

import pyro
import pytest
import torch
from guide_models import regression
from pyro.infer import SVI, Predictive, TraceMeanField_ELBO
from torch import nn

from l0bayes import sparsify
from l0bayes.inference.elbo import ClosedFormKL_ELBO
from l0bayes.inference.hard_concrete_guide import HardConcreteGuide
from l0bayes.models import Regressor

# Effects of 1.5 and more against noise of 0.5 and n = 200: a z-score of 40, so that no seed can hide the support;
# for a feature without effect the slab's Occam factor, about log(2 * 28) nats, beats a chance gain of z^2 / 2 in
# all but 1 of 200 data sets each, and the data here are fixed.
TRUTH = torch.tensor([2.0, 0.0, 0.0, -1.5, 0.0, 3.0, 0.0, 0.0])
SUPPORT = TRUTH != 0


def simulated(rows=200):
    x = torch.randn(rows, len(TRUTH))
    return x, x @ TRUTH + 0.5 * torch.randn(rows)


def train(model, guide, *args, elbo=TraceMeanField_ELBO, steps=1000):
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.02}), elbo())
    for _ in range(steps):
        svi.step(*args)


@pytest.mark.parametrize("elbo", [TraceMeanField_ELBO, ClosedFormKL_ELBO])
@pytest.mark.parametrize("subsample_size", [None, 50])
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
    train(regression, guide, x, y)
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
    train(model, guide, x, y)
    share = guide.gates()["0.input"].prob_nonzero.detach()
    assert share[SUPPORT].min() > 0.95
    assert share[~SUPPORT].max() < 0.5
    prediction = Predictive(model, guide=guide, num_samples=50)(x)["y"].mean(0)
    assert (prediction - y).square().mean().sqrt() < 0.8
