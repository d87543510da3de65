"""compact: the finished network is a small plain module with the outputs of the test-time gates."""

import copy
import io

import pytest
import torch
from pyro.nn import PyroModule
from torch import nn

from l0bayes import compact, sparsify
from l0bayes.errors import StructureError
from l0bayes.inference import HardConcreteGuide
from l0bayes.models import MLP, Classifier

SIZES = (12, 9, 7, 4)
RULES = ("paper", "median", "mean")


def trained(gates="input", net=None):
    """A model and a guide whose gates are well spread, some closed under every rule but the mean."""
    sparse = sparsify(net or MLP(*SIZES), torch.randn(3, SIZES[0]), gates=gates)
    model = Classifier(sparse, num_data=100)
    guide = HardConcreteGuide(model)
    with torch.no_grad():
        for parameter in guide.parameters():
            parameter.copy_(torch.linspace(-5, 5, len(parameter))[torch.randperm(len(parameter))])
    return model, guide


def count(net):
    return sum(parameter.numel() for parameter in net.parameters())


def keeps(guide, rule="paper"):
    return [int((point != 0).sum()) for point in guide.point(rule).values()]


@pytest.mark.parametrize("gates", ["input", "unit"])
@pytest.mark.parametrize("rule", RULES)
def test_outputs_are_those_of_the_test_time_gates(rule, gates):
    model, guide = trained(gates)
    x = torch.randn(50, SIZES[0])
    expected = model.net.run(guide.point(rule), x)
    torch.testing.assert_close(compact(model, guide, rule)(x), expected, rtol=1e-5, atol=1e-5)


def test_outputs_are_those_of_evaluation_mode():
    net = nn.Sequential(nn.Linear(12, 9), nn.BatchNorm1d(9), nn.Dropout(0.5), nn.Linear(9, 4))
    model, guide = trained("input", net)
    x = torch.randn(20, 12)
    net.train()
    model.net.run(guide.point(), x)  # running statistics that are not the initial ones
    small = compact(model, guide)
    assert net.training
    assert not any(module.training for module in small.modules())
    torch.testing.assert_close(small(x), model.eval().net.run(guide.point(), x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("rule", RULES)
def test_parameters_are_those_of_the_open_features(rule):
    model, guide = trained()
    pixels, first, second = keeps(guide, rule)
    small = compact(model, guide, rule)
    assert count(small) == (pixels + 1) * first + (first + 1) * second + (second + 1) * SIZES[3]
    if rule == "mean":
        assert (pixels, first, second) == SIZES[:3]
    else:
        assert 0 < pixels < 12


def test_layers_state_their_new_sizes():
    model, guide = trained()
    pixels, first, second = keeps(guide)
    small = compact(model, guide)
    sizes = [(layer.in_features, layer.out_features) for layer in (small.fc1, small.fc2, small.fc3)]
    assert sizes == [(pixels, first), (first, second), (second, 4)]
    assert all(tuple(layer.weight.shape) == size[::-1] for layer, size in zip(small.children(), sizes, strict=True))


def test_it_is_a_plain_module_of_the_users_class():
    model, guide = trained()
    small = compact(model, guide)
    assert type(small) is MLP
    assert all(isinstance(module, nn.Linear) for module in small.children())
    assert not any(isinstance(module, PyroModule) for module in small.modules())
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in small.modules())
    assert all(isinstance(p, nn.Parameter) and p.is_leaf and p.requires_grad for p in small.parameters())


def test_original_and_compact_network_are_independent():
    model, guide = trained()
    x = torch.randn(5, SIZES[0])
    before = copy.deepcopy(model.state_dict())
    small = compact(model, guide)
    output = small(x)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)
    assert torch.equal(small(x), output)
    model.load_state_dict(before)
    with torch.no_grad():
        for parameter in small.parameters():
            parameter.zero_()
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert model.net.net.fc1.weight.shape == (9, 12)


def test_tensors_that_no_gate_touches_are_not_shared_either():
    model, guide = trained()
    with torch.no_grad():
        for parameter in guide.parameters():
            parameter.fill_(20.0)
    small = compact(model, guide)
    shared = {p.data_ptr() for p in model.parameters()} & {p.data_ptr() for p in small.parameters()}
    assert not shared


@pytest.mark.parametrize("site", ["fc1.input", "fc2.input", "fc3.input"])
def test_a_layer_may_be_closed_altogether(site):
    model, guide = trained()
    with torch.no_grad():
        guide.get_parameter(f"log_alpha.{site}").fill_(-20.0)
    small = compact(model, guide)
    x = torch.randn(5, SIZES[0])
    torch.testing.assert_close(small(x), model.net.run(guide.point(), x), rtol=1e-5, atol=1e-5)
    assert small(x).std(0).max() < 1e-6  # nothing of the input gets through


def test_a_single_layer_with_gated_inputs():
    model, guide = trained("input", nn.Linear(12, 4))
    x = torch.randn(5, 12)
    small = compact(model, guide)
    torch.testing.assert_close(small(x), model.net.run(guide.point(), x), rtol=1e-5, atol=1e-5)
    assert count(small) == 4 * (keeps(guide)[0] + 1)


def test_it_can_be_saved_and_loaded():
    model, guide = trained()
    small = compact(model, guide)
    file = io.BytesIO()
    torch.save(small.state_dict(), file)
    file.seek(0)
    other = compact(model, guide)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
    other.load_state_dict(torch.load(file, weights_only=True))
    x = torch.randn(5, SIZES[0])
    assert torch.equal(other(x), small(x))
    assert torch.equal(copy.deepcopy(small)(x), small(x))


def test_it_can_be_exported():
    model, guide = trained()
    small = compact(model, guide)
    x = torch.randn(5, SIZES[0])
    exported = torch.export.export(small, (x,)).module()
    torch.testing.assert_close(exported(x), small(x))


def test_it_can_be_trained_on():
    model, guide = trained()
    small = compact(model, guide)
    before = [parameter.clone() for parameter in small.parameters()]
    optimizer = torch.optim.SGD(small.parameters(), lr=0.1)
    small(torch.randn(30, SIZES[0])).square().sum().backward()
    optimizer.step()
    assert not torch.equal(before[-1], list(small.parameters())[-1])


def test_unknown_rule_and_model_without_gates_are_refused():
    model, guide = trained()
    with pytest.raises(ValueError, match="best"):
        compact(model, guide, "best")
    with pytest.raises(StructureError, match="sparsify"):
        compact(MLP(*SIZES), guide)
