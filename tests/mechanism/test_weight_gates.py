"""Gates on single weights: nothing gets faster, everything else holds."""

import copy

import pytest
import torch
from exact_examples import EXAMPLES
from subnetwork_oracle import (
    STATES,
    assert_same,
    assert_same_step,
    constant_gates,
    random_gates,
    spread_guide,
    subnetwork,
)
from torch import nn
from torch.func import functional_call

from l0bayes import compact, gate_table, sparsify
from l0bayes.inference import predict
from l0bayes.models import MLP
from l0bayes.subnetwork.compacted import compact_network
from l0bayes.subnetwork.selection import Selector

KINDS = {
    "mlp": "weight",
    "densenet": "weight",
    "squeeze and excitation": "weight",
    "group norm": {"conv2": "weight", "fc": "weight"},
    "transformer": {"widen": "weight", "*.linear?": "weight", "head": "weight"},
}


@pytest.fixture(autouse=True)
def _double(_same_start):
    torch.set_default_dtype(torch.float64)


def gated(kind):
    example = EXAMPLES[kind]
    net = example.build()
    sparse = sparsify(net, example.data(2), gates=KINDS[kind])
    net.train()(example.data(8))
    return sparse, example.data(4)


def multiplied(sparse, gates, *inputs):
    """The definition, by hand: every weight times its gate."""
    weights = {f"{group.layer}.weight": group for group in sparse.groups}
    tensors = {
        name: parameter * gates[weights[name].name].reshape(parameter.shape)
        for name, parameter in sparse.net.named_parameters()
        if name in weights
    }
    return functional_call(sparse.net, tensors, inputs)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("kind", KINDS)
def test_loss_outputs_and_gradients_are_the_masked_networks(kind, state, training):
    sparse, x = gated(kind)
    sparse.net.train(training)
    log_alphas = {
        group.name: (STATES[state] + 0.3 * torch.randn(group.size)).requires_grad_() for group in sparse.groups
    }
    for noise in range(2):
        assert_same_step(sparse, (x,), log_alphas, noise, multiplied)


@pytest.mark.parametrize("kind", KINDS)
def test_every_weight_has_a_gate(kind):
    sparse, _ = gated(kind)
    for group in sparse.groups:
        assert group.size == sparse.net.get_submodule(group.layer).weight.numel()
        assert not group.removable
    layers = [name for name, module in sparse.net.named_modules() if isinstance(module, nn.Linear | nn.Conv2d)]
    if KINDS[kind] == "weight":
        assert {group.layer for group in sparse.groups} == set(layers)


@pytest.mark.parametrize("kind", KINDS)
def test_the_compacted_network_keeps_its_shapes_and_has_zeros_for_weights(kind):
    sparse, x = gated(kind)
    guide = spread_guide(sparse)
    small, points = compact(sparse, guide), guide.point()
    assert type(small) is type(sparse.net)
    shapes = {name: parameter.shape for name, parameter in sparse.net.named_parameters()}
    assert {name: parameter.shape for name, parameter in small.named_parameters()} == shapes
    for group in sparse.groups:
        weight, full = small.get_submodule(group.layer).weight, sparse.net.get_submodule(group.layer).weight
        assert torch.equal(weight != 0, points[group.name].reshape(weight.shape) != 0)
        assert_same(weight, full * points[group.name].reshape(weight.shape))
    assert_same(small(x), predict(sparse, guide, x))
    table = gate_table(guide).groupby("site")["open"].sum()
    assert all(table[group.name] == small.get_submodule(group.layer).weight.count_nonzero() for group in sparse.groups)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_all_closed_and_all_open(value):
    sparse, x = gated("mlp")
    gates = constant_gates(sparse, value)
    expected = sparse.net(x) if value else sparse.net.fc3.bias.expand(4, 4)
    assert_same(subnetwork(sparse, gates, x), expected)
    assert_same(compact_network(sparse.net, sparse.groups, gates)(x), expected)


def test_rounding_changes_nothing():
    sparse, x = gated("mlp")
    gates = random_gates(sparse)
    small = compact_network(sparse.net, sparse.groups, gates, 8)
    assert_same(small(x), subnetwork(sparse, gates, x))
    assert small.fc1.weight.shape == (6, 7)


@pytest.mark.parametrize("share_open", [0.0, 0.5, 1.0])
def test_single_weights_units_and_inputs_go_together(share_open):
    net, x = MLP(7, 6, 5, 4), torch.randn(9, 7)
    sparse = sparsify(net, x, gates={"fc1": "unit", "fc2": "weight", "fc3": "input"})
    for noise in range(3):
        log_alphas = {g.name: torch.full((g.size,), -1.0 + 4 * share_open) for g in sparse.groups}
        assert_same_step(sparse, (x,), {n: v.requires_grad_() for n, v in log_alphas.items()}, noise)
    gates = random_gates(sparse, share_open)
    selection = Selector(net, sparse.groups)(net, gates)
    opened = [max(int((gates[site] != 0).sum()), 1) for site in ("fc1.unit", "fc3.input")]
    assert selection.tensors["fc2.weight"].shape == (opened[1], opened[0])
    assert_same(compact_network(net, sparse.groups, gates)(x), subnetwork(sparse, gates, x))


def test_running_leaves_the_network_as_it_was():
    sparse, x = gated("densenet")
    sparse.eval()
    before = copy.deepcopy(sparse.net.state_dict())
    subnetwork(sparse, random_gates(sparse), x)
    compact_network(sparse.net, sparse.groups, random_gates(sparse))
    assert all(torch.equal(before[name], value) for name, value in sparse.net.state_dict().items())
