"""Training mode: batch statistics, running statistics, and a user's network that is itself again after every run."""

import copy

import pytest
import torch
from exact_examples import EXAMPLES, Text, gated
from subnetwork_oracle import assert_same, assert_same_step, constant_gates, library, masked, random_gates, subnetwork
from torch import nn

from l0bayes import sparsify

# Norms, each with the layer that reads the same features.
NORMS = {
    "wide resnet": {
        f"stage{stage}.{block}.bn{number}": f"stage{stage}.{block}.conv{number}"
        for stage in (1, 2, 3)
        for block in (0, 1)
        for number in (1, 2)
    }
    | {"bn": "fc"},
    "densenet": {"norms.0": "convs.0", "norms.1": "convs.1", "norms.2": "convs.2", "norms.3": "fc"},
    "squeeze and excitation": {"norm": "conv2"},
}


@pytest.fixture(autouse=True)
def _double(_same_start):
    torch.set_default_dtype(torch.float64)


def gates_of_step(sparse, step):
    """Two thirds open, others each step."""
    return {
        group.name: ((torch.arange(group.size) + step) % 3 > 0) * torch.linspace(0.3, 1.0, group.size)
        for group in sparse.groups
    }


@pytest.mark.parametrize("kind", NORMS)
def test_running_statistics_follow_the_masked_networks_at_open_channels_and_stay_at_closed_ones(kind):
    sparse, data = gated(kind), EXAMPLES[kind].data
    sparse.net.train()
    readers = EXAMPLES[kind].readers
    for step in range(3):
        gates, x = gates_of_step(sparse, step), data(4)
        old, full = copy.deepcopy(sparse.net), copy.deepcopy(sparse)
        masked(full, gates, x)
        subnetwork(sparse, gates, x)
        for norm, reader in NORMS[kind].items():
            opened = readers[reader](gates) != 0
            assert 0 < opened.sum() < len(opened)
            for name in (f"{norm}.running_mean", f"{norm}.running_var"):
                now, expected, before = (net.get_buffer(name) for net in (sparse.net, full.net, old))
                assert_same(now[opened], expected[opened])
                assert torch.equal(now[~opened], before[~opened])
                assert not torch.equal(now[opened], before[opened])
            assert int(sparse.net.get_buffer(f"{norm}.num_batches_tracked")) == step + 3  # two before


@pytest.mark.parametrize("momentum", [None, 0.3, 1.0])
def test_the_momentum_of_running_statistics_counts(momentum):
    net = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5, momentum=momentum), nn.ReLU(), nn.Linear(5, 3))
    sparse = sparsify(net, torch.randn(3, 6))
    full = copy.deepcopy(sparse).train()
    sparse.train()
    gates = {"0.unit": torch.tensor([1.0, 0.0, 0.5, 0.0, 0.0])}
    for _ in range(3):
        x = torch.randn(7, 6)
        assert_same(sparse.run(gates, x), masked(full, gates, x))
    assert_same(net[1].running_var[[0, 2]], full.net[1].running_var[[0, 2]])
    assert torch.equal(net[1].running_var[[1, 3, 4]], torch.ones(3))
    assert int(net[1].num_batches_tracked) == 3


def test_evaluation_changes_no_statistics():
    sparse, data = gated("densenet"), EXAMPLES["densenet"].data
    sparse.net.eval()
    before = copy.deepcopy(sparse.net.state_dict())
    for run in (subnetwork, library):
        run(sparse, random_gates(sparse), data(4))
    assert all(torch.equal(before[name], value) for name, value in sparse.net.state_dict().items())


NORMALISED = {
    "without scale and shift": nn.BatchNorm1d(5, affine=False),
    "without running statistics": nn.BatchNorm1d(5, track_running_stats=False),
    "without either": nn.BatchNorm1d(5, affine=False, track_running_stats=False),
    "in evaluation": nn.BatchNorm1d(5).eval(),
}


@pytest.mark.parametrize("kind", NORMALISED)
def test_batch_norm_of_every_kind_is_exact_in_training(kind):
    norm = copy.deepcopy(NORMALISED[kind]).double()
    net = nn.Sequential(nn.Linear(6, 5), norm, nn.ReLU(), nn.Linear(5, 3))
    sparse = sparsify(net, torch.randn(3, 6))
    if kind != "in evaluation":
        net.train()
    assert sparse.groups[0].size == 5
    for state in (-1.6, 0.0, -40.0):
        log_alphas = {"0.unit": torch.full((5,), state, requires_grad=True)}
        assert_same_step(sparse, (torch.randn(7, 6),), log_alphas, 0)


def test_gradients_arrive_at_the_networks_own_parameters():
    sparse, data = gated("squeeze and excitation"), EXAMPLES["squeeze and excitation"].data
    sparse.net.train()
    gates, x = gates_of_step(sparse, 0), data(4)
    for _ in range(2):  # they add up
        library(sparse, gates, x).sum().backward()
    found = [parameter.grad for parameter in sparse.net.parameters()]
    sparse.net.zero_grad()
    masked(sparse, gates, x).sum().backward()
    for gradient, parameter in zip(found, sparse.net.parameters(), strict=True):
        assert_same(gradient, 2 * parameter.grad)


