"""Networks whose features mix: exact by narrowing what a layer reads, or dense with a reason, never wrong."""

import contextlib
from types import SimpleNamespace
from typing import NamedTuple

import awkward_nets as nets
import pytest
import torch
from awkward_nets import Network, exactly_gated, sizes
from subnetwork_oracle import assert_exact
from torch import nn

from l0bayes import sparsify
from l0bayes.errors import StructureError


@pytest.fixture(autouse=True)
def _double(_same_start):
    torch.set_default_dtype(torch.float64)


ANY_NETWORK = {
    "layer norm": lambda: nets.sequential(nn.LayerNorm(5), nn.ReLU()),
    "rms norm": lambda: nets.sequential(nn.RMSNorm(5), nn.ReLU()),
    "softmax": lambda: nets.sequential(nn.Softmax(-1)),
    "batch norm": lambda: nets.sequential(nn.BatchNorm1d(5), nn.ReLU()),
    "dropout": lambda: nets.sequential(nn.ReLU(), nn.Dropout(0.5)),
    "sigmoid": lambda: nets.sequential(nn.Sigmoid()),
    "prelu": lambda: nets.sequential(nn.PReLU(5)),
    "in place": lambda: nets.sequential(nn.ReLU(inplace=True)),
    "skip": nets.Skip,
    "used twice": nets.UsedTwice,
    "used twice, last": nets.UsedTwiceLast,
    "used twice, and added up": nets.UsedTwiceAdded,
    "two names": nets.TwoNames,
    "tied weights": nets.TiedWeights,
    "two readers": nets.TwoReaders,
    "concatenated": nets.Concatenated,
    "flipped": nets.Flipped,
    "idle layer": nets.Idle,
    "convolutional": nets.Convolutional,
    "over time": nets.OverTime,
}


def example(name):
    return torch.randn(3, 16 if name == "convolutional" else 6)


@pytest.mark.parametrize("name", ANY_NETWORK)
def test_input_gates_are_exact_everywhere(name):
    sparse = assert_exact(ANY_NETWORK[name](), example(name), "input")
    assert len(sparse.groups) >= (1 if name == "tied weights" else 2)


@pytest.mark.parametrize("name", ANY_NETWORK)
def test_unit_gates_are_exact_or_refused_with_a_reason(name):
    try:
        sparse = assert_exact(ANY_NETWORK[name](), example(name), "unit")
    except StructureError as error:
        assert "fc1" in str(error) or "0" in str(error) or "left" in str(error)  # noqa: PT017
    else:
        assert all(reason for reason in sparse.structure.dense.values())


def reparametrised():
    net = nets.sequential(nn.ReLU())
    nn.utils.parametrizations.weight_norm(net[0])
    return net


@pytest.mark.parametrize("granularity", ["input", "unit"])
@pytest.mark.parametrize("make", [nets.ByKeyword, nets.ByFunction, reparametrised])
def test_layers_used_in_unusual_ways_are_exact_or_refused(make, granularity):
    with contextlib.suppress(StructureError):
        assert_exact(make(), torch.randn(3, 6), granularity)


@pytest.mark.parametrize("mixes", [nn.LayerNorm, nn.RMSNorm, lambda _size: nn.Softmax(-1)])
def test_units_before_an_operation_that_mixes_are_left_dense_while_others_are_gated(mixes):
    net = nn.Sequential(nn.Linear(6, 5), mixes(5), nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3))
    sparse = assert_exact(net, torch.randn(3, 6), "unit")
    assert [g.name for g in sparse.groups] == ["2.unit"]
    assert set(sparse.structure.dense) == {"0", "4"} | ({"1"} if any(True for _ in net[1].parameters()) else set())
    assert "features" in sparse.structure.dense["0"]


def test_a_layer_that_feeds_a_skip_connection_narrows_only_what_the_branch_reads():
    groups = {g.layer: g for g in assert_exact(nets.Skip(), torch.randn(3, 6), "input").groups}
    assert groups["fc2"].selects == "fc2"
    assert groups["fc3"].selects == "fc3"


def test_a_flattened_convolution_stays_whole_and_its_reader_selects():
    groups = {g.layer: g for g in assert_exact(nets.Convolutional(), torch.randn(3, 16), "input").groups}
    assert groups["fc1"].size == 12
    assert groups["fc1"].selects == "fc1"


def test_a_unit_that_two_layers_read_is_closed_in_both():
    (group,) = assert_exact(nets.TwoReaders(), torch.randn(3, 6), "unit").groups
    assert {part.tensor for part in group.slices if part.consumes} == {"left.weight", "right.weight"}
    assert (group.name, group.own.tolist()) == ("fc1.unit", [6] * 5)


def test_two_readers_select_the_inputs_each_for_itself():
    sparse = assert_exact(nets.TwoReaders(), torch.randn(3, 6), "input")
    assert [(group.name, group.selects) for group in sparse.groups] == [
        ("fc1.input", "fc1"),
        ("left.input", "left"),
        ("right.input", "right"),
    ]


