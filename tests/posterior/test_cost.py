"""Parameters and multiply-accumulates, counted by hand."""

import pytest
import torch
from posterior_guides import LOG_ALPHA, classifier, p_nonzero
from torch import nn

from l0bayes import compact
from l0bayes.errors import StructureError
from l0bayes.models import MLP
from l0bayes.posterior import Cost, cost, expected_l0


def test_an_mlp():
    expected = Cost(parameters=(5 * 7 + 7) + (7 * 3 + 3), macs=5 * 7 + 7 * 3)
    assert cost(MLP(5, 7, 3), torch.zeros(1, 5)) == expected


@pytest.mark.parametrize("batch", [1, 2, 7, 100])
def test_the_batch_does_not_matter(batch):
    assert cost(MLP(5, 7, 3), torch.zeros(batch, 5)) == cost(MLP(5, 7, 3), torch.zeros(1, 5))


def test_the_papers_lenet_300_100():
    assert cost(MLP(784, 300, 100, 10), torch.zeros(1, 28, 28)) == Cost(266_610, 784 * 300 + 300 * 100 + 100 * 10)


def test_a_convolution():
    """3 × 3 kernels over 4 channels at 6 × 6 places; a batch norm has parameters and no MACs."""
    net = nn.Sequential(nn.Conv2d(4, 8, 3), nn.BatchNorm2d(8)).eval()
    assert cost(net, torch.zeros(2, 4, 8, 8)) == Cost(8 * 4 * 9 + 8 + 16, 8 * 4 * 9 * 36)


def test_layers_without_bias_and_shared_layers():
    layer = nn.Linear(5, 5, bias=False)
    assert cost(nn.Sequential(layer, nn.ReLU(), layer), torch.zeros(1, 5)) == Cost(25, 50)


def test_a_compacted_network_costs_what_is_left():
    """Of 4 inputs 3 are open, of 3 hidden units 2."""
    model, guide = classifier()
    small = compact(model, guide)
    assert cost(small, torch.zeros(1, 4)) == Cost((3 * 2 + 2) + (2 * 2 + 2), 3 * 2 + 2 * 2)


def test_a_network_that_is_closed_altogether_keeps_one_unit_a_layer():
    model, guide = classifier()
    with torch.no_grad():
        for parameter in guide.parameters():
            parameter.fill_(-20.0)
    assert cost(compact(model, guide), torch.zeros(1, 4)) == Cost((1 + 1) + (2 + 2), 1 + 2)


def test_nothing_is_learned_and_modes_stay():
    net = nn.Sequential(MLP(5, 7, 3), nn.Dropout()).train()
    cost(net, torch.zeros(1, 5))
    assert all(module.training for module in net.modules())
    assert all(parameter.grad is None for parameter in net.parameters())


def test_expected_l0():
    """A hidden unit has a bias, and a weight for each open input; 2 weights read it."""
    model, guide = classifier()
    inputs, units = (p_nonzero(torch.tensor(LOG_ALPHA[site])).sum() for site in ("fc1.input", "fc2.input"))
    assert expected_l0(model, guide) == pytest.approx((units * (inputs + 1 + 2)).item(), rel=1e-6)
    assert expected_l0(model.net, guide) == expected_l0(model, guide)


@pytest.mark.parametrize(("log_alpha", "expected"), [(50.0, 4 * 3 + 3 + 3 * 2), (-50.0, 0)])
def test_expected_l0_at_the_ends(log_alpha, expected):
    model, guide = classifier()
    with torch.no_grad():
        for parameter in guide.parameters():
            parameter.fill_(log_alpha)
    assert expected_l0(model, guide) == pytest.approx(expected, abs=1e-10)


def test_expected_l0_is_the_mean_over_draws():
    model, guide = classifier()
    draws = {site: gate.sample((20_000,)) != 0 for site, gate in guide.gates().items()}
    count = draws["fc2.input"].sum(1) * (draws["fc1.input"].sum(1) + 1 + 2)
    error = count.float().std().item() / 20_000**0.5
    assert expected_l0(model, guide) == pytest.approx(count.float().mean().item(), abs=4 * error)


def test_expected_l0_of_a_model_without_gates():
    with pytest.raises(StructureError, match="exactly one network made by sparsify"):
        expected_l0(MLP(5, 7, 3), classifier()[1])
