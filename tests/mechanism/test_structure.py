"""The groups of plain networks, how patterns assign granularities and options to layers, and how it all prints."""

import pytest
import torch
from awkward_nets import Idle, Network, exactly_gated, sizes, slices
from torch import nn

from l0bayes import sparsify
from l0bayes.errors import StructureError
from l0bayes.gate_options import match_layers
from l0bayes.models import MLP
from l0bayes.structure import Finder, Request, Roles

LAYERS = ("fc1", "fc2", "fc3")
X = torch.zeros(1, 6)


@pytest.fixture(name="paper", scope="module")
def paper_network():
    return Finder(Roles(MLP(784, 300, 100, 10), torch.zeros(2, 784)))


def structure(paper, granularity):
    return paper.structure(dict.fromkeys(LAYERS, Request(granularity)))


def test_input_gates_stand_on_pixels_and_on_both_hidden_layers(paper):
    found = structure(paper, "input")
    assert [(g.name, g.layer, g.size, g.kind, g.min_units) for g in found.groups] == [
        ("fc1.input", "fc1", 784, "input", 1),
        ("fc2.input", "fc2", 300, "input", 1),
        ("fc3.input", "fc3", 100, "input", 1),
    ]
    assert found.dense == {}


def test_pixels_are_selected_and_hidden_units_vanish_with_their_producers(paper):
    pixels, hidden, _ = structure(paper, "input").groups
    assert pixels.selects == "fc1"
    assert slices(pixels) == {("fc1.weight*", 1): list(range(784))}
    assert hidden.selects is None
    each = list(range(300))
    assert slices(hidden) == {("fc2.weight*", 1): each, ("fc1.weight", 0): each, ("fc1.bias", 0): each}


def test_unit_gates_stand_on_hidden_layers_and_leave_the_output_dense(paper):
    found = structure(paper, "unit")
    assert [(g.name, g.layer, g.size, g.min_units) for g in found.groups] == [
        ("fc1.unit", "fc1", 300, 1),
        ("fc2.unit", "fc2", 100, 1),
    ]
    assert all(g.selects is None for g in found.groups)
    assert found.dense == {"fc3": "its features leave the network"}


def test_units_pay_for_what_makes_them_and_inputs_for_what_reads_them(paper):
    assert [set(g.own.tolist()) for g in structure(paper, "unit").groups] == [{784}, {300}]
    assert [set(g.own.tolist()) for g in structure(paper, "input").groups] == [{300}, {100}, {10}]
    assert [set(g.own.tolist()) for g in structure(paper, "weight").groups] == [{1}] * 3


def test_units_of_a_layer_and_inputs_of_the_next_are_the_same_slices(paper):
    unit, inputs = structure(paper, "unit").groups[0], structure(paper, "input").groups[1]
    assert slices(unit) == slices(inputs)


def test_every_weight_may_have_a_gate(paper):
    group = structure(paper, "weight").groups[0]
    assert (group.name, group.size, group.min_units, group.removable) == ("fc1.weight", 784 * 300, 0, False)
    assert slices(group) == {("fc1.weight*", None): list(range(784 * 300))}


def test_layers_without_bias_have_no_bias_slice():
    net = nn.Sequential(nn.Linear(4, 3, bias=False), nn.ReLU(), nn.Linear(3, 2, bias=False))
    (group,) = Finder(Roles(net, torch.zeros(1, 4))).structure({"0": Request("unit")}).groups
    assert {part.tensor for part in group.slices} == {"0.weight", "2.weight"}


def test_one_set_of_features_never_gets_two_sets_of_gates():
    requests = {"fc1": Request("unit"), "fc2": Request("input"), "fc3": Request("input")}
    found = Finder(Roles(MLP(6, 5, 4, 3), X)).structure(requests)
    assert [g.name for g in found.groups] == ["fc1.unit", "fc3.input"]
    assert "fc1.unit" in found.dense["fc2"]


def test_two_words_may_be_about_different_features_of_one_weight():
    gates = {"fc1": "input", "fc2": "weight", "fc3": "input"}
    sparse = exactly_gated(MLP(6, 5, 4, 3).double(), torch.randn(3, 6).double(), gates=gates)
    assert sizes(sparse) == {"fc1.input": 6, "fc2.weight": 20, "fc3.input": 4}


def test_frozen_layers_have_structure_too():
    net = MLP(6, 5, 3).requires_grad_(requires_grad=False)
    assert sizes(sparsify(net, X)) == {"fc1.unit": 5}


