"""Weights that are normal while a network runs: outputs have the moments that draws of the weights give them.

Statistical tests are at four to five standard errors, with fixed seeds.
"""

import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from l0bayes import sparsify
from l0bayes.models import MLP, LeNet5
from l0bayes.subnetwork.noisy_weights import Noise, NoisyWeights, read_once


def layer(inputs=5, outputs=3):
    torch.manual_seed(0)
    weight, sd = torch.randn(outputs, inputs, dtype=torch.float64), torch.rand(outputs, inputs, dtype=torch.float64)
    return weight, sd


def test_local_outputs_have_the_moments_of_drawn_weights():
    weight, sd = layer()
    x, bias, draws = torch.randn(2, 5, dtype=torch.float64), torch.randn(3, dtype=torch.float64), 20_000
    with NoisyWeights({"w": weight}, Noise({"w": sd}, frozenset({"w"})), rows=2):
        found = torch.stack([F.linear(x, weight, bias) for _ in range(draws)])
    mean, variance = x @ weight.T + bias, x.square() @ sd.square().T
    assert ((found.mean(0) - mean).abs() < 4.5 * (variance / draws).sqrt()).all()
    assert ((found.var(0) / variance - 1).abs() < 4.5 * (2 / draws) ** 0.5).all()
    # Rows are independent, which one draw of the weights for all would not make them.
    rows = torch.corrcoef(found[:, :, 0].T)[0, 1]
    assert rows.abs() < 4.5 / draws**0.5


def test_gradients_are_those_of_the_normal():
    """d E f / dσ for f quadratic, in closed form: Σ over outputs of x² · 2σ."""
    weight, sd = layer()
    weight.requires_grad_()
    sd.requires_grad_()
    x, draws = torch.randn(1, 5, dtype=torch.float64), 20_000
    with NoisyWeights({"w": weight}, Noise({"w": sd}, frozenset({"w"})), rows=draws):
        loss = F.linear(x.expand(draws, 5), weight).square().mean(0).sum()
    by_weight, by_sd = torch.autograd.grad(loss, (weight, sd))
    expected = 2 * x.square() * sd
    torch.testing.assert_close(by_sd, expected, rtol=0.08, atol=0.01)
    torch.testing.assert_close(by_weight, 2 * (x @ weight.T).T @ x, rtol=0.08, atol=0.15)


def test_a_variance_of_zero_has_gradients():
    weight, sd = layer()
    sd.requires_grad_()
    with NoisyWeights({"w": weight}, Noise({"w": sd}, frozenset({"w"})), rows=1):
        F.linear(torch.zeros(1, 5, dtype=torch.float64), weight).sum().backward()
    assert torch.equal(sd.grad, torch.zeros_like(sd))


def test_everything_else_sees_one_draw():
    weight, sd = layer(3, 3)
    x = torch.randn(4, 3, dtype=torch.float64)
    with NoisyWeights({"w": weight}, Noise({"w": sd}), rows=4):
        by_linear, by_product, again = F.linear(x, weight), x @ weight.T, F.linear(input=x, weight=weight)
    torch.testing.assert_close(by_linear, by_product)
    torch.testing.assert_close(by_linear, again)
    assert not torch.allclose(by_linear, x @ weight.T)


def test_local_only_with_a_row_a_datum():
    weight, sd = layer()
    with NoisyWeights({"w": weight}, Noise({"w": sd}, frozenset({"w"})), rows=2):
        tokens = torch.ones(2, 4, 5, dtype=torch.float64)
        found = F.linear(tokens, weight)
    assert torch.equal(found[0, 0], found[1, 3])  # the same weights, so the same noise


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.inner, self.last = nn.Linear(4, 3), nn.Linear(3, 3), nn.Linear(3, 2)

    def forward(self, x):
        h = self.inner(self.first(x).relu()).relu()
        return self.last(self.inner(h)) + self.last.weight.sum()


def test_what_is_read_once():
    x = torch.randn(2, 784)
    assert read_once(MLP(784, 30, 10), (x,)) == {"fc1.weight", "fc2.weight"}
    assert read_once(LeNet5(), (x.reshape(2, 1, 28, 28),)) == {"fc1.weight", "fc2.weight"}
    assert read_once(Twice(), (torch.randn(2, 4),)) == {"first.weight"}
    tokens = nn.Linear(4, 2)
    assert read_once(tokens, (torch.randn(2, 7, 4),)) == frozenset()


@pytest.mark.parametrize("gates", ["unit", "input", "weight"])
def test_the_subnetwork_has_the_moments_of_masked_draws(gates):
    """Through the selection: training draws against weights drawn, masked and run in full."""
    torch.manual_seed(0)
    net = MLP(4, 5, 2).double()
    sparse = sparsify(net, torch.randn(2, 4, dtype=torch.float64), gates=gates, slab="normal", inclusion=0.5)
    with torch.no_grad():
        for parameter in sparse.child("log_sd").parameters():
            parameter.copy_(torch.randn_like(parameter) - 1)
    values = {g.name: (torch.rand(g.size) * (torch.arange(g.size) % 2)).double() for g in sparse.groups}
    x, draws = torch.randn(1, 4, dtype=torch.float64), 4000
    noise = Noise(sparse._slab.sd(), sparse._read_once)
    assert noise.local == {"fc1.weight", "fc2.weight"}
    with torch.no_grad():
        local = sparse._run(values, None, noise, (x.expand(1, 4),), {})
        local = torch.cat([sparse._run(values, None, noise, (x,), {}) for _ in range(draws)])
        whole = torch.cat([sparse.run_with(values, sparse.draw_weights(), x) for _ in range(draws)])
    spread = ((local.var(0) + whole.var(0)) / draws).sqrt()
    assert ((local.mean(0) - whole.mean(0)).abs() < 4.5 * spread).all()
    assert ((local.var(0) / whole.var(0) - 1).abs() < 0.2).all()
    assert local.var(0).min() > 1e-4


def test_means_are_what_points_are():
    torch.manual_seed(0)
    net, x = MLP(4, 5, 2), torch.randn(3, 4)
    sparse = sparsify(net, x, gates="unit", slab="normal", inclusion=0.5)
    values = {g.name: torch.ones(g.size) for g in sparse.groups}
    torch.testing.assert_close(sparse.run(values, x), net(x))
