"""min_units: how many gates of each group the test-time network keeps at least, wherever it is looked at."""

import pytest
import torch
from exact_examples import EXAMPLES
from subnetwork_oracle import assert_same, constant_gates, masked, subnetwork
from torch import nn

from l0bayes import compact, gate_table, sparsify
from l0bayes.errors import StructureError
from l0bayes.inference import HardConcreteGuide, predict
from l0bayes.models import MLP, Classifier, WideResNet
from l0bayes.subnetwork.compacted import compact_network

RULES = pytest.mark.parametrize("rule", ["paper", "median"])
X = torch.randn(5, 7, generator=torch.Generator().manual_seed(3))


def trained(log_alpha, gates="unit", net=None, x=X, **options):
    """A model whose guide has one log alpha everywhere, or those given by site."""
    sparse = sparsify(net or MLP(7, 6, 5, 4), x[:2], gates=gates, **options)
    model = Classifier(sparse, 100)
    guide = HardConcreteGuide(model)
    with torch.no_grad():
        for group in sparse.groups:
            value = log_alpha[group.name] if isinstance(log_alpha, dict) else log_alpha
            guide.get_parameter(f"log_alpha.{group.name}").copy_(torch.as_tensor(value))
    return model, guide


def opened(guide, rule="paper"):
    return {site: int((point != 0).sum()) for site, point in guide.point(rule).items()}


@RULES
@pytest.mark.parametrize("log_alpha", [-3.0, -20.0, -80.0, -300.0])
@pytest.mark.parametrize(("asked", "kept"), [(None, 1), (0, 0), (1, 1), (3, 3), (5, 5)])
def test_a_group_keeps_at_least_as_many(asked, kept, log_alpha, rule):
    _, guide = trained(log_alpha, min_units=asked)
    assert opened(guide, rule) == {"fc1.unit": kept, "fc2.unit": kept}


@RULES
def test_prediction_compacted_network_and_table_agree(rule):
    model, guide = trained({"fc1.unit": torch.linspace(-5.0, 2.0, 6), "fc2.unit": -6.0}, min_units=2)
    points = guide.point(rule)
    small = compact(model, guide, rule)
    table = gate_table(guide, rule)
    assert (small.fc1.out_features, small.fc2.out_features) == tuple(opened(guide, rule).values())
    assert table.groupby("site", sort=False)["open"].sum().to_dict() == opened(guide, rule)
    for site, point in points.items():
        torch.testing.assert_close(torch.tensor(table[table.site == site].point.values), point)
    expected = predict(model, guide, X, rule=rule)
    torch.testing.assert_close(small(X), expected)
    torch.testing.assert_close(masked(model.net, points, X), expected)


def test_the_most_probable_gates_stay_at_their_mean():
    log_alpha = torch.tensor([-6.0, -4.0, -9.0, -5.0, -7.0, -8.0])
    _, guide = trained({"fc1.unit": log_alpha, "fc2.unit": 3.0}, min_units=2)
    point, gate = guide.point()["fc1.unit"], guide.gates()["fc1.unit"]
    assert point.nonzero().squeeze(1).tolist() == [1, 3]
    torch.testing.assert_close(point[[1, 3]], gate.mean[[1, 3]])


def test_gates_that_are_open_by_themselves_stay_as_they_are():
    log_alpha = torch.tensor([-6.0, 4.0, -9.0, -5.0, 0.3, -8.0])
    _, guide = trained({"fc1.unit": log_alpha, "fc2.unit": 3.0}, min_units=3)
    point, free = guide.point()["fc1.unit"], guide.gates()["fc1.unit"].point("paper")
    assert point.nonzero().squeeze(1).tolist() == [1, 3, 4]
    assert torch.equal(point[[1, 4]], free[[1, 4]])
    assert opened(guide)["fc2.unit"] == 5


def test_patterns_have_their_own():
    gates = {"fc1": {"gates": "unit", "min_units": 4}, "fc2": "unit"}
    _, guide = trained(-9.0, gates, min_units=2)
    assert opened(guide) == {"fc1.unit": 4, "fc2.unit": 2}


