"""What cannot be taken out safely stays dense with a reason, or is refused; never wrong in silence."""

import pytest
import torch
from awkward_nets import Network, exactly_gated, four_layers, sizes
from torch import nn
from torch.nn import functional as F  # noqa: N812 (everybody's name for it)
from torch.nn.utils import parametrizations

from l0bayes import sparsify
from l0bayes.errors import StructureError


@pytest.fixture(autouse=True)
def _double(_same_start):
    torch.set_default_dtype(torch.float64)


def dense(use, gates="unit", **more):
    """Why ``fc1`` stays dense; everything that is gated is exact."""
    sparse = exactly_gated(four_layers(use, **more), torch.randn(4, 6), gates=gates)
    assert "fc3.unit" in sizes(sparse) or gates != "unit"
    assert not any(name.startswith("fc1.") for name in sizes(sparse))
    return sparse.structure.dense["fc1"]


def padded(use, **more):
    """Whether ``fc1`` has gates although the code behind it insists on its width; everything that is gated is exact."""
    sparse = exactly_gated(four_layers(use, **more), torch.randn(4, 6))
    return any(group.name == "fc1.unit" and group.size == 5 and group.padded for group in sparse.groups)


# -- decisions that depend on values -------------------------------------------------------------------------


class Deciding(nn.Module):
    def __init__(self, decide):
        super().__init__()
        self.decide = decide

    def forward(self, x):
        return x if self.decide(x) else x.relu()


DECISIONS = {
    "if": lambda x: bool(x.sum() > 0),
    "item": lambda x: x[0, 0].item() > 0,
    "float": lambda x: float(x.mean()) > 0,
    "any": lambda x: bool((x > 0).any()),
    "equal": lambda x: torch.equal(x, x * 2),
    "allclose": lambda x: torch.allclose(x, x * 2),
    "list": lambda x: x[0].tolist()[0] > 0,
    "numpy": lambda x: x.detach().numpy().sum() > 0,
    "loop": lambda x: max(x[0]) > 0,
}


@pytest.mark.parametrize("behind", [0, 1])
@pytest.mark.parametrize("name", DECISIONS)
def test_decisions_that_depend_on_the_data_are_refused_by_the_name_of_the_module(name, behind):
    layers = [nn.Linear(6, 5), nn.Linear(5, 4), nn.Linear(4, 2)]
    layers.insert(behind, Deciding(DECISIONS[name]))
    with pytest.raises(StructureError, match=rf"'{behind}' .*depends on the values of the data.*torch\.where"):
        sparsify(nn.Sequential(*layers), torch.randn(4, 6))


def test_decisions_on_shapes_and_on_the_networks_own_numbers_are_not():
    def use(s, x):
        h = s.fc1(x) if x.shape[0] > 1 and x.dim() == 2 else x
        return s.fc2(h * 2 if s.fixed.sum() > 0 else h)

    assert "fc1.unit" in sizes(exactly_gated(four_layers(use, fixed=torch.ones(3)), torch.randn(4, 6)))


def test_rows_that_a_mask_leaves_may_decide_which_layers_run():
    def use(s, x):
        rare = s.fc1(x)[x[:, 0] > 100]
        return s.other(rare) if len(rare) else s.fc2(s.fc1(x))

    with pytest.raises(StructureError, match=r"depends on the values of the data, and 'other' did not"):
        sparsify(four_layers(use, other=nn.Linear(5, 4)), torch.randn(4, 6))


CHOOSING = {
    "a table": lambda s, h: s.fc2(h) + s.table((h[:, 0] > 0).long()),
    "a mask": lambda s, h: s.fc2(h)[(h.sum(1) > -100)],
    "an index": lambda s, h: s.fc2(h)[h[:, 0].argsort()],
    "the largest": lambda s, h: s.fc2(h) + s.table.weight[h.argmax(1)],
    "a count": lambda s, h: s.fc2(h) * (h > 0).long().sum(1, keepdim=True),
    "the largest two": lambda s, h: s.fc2(h * (h >= h.topk(2, 1).values[:, -1:])),
}