# -- the user's network afterwards ----------------------------------------------------------------------------


class Everything(nn.Module):
    """Grouped convolution, group norm and attention: layers whose attributes change while a subnetwork runs."""

    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv1d(2, 8, 3, padding=1), nn.Conv1d(8, 12, 3, padding=1, groups=4)
        self.norm, self.point = nn.GroupNorm(4, 12), nn.Conv1d(12, 8, 1)
        self.attention = nn.TransformerEncoderLayer(8, 2, 6, 0.0, batch_first=True)
        self.fc = nn.Linear(8, 3)
        self.broken = False

    def forward(self, x):
        x = self.point(self.norm(self.conv2(self.conv1(x).relu())).relu())
        x = self.attention(x.transpose(1, 2)).mean(1)
        if self.broken:
            raise KeyError("the user's own error")
        return self.fc(x)


def state_of(net):
    """Everything about a network's modules but the values of their tensors."""
    state = {}
    for name, module in net.named_modules():
        plain = {
            key: value for key, value in vars(module).items() if key not in ("_parameters", "_buffers", "_modules")
        }
        tensors = {key: id(value) for key, value in module.named_parameters(recurse=False)}
        tensors |= {key: id(value) for key, value in module.named_buffers(recurse=False)}
        state[name] = (type(module), {key: repr(value) for key, value in plain.items()}, tensors)
    return state


@pytest.mark.parametrize("broken", [False, True])
@pytest.mark.parametrize("gates", ["unit", {"conv1": "input", "*": "unit"}])
def test_classes_attributes_hooks_and_tensors_are_restored_even_if_the_network_raises(gates, broken):
    net = Everything()
    net.conv1.register_forward_pre_hook(lambda _module, args: args)
    net.fc.register_forward_hook(lambda _module, _args, output: output)
    sparse = sparsify(net, torch.randn(2, 2, 5), gates=gates)
    assert len(sparse.groups) >= 3
    net.broken = broken
    before = state_of(net)
    for values in (random_gates(sparse), constant_gates(sparse, 0.0)):
        for run in (subnetwork, library, masked):
            if broken:
                with pytest.raises(KeyError, match="own error"):
                    run(sparse, values, torch.randn(3, 2, 5))
            else:
                run(sparse, values, torch.randn(3, 2, 5))
            assert state_of(net) == before


@pytest.mark.parametrize("training", [True, False])
def test_layers_whose_attributes_change_are_exact(training):
    sparse = sparsify(Everything(), torch.randn(2, 2, 5))
    sparse.net.train(training)
    found = {group.name: group.size for group in sparse.groups}
    assert found == {"conv1.unit": 4, "attention.self_attn.unit": 2, "attention.linear1.unit": 6}
    for noise in range(4):
        log_alphas = {g.name: (-1.0 + torch.randn(g.size)).requires_grad_() for g in sparse.groups}
        assert_same_step(sparse, (torch.randn(3, 2, 5),), log_alphas, noise)


def test_a_transformer_with_dropout_has_gates_on_its_heads_too():
    sparse = sparsify(Text(dropout=0.1), torch.randint(0, 11, (2, 6)))
    assert {"layers.0.self_attn.unit", "layers.1.self_attn.unit"} <= {group.name for group in sparse.groups}


def test_a_module_that_is_called_twice_in_a_run_is_exact():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc1, self.norm = nn.Linear(6, 5), nn.BatchNorm1d(5)
            self.fc2, self.fc3 = nn.Linear(5, 5), nn.Linear(5, 3)

        def forward(self, x):
            x = self.norm(self.fc1(x)).relu()
            return self.fc3(self.norm(self.fc2(x)).relu())

    sparse = sparsify(Twice(), torch.randn(3, 6))
    sparse.net.train()
    assert sparse.groups
    for noise in range(3):
        log_alphas = {g.name: torch.full((g.size,), -1.0, requires_grad=True) for g in sparse.groups}
        assert_same_step(sparse, (torch.randn(7, 6),), log_alphas, noise)
    assert int(sparse.net.norm.num_batches_tracked) == 0  # each step put the buffers back


@pytest.mark.parametrize("training", [True, False])
def test_two_draws_can_be_differentiated_together(training):
    # As num_particles=2 does. Norms keep their statistics for the backward pass: writing into them must not spoil it.
    net = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 3))
    sparse = sparsify(net, torch.randn(3, 6))
    net.train(training)
    x = torch.randn(7, 6)
    draws = [torch.ones(5), torch.tensor([1.0, 0.0, 0.5, 0.0, 0.0]), torch.tensor([0.0, 0.0, 0.5, 0.0, 1.0])]
    outputs = [sparse.run({"0.unit": draw}, x) for draw in (*draws, *draws)]
    torch.stack(outputs).square().sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in net.parameters())
