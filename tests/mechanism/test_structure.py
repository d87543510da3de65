"""The groups that are found, and how patterns assign words to layers."""

import pytest
import torch
from torch import nn

from l0bayes import sparsify
from l0bayes.models import MLP
from l0bayes.structure import Slice, consumers, find_structure, match_layers

LAYERS = ("fc1", "fc2", "fc3")


@pytest.fixture(name="paper", scope="module")
def paper_network():
    return MLP(784, 300, 100, 10), torch.zeros(2, 784)


def structure(paper, word):
    return find_structure(*paper, dict.fromkeys(LAYERS, word))


def test_input_gates_stand_on_pixels_and_on_both_hidden_layers(paper):
    groups = structure(paper, "input").groups
    assert [(g.name, g.layer, g.size, g.fan_out) for g in groups] == [
        ("fc1.input", "fc1", 784, 300),
        ("fc2.input", "fc2", 300, 100),
        ("fc3.input", "fc3", 100, 10),
    ]
    assert structure(paper, "input").dense == {}


def test_pixels_are_selected_and_hidden_units_vanish_with_their_producers(paper):
    pixels, hidden, _ = structure(paper, "input").groups
    assert pixels.selects == "fc1"
    assert set(pixels.slices) == {Slice("fc1.weight", 1, consumes=True)}
    assert hidden.selects is None
    assert set(hidden.slices) == {
        Slice("fc2.weight", 1, consumes=True),
        Slice("fc1.weight", 0, consumes=False),
        Slice("fc1.bias", 0, consumes=False),
    }


def test_unit_gates_stand_on_hidden_layers_and_leave_the_output_dense(paper):
    found = structure(paper, "unit")
    assert [(g.name, g.layer, g.size, g.fan_out) for g in found.groups] == [
        ("fc1.unit", "fc1", 300, 100),
        ("fc2.unit", "fc2", 100, 10),
    ]
    assert all(g.selects is None for g in found.groups)
    assert found.dense["fc3"] == "its features leave the network"


def test_units_of_a_layer_and_inputs_of_the_next_are_the_same_slices(paper):
    unit, inputs = structure(paper, "unit").groups[0], structure(paper, "input").groups[1]
    assert set(unit.slices) == set(inputs.slices)
    assert (unit.size, unit.fan_out) == (inputs.size, inputs.fan_out)


def test_consumers_are_the_layers_that_read_the_features(paper):
    assert [consumers(g) for g in structure(paper, "unit").groups] == [("fc2",), ("fc3",)]


def test_layers_without_bias_have_no_bias_slice():
    net = nn.Sequential(nn.Linear(4, 3, bias=False), nn.ReLU(), nn.Linear(3, 2, bias=False))
    (group,) = find_structure(net, torch.zeros(1, 4), {"0": "unit"}).groups
    assert {s.tensor for s in group.slices} == {"0.weight", "2.weight"}


def test_one_set_of_features_never_gets_two_sets_of_gates():
    net = MLP(6, 5, 4, 3)
    found = find_structure(net, torch.zeros(1, 6), {"fc1": "unit", "fc2": "input", "fc3": "input"})
    assert [g.name for g in found.groups] == ["fc1.unit", "fc3.input"]
    assert "fc1.unit" in found.dense["fc2"]


def test_structure_prints_as_a_table_with_reasons(paper):
    text = str(structure(paper, "unit"))
    for part in ("fc1.unit", "300", "fc2.weight[dim 1]", "fc1.bias[dim 0]", "fc3", "leave the network"):
        assert part in text


def test_frozen_layers_have_structure_too():
    net = MLP(6, 5, 3).requires_grad_(False)
    assert [g.name for g in sparsify(net, torch.zeros(1, 6)).groups] == ["fc1.unit"]


# -- patterns --------------------------------------------------------------------------------------------


def test_one_word_is_for_all_layers():
    assert match_layers(MLP(4, 3, 2), "unit") == {"fc1": "unit", "fc2": "unit"}


def test_first_pattern_that_matches_wins_and_order_is_the_networks():
    found = match_layers(MLP(5, 4, 3, 2), {"fc2": "a", "fc*": "b", "*": "c"})
    assert list(found.items()) == [("fc1", "b"), ("fc2", "a"), ("fc3", "b")]


def test_layers_that_no_pattern_matches_are_left_out():
    assert match_layers(MLP(5, 4, 3, 2), {"fc[13]": "unit"}) == {"fc1": "unit", "fc3": "unit"}


def test_patterns_reach_into_submodules():
    net = nn.ModuleDict({"body": MLP(4, 3, 3), "head": nn.Linear(3, 2)})
    assert list(match_layers(net, {"body.*": "unit"})) == ["body.fc1", "body.fc2"]


def test_words_may_differ_between_layers():
    sparse = sparsify(MLP(6, 5, 4, 3), torch.zeros(1, 6), gates={"fc1": "input", "fc2": "unit"})
    assert [(g.name, g.size) for g in sparse.groups] == [("fc1.input", 6), ("fc2.unit", 4)]