def test_selected_inputs_and_single_weights_too():
    _, guide = trained(-9.0, {"fc1": "input", "fc2": "weight"})
    assert opened(guide) == {"fc1.input": 1, "fc2.weight": 1}
    _, guide = trained(-9.0, {"fc1": "input", "fc2": "weight"}, min_units=3)
    assert opened(guide) == {"fc1.input": 3, "fc2.weight": 3}


@pytest.mark.parametrize("number", [6, 100])
def test_more_than_there_are_is_refused(number):
    with pytest.raises(StructureError, match=rf"min_units: {number} for layer 'fc.', which has \d gates"):
        sparsify(MLP(7, 6, 5, 4), X, min_units=number)


@pytest.mark.parametrize("number", [-1, 1.5, "2"])
def test_what_is_no_number_of_units_is_refused(number):
    with pytest.raises(ValueError, match="min_units must be an integer of at least 0"):
        sparsify(MLP(7, 6, 5, 4), X, min_units=number)


# -- branches beside a shortcut ---------------------------------------------------------------------------------


def minimum_of(kind):
    example = EXAMPLES[kind]
    sparse = sparsify(example.build(), example.data(2), gates=example.gates)
    return {group.name: group.min_units for group in sparse.groups}


def test_by_default_only_what_something_else_carries_on_without_may_vanish():
    assert set(minimum_of("mlp").values()) == {1}
    assert set(minimum_of("lenet of the paper").values()) == {1}
    wide = minimum_of("wide resnet")
    streams = ["conv1.unit", "stage2.0.conv2.unit", "stage3.0.conv2.unit"]
    assert [site for site, number in wide.items() if number == 1] == streams
    assert len(wide) == 9
    text = minimum_of("transformer")
    assert {number for site, number in text.items() if site.startswith("layers")} == {0}


def test_the_only_way_that_the_input_takes_does_not_vanish_by_default():
    assert minimum_of("transformer")["embed.unit"] == 1


def test_a_residual_branch_vanishes_and_its_shortcut_is_exact():
    torch.manual_seed(0)
    net, x = WideResNet(16, 1, 4).double(), torch.randn(3, 3, 8, 8).double()
    net.train()(x)
    model, guide = trained(9.0, net=net, x=x)
    with torch.no_grad():
        guide.get_parameter("log_alpha.stage1.1.conv1.unit").fill_(-9.0)
        guide.get_parameter("log_alpha.stage2.0.conv1.unit").fill_(-9.0)
    small = compact(model, guide)
    assert opened(guide)["stage1.1.conv1.unit"] == 0
    seen = {}
    for name in ("stage1.1", "stage2.0"):
        block = small.get_submodule(name)
        block.register_forward_hook(lambda _block, args, output, name=name: seen.update({name: (args[0], output)}))
    torch.testing.assert_close(small(x), predict(model, guide, x))
    assert torch.equal(*seen["stage1.1"])
    entering, leaving = seen["stage2.0"]
    first = small.stage2[0]
    assert torch.equal(leaving, first.shortcut(first.bn1(entering).relu()))


def test_a_branch_that_vanishes_leaves_its_last_bias():
    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc1, self.fc2 = nn.Linear(7, 6), nn.Linear(6, 7)

        def forward(self, x):
            return x + self.fc2(self.fc1(x).sigmoid())

    net = Residual()
    sparse = sparsify(net, X, min_units=0)
    closed = constant_gates(sparse, 0.0)
    for output in (subnetwork(sparse, closed, X), compact_network(net, sparse.groups, closed)(X)):
        assert torch.equal(output, X + net.fc2.bias)


def test_a_single_draw_of_a_training_step_may_close_everything():
    sparse = sparsify(MLP(7, 6, 5, 4), X, min_units=3)
    closed = constant_gates(sparse, 0.0)
    assert_same(subnetwork(sparse, closed, X), masked(sparse, closed, X), 1e-6)