def test_features_that_are_used_elsewhere_are_selected_where_they_are_read():
    sparse = assert_exact(nets.Unseen(), torch.randn(3, 6), "input")
    assert {group.name: group.selects for group in sparse.groups} == {"fc1.input": "fc1", "fc2.input": "fc2"}
    handed_out = exactly_gated(nets.TwoOutputs(), torch.randn(3, 6), gates="input")
    assert {group.name: group.selects for group in handed_out.groups} == {"fc1.input": "fc1", "fc2.input": "fc2"}


def test_a_single_layer_can_have_gates_on_its_inputs():
    (group,) = assert_exact(nn.Linear(6, 3), torch.randn(4, 6), "input").groups
    assert (group.size, group.own.tolist()) == (6, [3] * 6)


def test_a_layer_that_is_used_twice_ties_what_it_makes_to_what_it_reads():
    (group,) = assert_exact(nets.UsedTwice(), torch.randn(3, 6), "unit").groups
    assert {part.tensor for part in group.slices if part.consumes} == {"fc2.weight", "fc3.weight"}
    assert group.own.tolist() == [6 + 5] * 5


def test_a_parameter_that_acts_twice_ties_what_it_acts_on():
    net = Network(
        lambda s, x: s.fc3(s.act(s.fc2(s.act(s.fc1(x))))),
        act=nn.PReLU(5),
        fc1=nn.Linear(6, 5),
        fc2=nn.Linear(5, 5),
        fc3=nn.Linear(5, 2),
    )
    assert sizes(exactly_gated(net, torch.randn(3, 6))) == {"fc1.unit": 5}


def test_a_network_that_reads_whole_numbers():
    sparse = assert_exact(nets.Tokens(), torch.tensor([[1, 2, 6], [0, 3, 5]]), "input")
    assert {g.layer for g in sparse.groups} == {"fc1", "fc2"}


def test_a_network_with_two_inputs():
    class Sum(nets.Layers):
        def forward(self, x, y):
            return self.fc2((self.fc1(x) * 1.0 + y).relu())

    net = Sum(fc1=nn.Linear(6, 5), fc2=nn.Linear(5, 3))
    inputs = torch.randn(4, 6), torch.randn(4, 5)
    sparse = sparsify(net, inputs, gates="input")
    gates = {g.name: (torch.rand(g.size) < 0.5).double() for g in sparse.groups}
    hidden = net.fc1(inputs[0] * gates["fc1.input"]) + inputs[1]
    torch.testing.assert_close(sparse.run(gates, *inputs), net.fc2(hidden.relu() * gates["fc2.input"]))


@pytest.mark.parametrize("name", ["batch norm", "dropout"])
def test_training_mode_of_the_example_run_does_not_matter(name):
    net = ANY_NETWORK[name]()
    groups = [str(sparsify(net.train(mode), example(name), gates="input").structure) for mode in (True, False)]
    assert groups[0] == groups[1]


# -- what comes out --------------------------------------------------------------------------------------------


class Pair(NamedTuple):
    first: torch.Tensor
    second: None


OUTPUTS = {
    "tuple": lambda y: (y, y.exp()),
    "dict": lambda y: {"y": y, "rest": [y.exp(), None, 3]},
    "words": lambda y: {"y": y, "name": "logits"},
    "named tuple": lambda y: Pair(y, None),
    "infinite where masked": lambda y: y.masked_fill(torch.eye(4, 2).bool(), -torch.inf),
}


@pytest.mark.parametrize("name", OUTPUTS)
def test_outputs_may_be_nested(name):
    net = Network(lambda s, x: OUTPUTS[name](s.fc2(s.fc1(x).relu())), fc1=nn.Linear(6, 5), fc2=nn.Linear(5, 2))
    assert sizes(sparsify(net, torch.randn(4, 6))) == {"fc1.unit": 5}


def test_objects_could_hide_features():
    net = Network(lambda s, x: SimpleNamespace(y=s.fc2(s.fc1(x))), fc1=nn.Linear(6, 5), fc2=nn.Linear(5, 2))
    with pytest.raises(StructureError, match=r"SimpleNamespace.*Return tensors"):
        sparsify(net, torch.randn(4, 6))


SCALES = {
    "infinite": lambda s, h: ((s.fc2(h) + h.shape[1]).masked_fill(torch.eye(4, 2).bool(), -torch.inf),),
    "of another size": lambda s, h: (1e7 * s.fc2(h), s.other(h) * h.shape[1]),
}


@pytest.mark.parametrize("name", SCALES)
def test_large_outputs_do_not_hide_what_differs_in_others(name):
    net = Network(
        lambda s, x: SCALES[name](s, s.fc1(x)), fc1=nn.Linear(6, 5), fc2=nn.Linear(5, 2), other=nn.Linear(5, 2)
    )
    assert all(group.padded for group in sparsify(net, torch.randn(4, 6)).groups if group.name == "fc1.unit")
