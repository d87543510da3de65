"""The subnetwork that a draw selects gives the masked network's numbers: outputs, loss and every gradient."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from subnetwork_oracle import assert_same, constant_gates, masked, random_gates
from torch import nn
from torch.nn.functional import cross_entropy

from l0bayes import HardConcrete, sparsify
from l0bayes.models import MLP
from l0bayes.subnetwork import Selector, run_subnetwork

SIZES = (7, 6, 5, 4)


@pytest.fixture(autouse=True)
def _double(_same_start):
    torch.set_default_dtype(torch.float64)


def example(gates="input", *, with_norm=False):
    net = MLP(*SIZES)
    if with_norm:
        net = nn.Sequential(nn.Linear(7, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 4))
    return sparsify(net, torch.randn(3, 7), gates=gates), torch.randn(9, 7), torch.randint(0, 4, (9,))


def gradients(loss, *tensors):
    return torch.autograd.grad(loss, tensors, allow_unused=True, materialize_grads=True)


def assert_same_gradients(sparse, x, y, log_alphas, noise):
    """One training step's loss and its gradient in every parameter and every log alpha."""
    results = []
    for run in (masked, lambda sparse, gates, x: sparse.run(gates, x)):
        gates = {}
        for name, log_alpha in log_alphas.items():
            torch.manual_seed(noise)
            gates[name] = HardConcrete(log_alpha).rsample()
        loss = cross_entropy(run(sparse, gates, x), y)
        results.append([loss, *gradients(loss, *sparse.net.parameters(), *log_alphas.values())])
    for first, second in zip(*results, strict=True):
        assert_same(first, second)
    return results[0]


# (log alpha, share of the gates that are then closed): see HardConcrete.prob_zero
STATES = {"open": 8.0, "half": -1.6, "nearly closed": -3.5, "all closed": -40.0}


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("with_norm", [False, True])
@pytest.mark.parametrize("gates", ["input", "unit"])
@pytest.mark.parametrize("state", STATES)
def test_loss_and_gradients_are_the_masked_networks(state, gates, with_norm, training):
    words = gates if gates == "input" or not with_norm else {"3": "unit"}
    sparse, x, y = example(words, with_norm=with_norm)
    sparse.net.train(training)
    log_alphas = {g.name: torch.full((g.size,), STATES[state], requires_grad=True) for g in sparse.groups}
    for noise in range(3):
        assert_same_gradients(sparse, x, y, log_alphas, noise)


def test_the_gradient_in_log_alpha_is_not_trivially_zero():
    sparse, x, y = example("unit")
    log_alphas = {g.name: torch.zeros(g.size, requires_grad=True) for g in sparse.groups}
    results = assert_same_gradients(sparse, x, y, log_alphas, 0)
    assert all(gradient.abs().sum() > 0 for gradient in results)


def test_the_gradient_in_an_open_gate_is_the_masked_networks():
    sparse, x, y = example()
    gates = {name: value.requires_grad_() for name, value in random_gates(sparse).items()}
    both = [
        gradients(cross_entropy(run, y), *gates.values()) for run in (masked(sparse, gates, x), sparse.run(gates, x))
    ]
    for gate, first, second in zip(gates.values(), *both, strict=True):
        assert_same(first[gate != 0], second[gate != 0])


@settings(max_examples=40)
@given(st.data())
def test_any_draw_gives_the_masked_output(data):
    sparse, x, _ = example(data.draw(st.sampled_from(["input", "unit"])))
    value = st.one_of(st.just(0.0), st.just(1.0), st.floats(1e-300, 1.0))
    gates = {g.name: torch.tensor(data.draw(st.lists(value, min_size=g.size, max_size=g.size))) for g in sparse.groups}
    assert_same(sparse.run(gates, x), masked(sparse, gates, x))


def test_with_every_gate_one_it_is_the_network_itself():
    sparse, x, _ = example()
    assert_same(sparse.run(constant_gates(sparse, 1.0), x), sparse.net(x), 1e-15)


def test_with_every_gate_zero_only_the_last_bias_is_left():
    sparse, x, _ = example()
    assert torch.equal(sparse.run(constant_gates(sparse, 0.0), x), sparse.net.fc3.bias.expand(9, 4))


def test_running_statistics_of_a_training_step_are_written_back():
    sparse, x, _ = example("input", with_norm=True)
    gates = random_gates(sparse)
    expected = 0.1 * sparse.net[0](x * gates["0.input"]).mean(0)
    sparse.net.train()
    sparse.run(gates, x)
    assert_same(sparse.net[1].running_mean, expected)
    assert int(sparse.net[1].num_batches_tracked) == 1


def test_the_selection_holds_the_small_tensors_alone():
    sparse, _, _ = example()
    gates = constant_gates(sparse, 1.0)
    gates["fc1.input"][[0, 4]] = 0.0
    gates["fc2.input"][[1, 2, 3]] = 0.0
    selection = Selector(sparse.groups)(sparse.net.get_parameter, gates)
    shapes = {name: tuple(tensor.shape) for name, tensor in selection.tensors.items()}
    assert shapes == {
        "fc1.weight": (3, 5),
        "fc1.bias": (3,),
        "fc2.weight": (5, 3),
        "fc2.bias": (5,),
        "fc3.weight": (4, 5),
    }
    assert {name: index.tolist() for name, index in selection.features.items()} == {"fc1": [1, 2, 3, 5, 6]}


@pytest.mark.parametrize("tiny", [5e-324, 1e-300])
def test_a_gate_is_closed_at_exactly_zero_alone(tiny):
    sparse, _, _ = example("unit")
    gates = constant_gates(sparse, 0.0)
    gates["fc1.unit"][[1, 4]] = tiny
    selection = Selector(sparse.groups)(sparse.net.get_parameter, gates)
    assert torch.equal(selection.tensors["fc1.weight"], sparse.net.fc1.weight[[1, 4]])
    assert selection.tensors["fc2.weight"].shape == (0, 2)


def test_whether_closed_slices_are_taken_out_or_multiplied_by_zero_changes_nothing():
    sparse, x, y = example()
    gates = random_gates(sparse)
    results = []
    for narrow_below in (0.0, 0.5, 1.0):
        selection = Selector(sparse.groups, narrow_below)(sparse.net.get_parameter, gates)
        loss = cross_entropy(run_subnetwork(sparse.net, selection, x), y)
        results.append([loss, *gradients(loss, *sparse.net.parameters())])
    for numbers in zip(*results, strict=True):
        assert_same(numbers[1], numbers[0])
        assert_same(numbers[2], numbers[0])


def test_hooks_are_removed_even_if_the_network_raises():
    sparse, x, _ = example()
    selection = Selector(sparse.groups)(sparse.net.get_parameter, random_gates(sparse))
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