def test_the_batch_of_the_example_does_not_matter(paper):
    one = Finder(Roles(MLP(784, 300, 100, 10), torch.zeros(1, 784)))
    assert str(structure(one, "unit")) == str(structure(paper, "unit"))
    assert structure(one, "unit").macs == structure(paper, "unit").macs


# -- what it says ---------------------------------------------------------------------------------------------


def test_structure_prints_as_a_table_with_reasons(paper):
    text = str(structure(paper, "unit"))
    for part in ("fc1.unit", "300", "fc2.weight[dim 1]*", "fc1.bias[dim 0]", "fc3", "leave the network"):
        assert part in text


def test_long_lists_of_slices_are_cut_short():
    stream = [nn.Linear(4, 4) for _ in range(8)]

    def use(s, x):
        x = s.start(x)
        for layer in s.stream:
            x = x + layer(x).relu()
        return s.end(x)

    net = Network(use, start=nn.Linear(6, 4), stream=nn.ModuleList(stream), end=nn.Linear(4, 2))
    line = next(row for row in str(sparsify(net, X).structure).splitlines() if row.startswith("start.unit"))
    assert line.count("[dim") == 6
    assert line.endswith(" more")


def test_a_layer_that_is_not_called_says_so():
    sparse = sparsify(Idle(), torch.randn(3, 6))
    assert sparse.structure.dense["idle"] == "the network does not call it"


def test_an_embedding_reads_no_features():
    net = nn.Sequential(nn.Embedding(7, 6), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 2))
    sparse = sparsify(net, torch.zeros(2, 3, dtype=torch.int64), gates="input")
    assert sizes(sparse) == {"1.input": 6, "3.input": 5}
    assert sparse.structure.dense["0"]


# -- patterns --------------------------------------------------------------------------------------------------


def test_one_word_is_for_all_layers():
    assert match_layers(["fc1", "fc2"], "unit") == {"fc1": "unit", "fc2": "unit"}


def test_first_pattern_that_matches_wins_and_order_is_the_networks():
    found = match_layers(LAYERS, {"fc2": "a", "fc*": "b", "*": "c"})
    assert list(found.items()) == [("fc1", "b"), ("fc2", "a"), ("fc3", "b")]


def test_layers_that_no_pattern_matches_are_left_out():
    assert match_layers(LAYERS, {"fc[13]": "unit"}) == {"fc1": "unit", "fc3": "unit"}


def test_patterns_reach_into_submodules():
    net = nn.Sequential(MLP(4, 3, 3), nn.ReLU(), nn.Linear(3, 2))
    layers = Roles(net, torch.zeros(1, 4)).layers()
    assert layers == ["0.fc1", "0.fc2", "2"]
    assert list(match_layers(layers, {"0.*": "unit"})) == ["0.fc1", "0.fc2"]


def test_parameters_that_are_used_without_a_layer_have_names_too():
    net = Network(
        lambda s, x: s.fc((x @ s.weights + s.shift).relu()),
        weights=nn.Parameter(torch.randn(6, 5)),
        shift=nn.Parameter(torch.randn(5)),
        fc=nn.Linear(5, 2),
    ).double()
    sparse = exactly_gated(net, torch.randn(3, 6, dtype=torch.float64), gates={"weights": "unit"})
    (group,) = sparse.groups
    assert slices(group) == {("fc.weight*", 1): [*range(5)], ("weights", 1): [*range(5)], ("shift", 0): [*range(5)]}
    assert group.own.tolist() == [6] * 5


@pytest.mark.parametrize("minimum", [0, 3, 5])
def test_min_units_may_be_asked_for(minimum):
    gates = {"fc1": {"gates": "unit", "min_units": minimum}, "*": "unit"}
    sparse = sparsify(MLP(6, 5, 4, 3), X, gates=gates, min_units=2)
    assert [(group.name, group.min_units) for group in sparse.groups] == [("fc1.unit", minimum), ("fc2.unit", 2)]


@pytest.mark.parametrize("granularity", ["unit", "input"])
def test_more_units_than_there_are_cannot_be_kept(granularity):
    with pytest.raises(StructureError, match="min_units: 9 for layer 'fc1'"):
        sparsify(MLP(6, 5, 3), X, gates=granularity, min_units=9)


def test_words_may_differ_between_layers():
    sparse = sparsify(MLP(6, 5, 4, 3), X, gates={"fc1": "input", "fc2": "unit"})
    assert [(g.name, g.size) for g in sparse.groups] == [("fc1.input", 6), ("fc2.unit", 4)]
