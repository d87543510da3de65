"""Which of many groups are to blame is found in a few runs, and those that are not keep their gates."""

import pytest
import torch
from awkward_nets import exactly_gated
from torch import nn
from torch.nn.functional import linear

from l0bayes import sparsify
from l0bayes.subnetwork.trial import Trial

X = torch.linspace(-2, 2, 24, dtype=torch.float64).reshape(4, 6)


@pytest.fixture(autouse=True)
def _double(_same_start):
    torch.set_default_dtype(torch.float64)


class Block(nn.Module):
    """A residual block of which some take their width for granted, and do not call the layer that makes it."""

    def __init__(self, *, takes_for_granted):
        super().__init__()
        self.fc1, self.fc2, self.takes_for_granted = nn.Linear(6, 8), nn.Linear(8, 6), takes_for_granted

    def forward(self, x, *, scale):
        if self.takes_for_granted:
            return x + scale * self.fc2(linear(x, self.fc1.weight, self.fc1.bias).relu().reshape(-1, 8))
        return x + scale * self.fc2(self.fc1(x).relu())


class Blocks(nn.Module):
    def __init__(self, *takes_for_granted):
        super().__init__()
        self.blocks = nn.ModuleList(Block(takes_for_granted=one) for one in takes_for_granted)
        self.fc = nn.Linear(6, 2)

    def forward(self, x):
        for block in self.blocks:
            x = block(x, scale=0.5)
        return self.fc(x)


@pytest.fixture
def counted(monkeypatch):
    """How many groups were compared in each run of the whole network."""
    runs = []
    plain = Trial.difference

    def difference(self, case, groups, *, alone):
        runs.append(len(groups))
        return plain(self, case, groups, alone=alone)

    monkeypatch.setattr(Trial, "difference", difference)
    return runs


def test_layers_built_alike_that_fail_by_themselves_are_told_in_one_run(counted):
    net = Blocks(*[True] * 12)
    sparse = sparsify(net, X, gates={"*fc1": "unit", "fc": "input"})
    assert [group.name for group in sparse.groups] == ["fc.input"]
    reasons = {sparse.structure.dense[f"blocks.{number}.fc1"] for number in range(12)}
    assert len(reasons) == 1
    assert "does not compute the same: mat1 and mat2 shapes cannot be multiplied" in reasons.pop()
    # All at once, all of a kind, the first of them, the other kind, the five other cases, and all of them padded.
    assert len(counted) <= 12


def test_those_among_them_that_are_built_otherwise_keep_their_gates():
    takes_for_granted = [True, False, True, True, False, True]
    sparse = exactly_gated(Blocks(*takes_for_granted), X, gates={"*fc1": "unit"})
    gated = {group.name for group in sparse.groups}
    assert gated == {f"blocks.{number}.fc1.unit" for number, one in enumerate(takes_for_granted) if not one}


def test_a_layer_that_fails_by_itself_in_any_case_is_looked_at_in_the_network(counted):
    """Its module needs what the network has put there before, so that alone it tells nothing."""

    class Told(Block):
        def forward(self, x, *, scale):
            if not self.told.pop():
                raise RuntimeError("not told")
            return super().forward(x, scale=scale)

    class Telling(Blocks):
        def forward(self, x):
            for block in self.blocks:
                block.told = [True]
            return super().forward(x)

    net = Telling(*[True] * 3, False)
    for block in net.blocks:
        block.__class__ = Told
    sparse = sparsify(net, X, gates={"*fc1": "unit"})
    assert [group.name for group in sparse.groups] == ["blocks.3.fc1.unit"]
    assert counted


@pytest.mark.parametrize("gates", ["input", "unit"])
def test_a_group_in_one_layer_alone(gates):
    """The smallest module with all its slices is that layer, whose inputs are selected."""
    net = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 5), nn.Softmax(-1), nn.Linear(5, 3))
    assert exactly_gated(net, X, gates=gates).groups
