"""Networks that read the width a layer states: run, compacted and shrunken networks are one."""

import copy
import math

import pytest
import torch
from awkward_nets import Network, compacted, four_layers, sizes
from subnetwork_oracle import assert_same, masked, random_gates, subnetwork
from torch import nn

from l0bayes import sparsify
from l0bayes.errors import StructureError
from l0bayes.shrunken import remove_units


@pytest.fixture(autouse=True)
def _double(_same_start):
    torch.set_default_dtype(torch.float64)


# What is computed, and the layer whose stated width is in it.
READS = {
    "out_features": (lambda s, x: s.fc2(s.fc1(x)) / math.sqrt(s.fc1.out_features), "fc1"),
    "in_features": (lambda s, x: s.fc2(s.fc1(x)) / math.sqrt(s.fc2.in_features), "fc2"),
    "embedding_dim": (lambda s, x: s.fc2(s.embed((x[:, 0] > 0).long()) * math.sqrt(s.embed.embedding_dim)), "embed"),
    "num_features": (lambda s, x: s.fc2(s.norm(s.fc1(x)).relu()) * s.norm.num_features, "norm"),
    "in training alone": (lambda s, x: s.fc2(s.fc1(x)) * (s.fc1.out_features if s.training else 1), "fc1"),
}
MORE = {"embed": lambda: nn.Embedding(3, 5), "norm": lambda: nn.BatchNorm1d(5)}


@pytest.mark.parametrize("name", READS)
def test_such_a_layer_stays_dense_and_says_why(name):
    use, layer = READS[name]
    net = four_layers(use, **({layer: MORE[layer]()} if layer in MORE else {}))
    x = torch.randn(4, 6)
    sparse = sparsify(net, x)
    assert "fc3.unit" in sizes(sparse)
    if name == "embedding_dim":  # fc1 is never called
        assert f"forward reads the width that {layer!r} states" in sparse.structure.dense["embed"]
    elif name == "num_features":  # of a norm that is between two layers, and stays as it is
        assert [group.name for group in sparse.groups if group.padded] == ["fc1.unit"]
    else:
        assert f"forward reads the width that {layer!r} states" in sparse.structure.dense["fc1"]
    for training in (False, True):
        net.train(training)
        values = random_gates(sparse)
        wanted = masked(copy.deepcopy(sparse), values, x)
        for run in (subnetwork, compacted):
            assert_same(run(copy.deepcopy(sparse), values, x), wanted)
        whole = {group.name for group in sparse.groups if not group.narrows}
        values |= {name: torch.ones_like(values[name]) for name in whole}
        opened = {name: value.nonzero().flatten() for name, value in values.items() if value.any()}
        shrunken = copy.deepcopy(sparse)
        _, left = remove_units(shrunken, opened)
        kept = {name: (values[name] != 0).double() for name in values}
        ones = {group.name: torch.ones(group.size) for group in shrunken.groups}
        if len(opened) == len(values):
            assert left.keys() == ones.keys()
            assert_same(shrunken.run(ones, x), masked(copy.deepcopy(sparse), kept, x))


def test_the_usual_reader_of_widths_is_refused_where_nothing_else_has_gates():
    net = Network(
        lambda s, x: s.fc(s.embed(x) * math.sqrt(s.embed.embedding_dim)).mean(1),
        embed=nn.Embedding(9, 8),
        fc=nn.Linear(8, 2),
    )
    with pytest.raises(StructureError, match="forward reads the width that 'embed' states"):
        sparsify(net, torch.randint(0, 9, (3, 5)))


def test_widths_that_change_nothing_may_be_read():
    net = four_layers(lambda s, x: s.fc2(s.fc1(x).reshape(len(x), -1)) + 0 * s.fc1.out_features)
    assert set(sizes(sparsify(net, torch.randn(4, 6)))) == {"fc1.unit", "fc2.unit", "fc3.unit"}