@pytest.mark.parametrize("name", CHOOSING)
@pytest.mark.parametrize("rows", [1, 4])
def test_features_that_choose_what_is_read_stay(name, rows):
    tables = {"table": nn.Embedding(5, 4)} if name in ("a table", "the largest") else {}
    net = four_layers(lambda s, x: CHOOSING[name](s, s.fc1(x)), **tables)
    sparse = sparsify(net, torch.randn(rows, 6))
    found = {group.name: group.size for group in sparse.groups}
    assert found.get("fc1.unit", 0) <= (4 if name in ("a table", "an index") else 0)
    exactly_gated(net, torch.randn(4, 6))


# -- widths and positions that are written into the network ---------------------------------------------------


WRITTEN = {
    "view": lambda s, x: s.fc2(s.fc1(x).view(-1, 5)),
    "reshape": lambda s, x: s.fc2(s.fc1(x).reshape(len(x), 5, 1).squeeze(2)),
    "division by the width": lambda s, x: s.fc2(s.fc1(x) / s.fc1(x).shape[1]),
    "split": lambda s, x: s.fc2(torch.cat(s.fc1(x).split([2, 3], 1), 1)),
    "zeros": lambda s, x: s.fc2(torch.zeros(len(x), 5).copy_(s.fc1(x))),
    "list of positions": lambda s, x: s.fc2(s.fc1(x)[:, [4, 3, 2, 1, 0]]),
    "swapped by hand": lambda s, x: s.fc2(torch.cat((s.fc1(x)[:, 1:], s.fc1(x)[:, :1]), 1)),
    "one position": lambda s, x: s.fc2(s.fc1(x) + F.one_hot(torch.tensor(2), 5)),
    "strides": lambda s, x: s.fc2(s.fc1(x).as_strided((len(x), 5), (5, 1))),
}


@pytest.mark.parametrize("name", WRITTEN)
def test_widths_written_into_the_network_are_kept_behind_a_layer(name):
    assert padded(WRITTEN[name])


def test_features_that_are_moved_by_a_number_of_places_stay():
    assert "moves it by a number of places" in dense(lambda s, x: s.fc2(s.fc1(x).roll(2, 1)))


def test_shuffled_channels_are_padded():
    net = nn.Sequential(nn.Conv2d(3, 8, 1), nn.ChannelShuffle(2), nn.Conv2d(8, 4, 1), nn.ReLU(), nn.Conv2d(4, 2, 1))
    sparse = exactly_gated(net, torch.randn(2, 3, 3, 3))
    assert sizes(sparse) == {"0.unit": 8, "2.unit": 4}
    assert [group.name for group in sparse.groups if group.padded] == ["0.unit"]


@pytest.mark.parametrize("rows", [1, 3])
def test_a_squeeze_that_would_take_the_last_channel_for_a_dimension(rows):
    net = Network(
        lambda s, x: s.fc2(s.fc1(F.adaptive_avg_pool2d(s.conv(x), 1).squeeze()).relu()),
        conv=nn.Conv2d(3, 4, 1),
        fc1=nn.Linear(4, 5),
        fc2=nn.Linear(5, 2),
    )
    sparse = sparsify(net, torch.randn(rows, 3, 4, 4))
    assert sizes(sparse) == {"conv.unit": 4, "fc1.unit": 5}
    assert [group.name for group in sparse.groups if group.padded] == ["conv.unit"]


