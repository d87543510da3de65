"""Evidence for gates: its slopes against autograd's, ½F against the log-likelihood that closing a gate loses."""

import pytest
import torch
from cost_oracle import EXAMPLES
from torch import nn

from l0bayes import sparsify
from l0bayes.inference.selection.evidence import Evidence, slope
from l0bayes.models import LeNet5, WideResNet
from l0bayes.subnetwork.masked import masked_forward

NETS = {name: EXAMPLES[name] for name in EXAMPLES} | {
    "lenet, the paper's gates": (lambda: LeNet5(3), torch.ones(2, 1, 28, 28), {"conv*": "unit", "fc*": "input"}),
    "wide resnet": (lambda: WideResNet(10, 1, 3), torch.ones(2, 3, 8, 8), "unit"),
}


@pytest.fixture(autouse=True)
def _double(_same_start):
    torch.set_default_dtype(torch.float64)


@pytest.mark.parametrize("kind", NETS)
def test_the_slope_of_a_gate_is_what_autograd_finds_in_the_masked_network(kind):
    build, example, asked = NETS[kind]
    net = build().eval()
    x = example if not example.is_floating_point() else torch.randn_like(example.double())
    groups = sparsify(net, x, gates=asked).groups
    gates = {group.name: torch.ones(group.size, requires_grad=True) for group in groups}
    masked_forward(net, groups, gates, x).sin().sum().backward()
    parameters = dict(net.named_parameters())
    for group in groups:
        torch.testing.assert_close(slope(group, parameters), gates[group.name].grad, rtol=1e-9, atol=1e-11)


def test_half_of_it_is_what_closing_a_gate_loses_where_the_log_likelihood_is_a_parabola():
    """Linear regression on orthogonal columns: closing feature j loses ½ θⱼ² Σ xⱼ² / σ² nats, and no more."""
    num_data, sigma = 40_000, 1.5
    theta = torch.tensor([0.0, 0.02, 0.05, 0.1, -0.2, 0.4])
    x = torch.linalg.qr(torch.randn(num_data, 6))[0] * num_data**0.5
    y = x @ theta + sigma * torch.randn(num_data)
    net = nn.Sequential(nn.Linear(6, 1, bias=False))
    net[0].weight.data = (x.T @ y / num_data).reshape(1, 6)  # the least squares
    (group,) = sparsify(nn.Sequential(net[0], nn.Identity()), x[:2], gates="input").groups
    evidence, rows = Evidence([group], window=1e9), 100
    for batch, target in zip(x.split(rows), y.split(rows), strict=True):
        net.zero_grad()
        loss = num_data / rows * ((net(batch).squeeze(1) - target) ** 2).sum() / (2 * sigma**2)
        loss.backward()
        evidence.update(net, {group.name: torch.ones(6, dtype=torch.bool)}, rows / num_data)
    lost = 0.5 * net[0].weight.detach()[0] ** 2 * num_data / sigma**2
    found = evidence.nats()[group.name]
    # The mean of 400 squares of normal numbers: a standard error of 7 %; at five of them 1 in 10⁶ of six fails.
    torch.testing.assert_close(found, lost, rtol=0.36, atol=1e-3)


def test_closed_gates_keep_what_was_last_seen_of_them_beside_the_open_ones():
    net = nn.Sequential(nn.Linear(3, 1, bias=False))
    (group,) = sparsify(net, torch.ones(2, 3), gates="input").groups
    evidence, everything = Evidence([group], window=2), torch.ones(3, dtype=torch.bool)
    net[0].weight.data.fill_(1.0)
    net[0].weight.grad = torch.tensor([[1.0, 2.0, 3.0]])
    evidence.update(net, {group.name: everything}, 1.0)
    torch.testing.assert_close(evidence.nats()[group.name], torch.tensor([0.5, 2.0, 4.5]))
    net[0].weight.grad = torch.tensor([[0.0, 0.0, 0.0]])
    evidence.update(net, {group.name: torch.tensor([True, False, True])}, 1.0)
    # (¼·1 + ½·0) / ¾, halved: a third of what it was, and so for the one that is closed
    torch.testing.assert_close(evidence.nats()[group.name], torch.tensor([1 / 6, 2 / 3, 1.5]))


def test_gates_that_have_never_been_open_have_none():
    (group,) = sparsify(nn.Sequential(nn.Linear(3, 1)), torch.ones(2, 3), gates="input").groups
    assert Evidence([group], window=5).nats()[group.name].tolist() == [0.0] * 3
