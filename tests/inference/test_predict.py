"""Predictions: the test-time gates, and posterior draws."""

import pytest
import torch
from saved_networks import SIZES, gated
from torch import nn

from l0bayes import compact, sparsify
from l0bayes.errors import DataError, StructureError
from l0bayes.inference import HardConcreteGuide, predict
from l0bayes.models import MLP, Classifier
from l0bayes.subnetwork.masked import masked_forward

RULES = ["paper", "median", "mean"]


@pytest.fixture
def trained():
    return gated()


@pytest.fixture
def x():
    return torch.randn(23, SIZES[0])


def reference(model, gates, x):
    """The whole network, everything computed and then multiplied by its gates."""
    with torch.no_grad():
        return masked_forward(model.net.net, model.net.groups, gates, x)


@pytest.mark.parametrize("rule", RULES)
def test_point_is_the_masked_network_and_the_compacted_one(rule, trained, x):
    model, guide = trained
    outputs = predict(model, guide, x, gates="point", rule=rule)
    expected = reference(model, guide.point(rule), x)
    torch.testing.assert_close(outputs, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(outputs, compact(model, guide, rule)(x), rtol=1e-5, atol=1e-5)


def test_the_rules_differ(trained, x):
    outputs = [predict(*trained, x, rule=rule) for rule in RULES]
    assert all((outputs[i] - outputs[j]).abs().max() > 1e-3 for i, j in [(0, 1), (0, 2), (1, 2)])


def test_point_at_the_papers_gates_is_the_default(trained, x):
    assert torch.equal(predict(*trained, x), predict(*trained, x, gates="point", rule="paper"))


def test_samples_are_draws_of_the_gates(trained, x):
    model, guide = trained
    torch.manual_seed(3)
    outputs = predict(model, guide, x, gates="sample", num_samples=5)
    assert outputs.shape == (5, len(x), SIZES[-1])
    torch.manual_seed(3)
    for output in outputs:
        gates = {site: gate.sample() for site, gate in guide.gates().items()}
        torch.testing.assert_close(output, reference(model, gates, x), rtol=1e-5, atol=1e-5)


def test_one_draw_is_for_the_whole_batch(trained):
    row = torch.randn(1, SIZES[0])
    outputs = predict(*trained, row.expand(6, -1), gates="sample", num_samples=4)
    torch.testing.assert_close(outputs, outputs[:, :1].expand_as(outputs))
    assert outputs[:, 0].unique(dim=0).shape[0] == 4


@pytest.mark.parametrize("gates", ["point", "sample"])
@pytest.mark.parametrize("batch_size", [1, 7, 23, 1000])
def test_batch_size_does_not_matter(batch_size, gates, trained, x):
    outputs = []
    for size in (batch_size, 4096):
        torch.manual_seed(3)
        outputs.append(predict(*trained, x, gates=gates, num_samples=3, batch_size=size))
    torch.testing.assert_close(*outputs, rtol=1e-5, atol=1e-5)


def test_a_bare_sparse_module_will_do(trained, x):
    model, guide = trained
    assert torch.equal(predict(model.net, guide, x), predict(model, guide, x))


@pytest.mark.parametrize("gates", ["point", "sample"])
def test_modes_come_back_and_there_are_no_gradients(gates, trained, x):
    model, guide = trained
    model.train()
    model.net.net.fc2.eval()
    before = {module: module.training for module in model.modules()}
    outputs = predict(model, guide, x.requires_grad_(), gates=gates, num_samples=2)
    assert not outputs.requires_grad
    assert {module: module.training for module in model.modules()} == before
    assert torch.is_grad_enabled()


def test_modes_come_back_after_an_error():
    model, guide = gated(gates="unit")
    model.train()
    with pytest.raises(DataError, match=r"rows of shape \(13,\)"):
        predict(model, guide, torch.zeros(3, SIZES[0] + 1))
    assert all(module.training for module in model.modules())


@pytest.mark.parametrize("features", [SIZES[0] - 1, SIZES[0] + 1])
def test_another_number_of_features_is_an_error_as_it_is_for_the_whole_network(features, trained):
    """Also where the features that the data lack, or have too many, would not have been read."""
    model, guide = trained
    with torch.no_grad():
        guide.parameter("log_alpha.fc1.input").copy_(torch.tensor([5.0] * 6 + [-5.0] * 6))
    x = torch.zeros(3, features)
    for network in (model.net.net, compact(model, guide), lambda x: predict(model, guide, x)):
        with pytest.raises((RuntimeError, ValueError)):
            network(x)


def test_point_draws_nothing(trained, x):
    before = torch.get_rng_state()
    predict(*trained, x)
    assert torch.equal(torch.get_rng_state(), before)


def test_an_unknown_word(trained, x):
    with pytest.raises(ValueError, match="gates must be one of point, sample; got 'mean'"):
        predict(*trained, x, gates="mean")


def test_an_unknown_rule(trained, x):
    with pytest.raises(ValueError, match="rule must be one of paper, median, mean; got 'mode'"):
        predict(*trained, x, rule="mode")


@pytest.mark.parametrize("options", [{"num_samples": 0}, {"num_samples": -1}, {"batch_size": 0}])
def test_numbers_out_of_range(options, trained, x):
    with pytest.raises(ValueError, match=next(iter(options))):
        predict(*trained, x, gates="sample", **options)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_inputs_that_are_not_finite(bad, trained, x):
    x[4, 2] = bad
    with pytest.raises(DataError, match=r"x must be finite.*\(4, 2\)"):
        predict(*trained, x)


def test_no_inputs(trained, x):
    with pytest.raises(DataError, match="at least one row"):
        predict(*trained, x[:0])


def test_a_model_without_gates(trained, x):
    with pytest.raises(StructureError, match="exactly one network made by sparsify"):
        predict(Classifier(MLP(*SIZES), 10), trained[1], x)


class TwoInputs(nn.Module):
    def __init__(self, pair=False):
        super().__init__()
        self.fc1, self.fc2, self.pair = nn.Linear(4, 8), nn.Linear(8, 2), pair

    def forward(self, x, y):
        h = self.fc2(self.fc1(x * y).relu())
        return (h, h) if self.pair else h


def test_networks_of_several_inputs():
    inputs = torch.randn(5, 4), torch.randn(5, 4)
    sparse = sparsify(TwoInputs(), inputs)
    guide = HardConcreteGuide(sparse)
    outputs = predict(sparse, guide, inputs, batch_size=2)
    torch.testing.assert_close(outputs, compact(sparse, guide)(*inputs), rtol=1e-5, atol=1e-5)


def test_networks_of_several_outputs_are_told_what_to_do():
    inputs = torch.randn(5, 4), torch.randn(5, 4)
    sparse = sparsify(TwoInputs(pair=True), inputs)
    with pytest.raises(DataError, match=r"returns a tuple of 2.*output="):
        predict(sparse, HardConcreteGuide(sparse), inputs)
