"""Dropout, an option of every network."""

import math
import re

import pytest
import torch

from l0bayes.models import MLP, LeNet5, WideResNet

NETS = {
    "mlp": (lambda p: MLP(12, 40, 20, 5, dropout=p), (12,)),
    "lenet5": (lambda p: LeNet5(dropout=p), (1, 28, 28)),
    "wrn": (lambda p: WideResNet(10, 1, dropout=p), (3, 16, 16)),
}


@pytest.fixture(params=NETS)
def made(request):
    """How the network is made, and a batch."""
    make, shape = NETS[request.param]
    return make, torch.randn(4, *shape)


def test_it_is_drawn_in_training_only(made):
    make, x = made
    net = make(0.5)
    assert not torch.equal(net(x), net(x))
    net.eval()
    assert torch.equal(net(x), net(x))


def test_without_it_training_is_deterministic(made):
    make, x = made
    net, state = make(0.0), torch.get_rng_state()
    assert torch.equal(net(x), net(x))
    assert torch.equal(torch.get_rng_state(), state)


def test_features_that_stay_make_up_for_those_that_go():
    # The last layer is linear in them, so the mean output is the output without dropout; 4000 draws, 5 standard errors.
    net, x = MLP(3, 50, 2, dropout=0.3).double(), torch.randn(1, 3, dtype=torch.float64)
    draws = net(x.expand(4000, 3))
    error = draws.std(0) / math.sqrt(len(draws))
    assert ((draws.mean(0) - net.eval()(x)[0]).abs() < 5 * error).all()


@pytest.mark.parametrize("dropout", [-0.1, 1, 1.5, math.nan])
def test_impossible_values_are_refused(made, dropout):
    message = re.escape(f"dropout must be a probability in [0, 1), 0 for none; got {dropout!r}")
    with pytest.raises(ValueError, match=message):
        made[0](dropout)