UNKNOWN = {
    "fft": lambda s, x: s.fc2(torch.fft.fft(s.fc1(x)).real),
    "sort": lambda s, x: s.fc2(s.fc1(x).sort(1).values),
    "determinant": lambda s, x: s.fc2(s.fc1(x)) * torch.linalg.det(s.fc1(x).T @ s.fc1(x)),
    "distances": lambda s, x: s.fc2(s.fc1(x)) + torch.cdist(s.fc1(x), s.fc1(x))[:, :1],
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_what_passes_through_an_unknown_operation_stays(name):
    assert "whose effect on features is not known" in dense(UNKNOWN[name])


def test_features_written_into_others_stay():
    def use(s, x):
        h = s.fc1(x)
        h[:, :2] = s.other(x)
        return s.fc2(h)

    sparse = exactly_gated(four_layers(use, other=nn.Linear(6, 2)), torch.randn(4, 6))
    assert "writes its features into another tensor" in sparse.structure.dense["other"]


# -- training mode -------------------------------------------------------------------------------------------


def test_heads_for_training_alone_read_their_features():
    def use(s, x):
        h = s.fc1(x).relu()
        return s.fc2(h) + (s.aux(h).sum() if s.training else 0)

    net = four_layers(use, aux=nn.Linear(5, 2))
    (group,) = (g for g in exactly_gated(net, torch.randn(4, 6)).groups if g.name == "fc1.unit")
    assert "aux.weight" in {part.tensor for part in group.slices if part.consumes}


AUXILIARY = {
    "a width": lambda s, h: s.aux(h.view(-1, 5)),
    "a scale": lambda s, h: s.aux(h) * h.shape[1],
}


@pytest.mark.parametrize("name", AUXILIARY)
def test_what_only_training_mode_does_is_tried_too(name):
    def use(s, x):
        h = s.fc1(x).relu()
        return s.fc2(h) + (AUXILIARY[name](s, h) if s.training else 0)

    assert padded(use, aux=nn.Linear(5, 4))


# -- weights that are no parameters of their own ---------------------------------------------------------------


PARAMETRISED = [parametrizations.weight_norm, parametrizations.spectral_norm, parametrizations.orthogonal]


@pytest.mark.parametrize("how", PARAMETRISED)
@pytest.mark.parametrize("layer", ["fc1", "fc2"])
def test_parametrised_weights_keep_what_they_read_and_lose_rows_only_one_by_one(how, layer):
    net = four_layers(lambda s, x: s.fc2(s.fc1(x).relu()))
    how(getattr(net, layer))
    sparse = exactly_gated(net, torch.randn(4, 6))
    rows = how is parametrizations.weight_norm
    read = {"fc1.unit"} if layer == "fc2" else set()
    assert set(sizes(sparse)) == {"fc1.unit", "fc2.unit", "fc3.unit"} - read - (set() if rows else {f"{layer}.unit"})
    assert rows or sparse.structure.dense[layer]


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_recurrent_layers_in_both_precisions(kind, dtype):
    torch.set_default_dtype(dtype)
    net = Network(
        lambda s, x: s.out(s.after(s.cell(s.before(x))[0]).relu()),
        before=nn.Linear(4, 5),
        cell=kind(5, 3, batch_first=True),
        after=nn.Linear(3, 4),
        out=nn.Linear(4, 2),
    )
    sparse = sparsify(net, torch.randn(2, 3, 4))
    assert sizes(sparse) == {"before.unit": 5, "cell.weight_ih_l0.unit": 3, "after.unit": 4}


def test_tied_weights_name_both_layers():
    net = Network(
        lambda s, x: s.fc3(s.fc2(s.fc1(s.fc0(x)).relu()).relu()),
        fc0=nn.Linear(4, 6),
        fc1=nn.Linear(6, 6),
        fc2=nn.Linear(6, 6),
        fc3=nn.Linear(6, 2),
    )
    net.fc2.weight = net.fc1.weight
    with pytest.raises(StructureError) as error:
        sparsify(net, torch.randn(3, 4))
    for layer in ("fc1", "fc2"):
        reason = str(error.value).split(f"{layer}: ")[1].split(";")[0]
        assert "'fc1.weight'" in reason
        assert "'fc2.weight'" in reason


def test_kinds_of_layers_without_gates_are_listed():
    class Recurrent(nn.Module):
        def __init__(self):
            super().__init__()
            self.cells, self.bag = nn.LSTM(4, 5, batch_first=True), nn.EmbeddingBag(10, 5)
            self.fc1, self.fc2 = nn.Linear(5, 7), nn.Linear(7, 2)

        def forward(self, x, words):
            h, _ = self.cells(x)
            return self.fc2(self.fc1(h[:, -1] + self.bag(words)).relu())

    inputs = torch.randn(3, 6, 4), torch.randint(10, (3, 2))
    structure = sparsify(Recurrent(), inputs).structure
    assert any(name.startswith("cells") for name in structure.dense)  # as one, or as the products it is made of
    assert structure.dense["bag"] == "EmbeddingBag has no gates"
    assert [group.name for group in structure.groups] == ["fc1.unit"]
