"""Likelihoods: log-densities by hand, scaled to the whole data set exactly."""

import math

import pyro
import pytest
import torch
from pyro import poutine
from torch import nn
from torch.nn.functional import log_softmax

from l0bayes import sparsify
from l0bayes.models import MLP, Classifier, Regressor

BATCH, CLASSES = 8, 3


@pytest.fixture(autouse=True)
def _double(_same_start):
    torch.set_default_dtype(torch.float64)


def log_likelihood(model, x, y):
    """What the model's trace says about its observed site."""
    trace = poutine.trace(model).get_trace(x, y)
    trace.compute_log_prob()
    return trace.nodes["y"]["log_prob_sum"].item()


@pytest.mark.parametrize("num_data", [BATCH, 1000, 60_000, 3])
def test_classifier_is_categorical_scaled_by_data_over_batch(num_data):
    net = MLP(6, 5, CLASSES)
    x, y = torch.randn(BATCH, 6), torch.randint(0, CLASSES, (BATCH,))
    by_hand = log_softmax(net(x), -1)[range(BATCH), y].sum().item() * num_data / BATCH
    assert log_likelihood(Classifier(net, num_data), x, y) == pytest.approx(by_hand, rel=1e-13)


@pytest.mark.parametrize("shape", [(BATCH,), (BATCH, 1), (BATCH, 4)])
@pytest.mark.parametrize("noise_scale", [1.0, 0.3])
def test_regressor_is_normal_independent_over_targets(noise_scale, shape):
    net = nn.Sequential(nn.Linear(6, math.prod(shape[1:])), nn.Unflatten(-1, shape[1:])) if shape[1:] else None
    net = net or nn.Sequential(nn.Linear(6, 1), nn.Flatten(0))
    x, y = torch.randn(BATCH, 6), torch.randn(shape)
    squares = ((net(x) - y) / noise_scale).square().sum().item()
    by_hand = -0.5 * squares - y.numel() * (math.log(noise_scale) + 0.5 * math.log(2 * math.pi))
    model = Regressor(net, num_data=500, noise_scale=noise_scale)
    assert log_likelihood(model, x, y) == pytest.approx(by_hand * 500 / BATCH, rel=1e-12)


def test_batches_of_one_epoch_add_up_to_the_whole_data_set():
    net = MLP(6, 5, CLASSES)
    x, y = torch.randn(30, 6), torch.randint(0, CLASSES, (30,))
    model = Classifier(net, 30)
    whole = log_likelihood(model, x, y)
    parts = [log_likelihood(model, x[i : i + 10], y[i : i + 10]) / 3 for i in (0, 10, 20)]
    assert sum(parts) == pytest.approx(whole, rel=1e-12)


def test_the_scale_is_that_of_the_data_site_alone():
    sparse = sparsify(MLP(6, 5, CLASSES), torch.zeros(2, 6))
    trace = poutine.trace(Classifier(sparse, 800)).get_trace(torch.randn(BATCH, 6), torch.zeros(BATCH).long())
    assert trace.nodes["y"]["scale"] == 100.0
    assert trace.nodes["fc1.unit"]["scale"] == 1.0
    assert trace.nodes["y"]["fn"].batch_shape == (BATCH,)


def test_without_targets_it_draws_them():
    x = torch.randn(BATCH, 6)
    classes = Classifier(MLP(6, 5, CLASSES), 100)(x)
    assert classes.shape == (BATCH,)
    assert classes.dtype == torch.int64
    assert Regressor(MLP(6, 5, 2), 100)(x).shape == (BATCH, 2)


def test_drawn_targets_follow_the_logits():
    # 40,000 draws of a class of probability 0.8: 5 standard deviations, a false alarm in 1.7 million.
    net = nn.Linear(1, 2)
    with torch.no_grad():
        net.weight.zero_()
        net.bias.copy_(torch.tensor([0.2, 0.8]).log())
    share = Classifier(net, 10)(torch.zeros(40_000, 1)).double().mean().item()
    assert abs(share - 0.8) < 5 * math.sqrt(0.8 * 0.2 / 40_000)


def test_latents_can_be_drawn_without_data():
    sparse = sparsify(MLP(6, 5, CLASSES), torch.zeros(2, 6), gates="input")
    latents = Classifier(sparse, 100).sample_latents()
    assert {name: tuple(value.shape) for name, value in latents.items()} == {
        "fc1.input": (6,),
        "fc2.input": (5,),
    }
    assert Classifier(MLP(6, 5, CLASSES), 100).sample_latents() == {}


@pytest.mark.parametrize("local", [False, True])
def test_a_plain_network_is_trained_by_stock_svi(local):
    with pyro.settings.context(module_local_params=local):
        net = MLP(6, 5, CLASSES)
        before = [parameter.clone() for parameter in net.parameters()]
        loss = pyro.infer.Trace_ELBO()
        svi = pyro.infer.SVI(Classifier(net, 100), lambda *_: None, pyro.optim.Adam({"lr": 0.1}), loss)
        svi.step(torch.randn(BATCH, 6), torch.randint(0, CLASSES, (BATCH,)))
        assert not any(torch.equal(old, new) for old, new in zip(before, net.parameters(), strict=True))
