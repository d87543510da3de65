"""The report adds up: every parameter is under gates, or in the list of what is dense with the reason."""

import awkward_nets
import pytest
import torch
import torchvision
from awkward_nets import Network
from exact_examples import EXAMPLES
from torch import nn

from l0bayes import sparsify
from l0bayes.errors import StructureError
from l0bayes.structure import is_told
from l0bayes.structure.groups import along

ODD = [
    name
    for name, kind in vars(awkward_nets).items()
    if isinstance(kind, type) and issubclass(kind, awkward_nets.Layers) and name not in ("Layers", "Network")
]
INPUTS = {"Convolutional": torch.randn(3, 16), "Tokens": torch.randint(0, 7, (3, 4)), "ByKeyword": torch.randn(3, 6)}


def gated(sparse, name, shape):
    """Which elements of a parameter some gate decides over."""
    found = torch.zeros(shape, dtype=torch.bool)
    for part in (part for group in sparse.groups for part in group.slices if part.tensor == name):
        found |= along(part.gates >= 0, part.dim, shape)
    return found


def assert_told(sparse):
    missing = [
        name
        for name, parameter in sparse.net.named_parameters()
        if not (is_told(name, sparse.structure) or gated(sparse, name, parameter.shape).all())
    ]
    assert missing == []
    assert all(sparse.structure.dense.values())
    text = str(sparse.structure)
    assert all(reason in text for reason in sparse.structure.dense.values())


@pytest.mark.parametrize("kind", EXAMPLES)
@pytest.mark.parametrize("gates", ["as asked", "input", "weight"])
def test_examples(kind, gates):
    example = EXAMPLES[kind]
    assert_told(sparsify(example.build(), example.data(2), gates=example.gates if gates == "as asked" else gates))


@pytest.mark.parametrize("kind", ODD)
@pytest.mark.parametrize("gates", ["unit", "input", "weight"])
def test_awkward_ones(kind, gates):
    try:
        sparse = sparsify(getattr(awkward_nets, kind)(), INPUTS.get(kind, torch.randn(3, 6)), gates=gates)
    except StructureError as error:
        assert "no layer that can be gated" in str(error) or "no gates" in str(error)  # noqa: PT017
        return
    assert_told(sparse)


@pytest.mark.parametrize("name", ["resnet18", "shufflenet_v2_x0_5", "mobilenet_v3_small", "squeezenet1_1"])
def test_torchvision(name):
    assert_told(sparsify(getattr(torchvision.models, name)(weights=None), torch.randn(2, 3, 64, 64)))


def test_layers_that_no_pattern_matches():
    sparse = sparsify(EXAMPLES["wide resnet"].build(), EXAMPLES["wide resnet"].data(2), gates={"stage1.*": "unit"})
    assert_told(sparse)
    assert "no gates were asked for" in sparse.structure.dense.values()


def by_hand(layer, x):
    """What a layer gives, without a call of it."""
    return x @ layer.weight.T + layer.bias


def test_what_is_between_the_layers_of_a_padded_group_is_told():
    net = Network(
        lambda s, x: s.fc2(s.norm(s.fc1(x)).view(-1, 5)),
        fc1=nn.Linear(6, 5),
        norm=nn.BatchNorm1d(5),
        fc2=nn.Linear(5, 2),
    )
    sparse = sparsify(net, torch.randn(4, 6))
    assert_told(sparse)
    assert sparse.structure.dense["norm"] == "it is at full width between the layers of 'fc1.unit'"


def test_partners_of_a_rejected_group_name_it():
    net = Network(
        lambda s, x: s.fc4(by_hand(s.fc3, (s.norm(s.fc1(x)) + s.fc2(x)).view(-1, 5)).relu()),
        fc1=nn.Linear(6, 5),
        fc2=nn.Linear(6, 5),
        norm=nn.BatchNorm1d(5),
        fc3=nn.Linear(5, 3),
        fc4=nn.Linear(3, 2),
    )
    sparse = sparsify(net, torch.randn(4, 6))
    assert_told(sparse)
    assert [group.name for group in sparse.groups] == ["fc3.unit"]
    assert "does not compute the same" in sparse.structure.dense["fc1"]
    for partner in ("fc2", "norm"):
        assert sparse.structure.dense[partner].startswith("it goes with 'fc1', of which")


def test_parameters_of_all_shapes():
    def use(s, x):
        h = torch.einsum("bi,eio->beo", x, s.experts).mean(1)
        return s.scale * s.fc2(s.fc1(h + s.shift).relu() * s.slope)

    net = Network(
        use,
        experts=nn.Parameter(torch.randn(3, 6, 5)),
        shift=nn.Parameter(torch.zeros(5)),
        slope=nn.Parameter(torch.ones(1)),
        scale=nn.Parameter(torch.tensor(2.0)),
        unused=nn.Parameter(torch.ones(4, 4)),
        fc1=nn.Linear(5, 4),
        fc2=nn.Linear(4, 2),
        idle=nn.Linear(3, 3),
    )
    sparse = sparsify(net, torch.randn(4, 6))
    assert_told(sparse)
    dense = sparse.structure.dense
    assert [group.name for group in sparse.groups] == ["fc1.unit"]
    assert {"experts", "shift", "slope", "scale", "unused", "idle"} <= dense.keys()
    assert dense["idle"] == "the network does not call it"
    assert "use" in dense["unused"]


def test_layers_of_which_a_part_has_gates_are_told_with_the_number_that_has_none():
    def use(s, x):
        h = s.fc1(x).relu()
        return torch.cat((s.fc2(h), h[:, -2:]), -1)

    sparse = sparsify(Network(use, fc1=nn.Linear(6, 5), fc2=nn.Linear(5, 3)), torch.randn(4, 6))
    assert {group.name: group.size for group in sparse.groups} == {"fc1.unit": 3}
    assert_told(sparse)
    assert sparse.structure.dense["fc1"] == "12 of 30 in 'fc1.weight': its features leave the network"
