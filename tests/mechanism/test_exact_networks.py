"""On networks of many kinds the subnetwork gives the masked network's numbers: outputs, loss, every gradient."""

import copy
import functools

import pytest
import torch
from exact_examples import EXAMPLES
from hypothesis import given, settings
from hypothesis import strategies as st
from subnetwork_oracle import (
    STATES,
    assert_same,
    assert_same_step,
    constant_gates,
    gradients,
    hooked,
    library,
    loss_of,
    masked,
    random_gates,
    subnetwork,
)

from l0bayes import SparseModule, sparsify
from l0bayes.inference import ClosedFormKL_ELBO, HardConcreteGuide
from l0bayes.models import Classifier

KINDS = pytest.mark.parametrize("kind", EXAMPLES)
MODES = pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
SLOW = ("lenet", "lenet of the paper", "wide resnet")


@pytest.fixture(autouse=True)
def _double(_same_start):
    torch.set_default_dtype(torch.float64)


@functools.cache
def gated(kind):
    """A network with gates, and with running statistics that are not the initial ones."""
    example = EXAMPLES[kind]
    torch.manual_seed(7)
    net, x = example.build(), example.data(4)
    sparse = sparsify(net, x[:2], gates=example.gates)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
        net.train()(example.data(8))
    return sparse, x, hooked(example.readers)


def log_alphas_of(sparse, state):
    """Every gate about as open as the state says, none as open as another."""
    spread = 0.0 if state == "all closed" else 0.7
    return {group.name: (STATES[state] + spread * torch.randn(group.size)).requires_grad_() for group in sparse.groups}


@KINDS
def test_the_readers_laid_out_by_hand_are_those_of_the_groups(kind):
    sparse, _, _ = gated(kind)
    read = {part.tensor.removesuffix(".weight") for group in sparse.groups for part in group.slices if part.consumes}
    assert read == set(EXAMPLES[kind].readers)


@MODES
@pytest.mark.parametrize("state", STATES)
@KINDS
def test_loss_outputs_and_gradients_are_the_masked_networks(kind, state, training):
    sparse, x, by_hand = gated(kind)
    sparse.net.train(training)
    for noise in range(1 if kind in SLOW else 3):
        assert_same_step(sparse, (x,), log_alphas_of(sparse, state), noise, by_hand)


@KINDS
def test_the_gradient_in_log_alpha_is_not_trivially_zero(kind):
    sparse, x, by_hand = gated(kind)
    sparse.net.train()
    log_alphas = {group.name: torch.zeros(group.size, requires_grad=True) for group in sparse.groups}
    total = [torch.zeros(())] * len(log_alphas)
    for noise in range(4):
        found = assert_same_step(sparse, (x,), log_alphas, noise, by_hand)[-len(log_alphas) :]
        total = [old + new.abs().sum() for old, new in zip(total, found, strict=True)]
    assert all(value > 0 for value in total)


@MODES
@KINDS
def test_the_gradient_in_an_open_gate_is_the_masked_networks(kind, training):
    sparse, x, by_hand = gated(kind)
    sparse.net.train(training)
    gates = {name: value.requires_grad_() for name, value in random_gates(sparse).items()}
    all_found = [gradients(loss_of(run(sparse, gates, x)), *gates.values()) for run in (masked, subnetwork, by_hand)]
    for gate, *found in zip(gates.values(), *all_found, strict=True):
        for gradient in found[1:]:
            assert_same(gradient[gate != 0], found[0][gate != 0])


@pytest.mark.parametrize("kind", [kind for kind in EXAMPLES if kind != "lenet"])
def test_the_elbo_and_its_gradients_are_those_with_masks(kind, monkeypatch):
    sparse, _, _ = gated(kind)
    sparse, x = copy.deepcopy(sparse).train(), EXAMPLES[kind].data(6)
    model = Classifier(sparse, 60)
    guide = HardConcreteGuide(model, init_open=0.5)
    results, before = [], copy.deepcopy(sparse.net.state_dict())
    for run in (SparseModule.run, subnetwork, masked):
        monkeypatch.setattr(SparseModule, "run", run)
        sparse.net.load_state_dict(before)
        torch.manual_seed(3)
        loss = ClosedFormKL_ELBO(num_particles=2)(model, guide)(x, torch.arange(6) % 3)
        results.append([loss, *gradients(loss, *sparse.net.parameters(), *guide.parameters())])
    assert any(gradient.any() for gradient in results[0][-len(list(guide.parameters())) :])
    for values in zip(*results, strict=True):
        for value in values[1:]:
            assert_same(value, values[0])


@KINDS
def test_with_every_gate_one_it_is_the_network_itself(kind):
    sparse, x, _ = gated(kind)
    sparse.net.eval()
    assert_same(subnetwork(sparse, constant_gates(sparse, 1.0), x), sparse.net(x), 1e-14)


@pytest.mark.parametrize("kind", ["mlp", "mlp by inputs", "lenet of the paper", "densenet"])
def test_with_every_gate_zero_the_input_has_no_effect(kind):
    sparse, x, _ = gated(kind)
    sparse.net.eval()
    closed = constant_gates(sparse, 0.0)
    for run in (subnetwork, library):
        output = run(sparse, closed, x)
        assert torch.equal(output, output[:1].expand_as(output))


@settings(max_examples=60)
@given(st.data())
def test_any_pattern_of_open_gates_gives_the_masked_step(data):
    kind = data.draw(st.sampled_from([kind for kind in EXAMPLES if kind not in SLOW]))
    sparse, x, by_hand = gated(kind)
    sparse.net.train(data.draw(st.booleans()))
    value = st.one_of(st.just(0.0), st.just(1.0), st.floats(1e-300, 1.0))
    gates = {g.name: torch.tensor(data.draw(st.lists(value, min_size=g.size, max_size=g.size))) for g in sparse.groups}
    parameters = list(sparse.net.parameters())
    first, *others = [run(sparse, gates, x) for run in (masked, subnetwork, library, by_hand)]
    expected = gradients(loss_of(first), *parameters)
    for output in others:
        assert_same(output, first)
        for gradient, wanted in zip(gradients(loss_of(output), *parameters), expected, strict=True):
            assert_same(gradient, wanted)


@settings(max_examples=12)
@given(st.sampled_from(SLOW), st.data())
def test_any_pattern_of_open_gates_in_a_network_of_the_paper(kind, data):
    sparse, x, by_hand = gated(kind)
    sparse.net.eval()
    gates = {}
    for group in sparse.groups:
        opened = data.draw(st.sets(st.integers(0, group.size - 1), max_size=10))
        value = data.draw(st.sampled_from([0.3, 1.0]))
        gates[group.name] = torch.zeros(group.size)
        gates[group.name][sorted(opened)] = value
    expected = masked(sparse, gates, x)
    for run in (subnetwork, library, by_hand):
        assert_same(run(sparse, gates, x), expected)
