"""Networks whose code insists on a width: the layers around it shrink, what is between them runs at full width."""

import copy
from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from l0bayes import compact, sparsify
from l0bayes.errors import FileFormatError
from l0bayes.inference import HardConcreteGuide, TensorBatches, fit, load, predict, save, shrink
from l0bayes.models import Classifier
from l0bayes.posterior.cost import cost
from l0bayes.subnetwork.compacted import compact_network
from l0bayes.testing import check_sparsify

X = torch.randn(6, 5, generator=torch.Generator().manual_seed(0))


class Heads(nn.Module):
    """Attention with the number of heads written in."""

    def __init__(self):
        super().__init__()
        self.qkv, self.out, self.last = nn.Linear(12, 36), nn.Linear(12, 12), nn.Linear(12, 2)

    def forward(self, x):
        q, k, v = (one.view(2, 7, 4, 3).transpose(1, 2) for one in self.qkv(x).split(12, dim=2))
        return self.last(self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(2, 7, 12)).relu())


class Hidden(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1, self.fc2, self.fc3 = nn.Linear(5, 8), nn.Linear(8, 6), nn.Linear(6, 3)

    def between(self, h):
        return h.view(-1, 8)

    def forward(self, x):
        h = self.fc2(self.between(self.fc1(x).relu() + 1))
        return self.fc3(h.view(-1, 2, 3).flatten(1).relu())


class Maps(nn.Module):
    """Convolutions with a norm between, around a view that has the number of channels in it."""

    def __init__(self):
        super().__init__()
        self.conv1, self.norm, self.conv2 = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 6, 3)
        self.last = nn.Linear(6, 2)

    def forward(self, x):
        h = self.norm(self.conv1(x)).relu().view(len(x), 8, 6, 6)
        return self.last(self.conv2(h).mean((2, 3)).unflatten(1, (2, 3)).flatten(1))


class Rows(nn.Module):
    """An embedding whose width is asserted."""

    def __init__(self):
        super().__init__()
        self.table, self.fc = nn.Embedding(9, 8), nn.Linear(8, 3)

    def forward(self, ids):
        h = self.table(ids)
        assert h.shape[-1] == 8
        return self.fc(h.sum(1))


NETS = {
    "heads": (Heads, torch.randn(2, 7, 12), {"qkv.unit": 4}),
    "hidden": (Hidden, X, {"fc1.unit": 8, "fc2.unit": 6}),
    "maps": (Maps, torch.randn(3, 3, 8, 8), {"conv1.unit": 8, "conv2.unit": 6}),
    "rows": (Rows, torch.randint(9, (3, 4)), {"table.unit": 8}),
}
nets = pytest.mark.parametrize(("make", "x", "sizes"), NETS.values(), ids=NETS)


@nets
def test_masked_run_and_compacted_networks_agree(make, x, sizes):
    sparse = check_sparsify(make(), x)
    assert {group.name: group.size for group in sparse.groups if group.padded} == sizes


@nets
def test_both_layers_shrink(make, x, sizes):
    sparse = sparsify(make().eval(), x)
    gates = {group.name: torch.zeros(group.size).index_fill(0, torch.tensor([1]), 1.0) for group in sparse.groups}
    small = compact_network(sparse.net, sparse.groups, gates)
    opened = {name: gate.double() for name, gate in gates.items()}
    assert cost(small, x).parameters == pytest.approx(float(sparse.live_cost().amount(opened)))
    for name in sizes:
        layer = name.removesuffix(".unit")
        assert small.get_submodule(layer).weight.numel() < sparse.net.get_submodule(layer).weight.numel()


@nets
def test_the_report_says_so_and_what_it_saves(make, x, sizes):
    structure = sparsify(make(), x).structure
    for name in sizes:
        group = next(group for group in structure.groups if group.name == name)
        (row,) = [row for row in str(structure).splitlines() if row.startswith(f"{name} ") and " padded " in row]
        under = sum(
            structure.shapes[part.tensor].numel() * int((part.gates >= 0).sum()) // len(part.gates)
            for part in group.slices
        )
        assert f"save up to {under} parameters" in row


