"""The subnetwork that a draw selects gives the masked network's numbers: outputs, loss and every gradient."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from subnetwork_oracle import (
    STATES,
    assert_same,
    assert_same_step,
    constant_gates,
    gradients,
    masked,
    random_gates,
    subnetwork,
)
from torch import nn
from torch.nn.functional import cross_entropy

from l0bayes import sparsify
from l0bayes.models import MLP
from l0bayes.subnetwork.running import run_subnetwork
from l0bayes.subnetwork.selection import Selector

SIZES = (7, 6, 5, 4)


@pytest.fixture(autouse=True)
def _double(_same_start):
    torch.set_default_dtype(torch.float64)


def example(gates="input", *, with_norm=False):
    net = MLP(*SIZES)
    if with_norm:
        net = nn.Sequential(nn.Linear(7, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 4))
    return sparsify(net, torch.randn(3, 7), gates=gates), torch.randn(9, 7), torch.randint(0, 4, (9,))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("with_norm", [False, True])
@pytest.mark.parametrize("gates", ["input", "unit", {"*1": "unit", "*3": "input"}])
@pytest.mark.parametrize("state", STATES)
def test_loss_and_gradients_are_the_masked_networks(state, gates, with_norm, training):
    words = {"0": "unit", "5": "input"} if with_norm and not isinstance(gates, str) else gates
    sparse, x, _ = example(words, with_norm=with_norm)
    sparse.net.train(training)
    log_alphas = {g.name: torch.full((g.size,), STATES[state], requires_grad=True) for g in sparse.groups}
    for noise in range(3):
        assert_same_step(sparse, (x,), log_alphas, noise)


@settings(max_examples=40)
@given(st.data())
def test_any_draw_gives_the_masked_output(data):
    sparse, x, _ = example(data.draw(st.sampled_from(["input", "unit"])))
    value = st.one_of(st.just(0.0), st.just(1.0), st.floats(1e-300, 1.0))
    gates = {g.name: torch.tensor(data.draw(st.lists(value, min_size=g.size, max_size=g.size))) for g in sparse.groups}
    for run in (subnetwork, lambda sparse, gates, x: sparse.run(gates, x)):
        assert_same(run(sparse, gates, x), masked(sparse, gates, x))


def test_with_every_gate_one_it_is_the_network_itself():
    sparse, x, _ = example()
    assert_same(sparse.run(constant_gates(sparse, 1.0), x), sparse.net(x), 1e-15)


def test_with_every_gate_zero_only_the_last_bias_is_left():
    sparse, x, _ = example()
    assert torch.equal(sparse.run(constant_gates(sparse, 0.0), x), sparse.net.fc3.bias.expand(9, 4))


def test_running_statistics_of_a_training_step_are_written_back():
    sparse, x, _ = example("input", with_norm=True)
    gates = random_gates(sparse)
    gates["3.input"] = torch.tensor([0.5, 0.0, 1.0, 0.0, 0.0, 0.3])
    expected = 0.1 * sparse.net[0](x * gates["0.input"]).mean(0)
    sparse.net.train()
    sparse.run(gates, x)
    assert_same(sparse.net[1].running_mean, torch.where(gates["3.input"] != 0, expected, 0.0))
    assert int(sparse.net[1].num_batches_tracked) == 1


def test_the_selection_holds_the_small_tensors_alone():
    sparse, _, _ = example()
    gates = constant_gates(sparse, 1.0)
    gates["fc1.input"][[0, 4]] = 0.0
    gates["fc2.input"][[1, 2, 3]] = 0.0
    selection = Selector(sparse.net, sparse.groups)(sparse.net, gates)
    shapes = {name: tuple(tensor.shape) for name, tensor in selection.tensors.items()}
    assert shapes == {
        "fc1.weight": (3, 5),
        "fc1.bias": (3,),
        "fc2.weight": (5, 3),
        "fc3.weight": (4, 5),
    }
    features = {name: (index.tolist(), given) for name, (index, given) in selection.features.items()}
    assert features == {"fc1": ([1, 2, 3, 5, 6], 7)}


@pytest.mark.parametrize("tiny", [5e-324, 1e-300])
def test_a_gate_is_closed_at_exactly_zero_alone(tiny):
    sparse, _, _ = example("unit")
    gates = constant_gates(sparse, 0.0)
    gates["fc1.unit"][[1, 4]] = tiny
    selection = Selector(sparse.net, sparse.groups)(sparse.net, gates)
    assert torch.equal(selection.tensors["fc1.weight"], sparse.net.fc1.weight[[1, 4]])
    assert selection.tensors["fc2.weight"].shape == (1, 2)  # all of its own are closed: one stays


@pytest.mark.parametrize("gates", ["input", "unit"])
def test_a_closed_layer_keeps_one_slice_with_zeros_in_front(gates):
    sparse, x, _ = example(gates)
    closed = constant_gates(sparse, 0.0)
    selection = Selector(sparse.net, sparse.groups)(sparse.net, closed)
    shapes = [tuple(selection.tensors[f"fc{number}.weight"].shape) for number in (1, 2, 3)]
    assert shapes == ([(1, 1), (1, 1), (4, 1)] if gates == "input" else [(1, 7), (1, 1), (4, 1)])
    assert not selection.tensors["fc2.weight"].any()
    assert torch.equal(run_subnetwork(sparse.net, selection, x), sparse.net.fc3.bias.expand(9, 4))


def test_nothing_is_taken_out_where_that_is_not_wanted():
    sparse, x, _ = example()
    for gates in (random_gates(sparse), constant_gates(sparse, 0.0)):
        for options in ({"narrow_below": 0.0}, {"whole": frozenset(group.name for group in sparse.groups)}):
            selection = Selector(sparse.net, sparse.groups, **options)(sparse.net, gates)
            assert not selection.features
            for name, tensor in selection.tensors.items():
                assert tensor.shape == sparse.net.get_parameter(name).shape
            assert_same(run_subnetwork(sparse.net, selection, x), masked(sparse, gates, x))


def test_one_selector_serves_copies_of_the_network_and_many_draws():
    sparse, x, _ = example()
    selector, other = Selector(sparse.net, sparse.groups), copy.deepcopy(sparse)
    with torch.no_grad():
        for parameter in other.net.parameters():
            parameter.mul_(2)
    for share_open in (0.9, 0.2, 0.5, 1.0, 0.0):
        gates = random_gates(sparse, share_open)
        for each in (sparse, other):
            assert_same(run_subnetwork(each.net, selector(each.net, gates), x), masked(each, gates, x))


def test_whether_closed_slices_are_taken_out_or_multiplied_by_zero_changes_nothing():
    sparse, x, y = example()
    gates = random_gates(sparse)
    results = []
    for narrow_below in (0.0, 0.5, 1.0):
        selection = Selector(sparse.net, sparse.groups, narrow_below)(sparse.net, gates)
        loss = cross_entropy(run_subnetwork(sparse.net, selection, x), y)
        results.append([loss, *gradients(loss, *sparse.net.parameters())])
    for numbers in zip(*results, strict=True):
        assert_same(numbers[1], numbers[0])
        assert_same(numbers[2], numbers[0])


def test_hooks_are_removed_even_if_the_network_raises():
    sparse, x, _ = example()
    selection = Selector(sparse.net, sparse.groups)(sparse.net, random_gates(sparse))
    with pytest.raises(RuntimeError):
        run_subnetwork(sparse.net, selection, x[:, :3])
    assert not any(module._forward_pre_hooks for module in sparse.net.modules())
    assert sparse.net.fc1.weight.shape == (6, 7)


def test_masking_with_a_gate_missing_leaves_no_hook():
    sparse, x, _ = example()
    gates = random_gates(sparse)
    del gates["fc3.input"]
    with pytest.raises(KeyError):
        masked(sparse, gates, x)
    assert not any(module._forward_pre_hooks for module in sparse.net.modules())


def test_extra_arguments_reach_the_network():
    class Scaled(MLP):
        def forward(self, x, scale=1.0):
            return super().forward(x) * scale

    x = torch.randn(3, 7)
    sparse = sparsify(Scaled(*SIZES), x)
    gates = random_gates(sparse)
    assert_same(sparse.run(gates, x, scale=2.0), 2 * sparse.run(gates, x))
    assert_same(sparse.run(gates, x, 3.0), 3 * sparse.run(gates, x))