def test_what_is_between_is_not_said_to_shrink():
    sparse = sparsify(Maps(), NETS["maps"][1])
    under = {part.tensor for group in sparse.groups for part in group.slices}
    assert under == {"conv1.weight", "conv1.bias", "conv2.weight", "conv2.bias", "last.weight"}


def trained():
    torch.manual_seed(0)
    sparse = sparsify(Hidden(), X, code_cost=0.01)
    model = Classifier(sparse, 6)
    guide = HardConcreteGuide(model)
    with torch.no_grad():
        for name in ("fc1.unit", "fc2.unit"):
            guide.parameter(f"log_alpha.{name}").copy_(
                torch.linspace(-5, 5, dict(guide.gates())[name].log_alpha.numel())
            )
    return model, guide


def test_training_prediction_and_the_finished_network():
    model, guide = trained()
    fit(model, guide, TensorBatches(X, torch.arange(6) % 3, 3), epochs=3, lr=0.01, selection="svi", progress=False)
    small = compact(model, guide)
    torch.testing.assert_close(small(X), predict(model, guide, X), rtol=1e-5, atol=1e-6)


def test_saved_and_loaded(tmp_path):
    model, guide = trained()
    small = compact(model, guide)
    found = load(save(small, tmp_path / "small.safetensors"), Hidden())
    assert torch.equal(found(X), small(X))
    again = load(save(found, tmp_path / "again.safetensors"), Hidden())
    assert torch.equal(again(X), small(X))
    assert torch.equal(copy.deepcopy(again)(X), small(X))


def test_a_damaged_place_is_found(tmp_path):
    small = compact(*trained())
    small.fc1.place[0] = small.fc1.place[1]
    path = save(small, tmp_path / "small.safetensors")
    with pytest.raises(FileFormatError, match=r"fc1\.place must rise"):
        load(path, Hidden())


def test_it_can_be_exported():
    small = compact(*trained())
    exported = torch.export.export(small, (X,)).module()
    torch.testing.assert_close(exported(X), small(X))


def test_shrinking_leaves_it_as_it_is():
    model, guide = trained()
    before = predict(model, guide, X)
    assert shrink(model, guide) == {}
    torch.testing.assert_close(predict(model, guide, X), before)


def test_a_compacted_network_is_not_gated_again_where_it_is_padded():
    small = compact(*trained())
    sparse = sparsify(small, X, gates="input")
    assert {"fc1.input"} == {group.name for group in sparse.groups}


def test_reasons_that_features_mix_stay_reasons():
    """A norm over a padded stream would see zeros: it is not offered."""

    class Normed(Hidden):
        def between(self, h):
            return F.layer_norm(h, (8,))

    sparse = sparsify(Normed(), X)
    assert "normalises over all" in sparse.structure.dense["fc1"]


class Elsewhere(Hidden):
    """Reads the features by a function of its own, which cannot select."""

    def __init__(self):
        super().__init__()
        self.table = nn.Parameter(torch.randn(8, 8))

    def between(self, h):
        return h.view(-1, 8) @ self.table


def test_readers_that_are_no_layers_leave_it_dense():
    sparse = sparsify(Elsewhere(), X)
    assert "fc1" in sparse.structure.dense
    check_sparsify(Elsewhere(), X)


def test_layers_of_a_chain_select_and_pad_at_once():
    class Chain(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList([nn.Linear(a, b) for a, b in pairwise((5, 8, 8, 8, 2))])

        def forward(self, x):
            for layer in self.layers[:-1]:
                x = layer(x).view(len(x), 8).relu()
            return self.layers[-1](x)

    sparse = check_sparsify(Chain(), X)
    assert len(sparse.groups) == 3
    guide = HardConcreteGuide(sparse.float())
    with torch.no_grad():
        for name in guide.gates():
            guide.parameter(f"log_alpha.{name}").copy_(torch.linspace(-5, 5, 8))
    small = compact(sparse, guide)
    assert {name for name, _ in small.named_buffers()} == {
        "layers.0.place", "layers.1.place", "layers.1.index", "layers.2.place", "layers.2.index", "layers.3.index",
    }  # fmt: skip
    torch.testing.assert_close(small(X), predict(sparse, guide, X), rtol=1e-5, atol=1e-6)
