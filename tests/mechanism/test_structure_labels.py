"""Labels go where the data go: what a layer behind one operation reads, and which features the operation ties."""

import pytest
import torch
from awkward_nets import Network
from torch import nn
from torch.nn import functional as F  # noqa: N812 (everybody's name for it)

from l0bayes.structure import Roles
from l0bayes.structure.features import Features

X = torch.randn(2, 4, generator=torch.Generator().manual_seed(3))


class Behind(nn.Linear):
    """A layer as wide as what reaches it: only what it reads matters."""

    def __init__(self):
        super().__init__(1, 2, bias=False)

    def forward(self, x):
        if x.shape[-1] != self.weight.shape[1]:
            self.weight = nn.Parameter(torch.randn(2, x.shape[-1]))
        return super().forward(x)


def reading(operation, *, maps=False):
    """What a layer reads behind an operation on the features a0 a1 a2 and b0 b1 b2 of two layers.

    Coupled features go by the name of the first.
    """
    make = (lambda: nn.Conv1d(4, 3, 1)) if maps else (lambda: nn.Linear(4, 3))
    x = torch.randn(2, 4, 5) if maps else X
    net = Network(lambda s, x: s.out(operation(s.a(x), s.b(x))), a=make(), b=make(), out=Behind())
    net.eval()(x)
    roles = Roles(net, x)
    names = {roles.classes.none: "-"}
    for layer in "ab":
        for position, number in enumerate(roles.axes[f"{layer}.weight", 0][0].tolist()):
            names.setdefault(number, f"{layer}{position}")
    return " ".join(names.get(number, "?") for number in roles.axes["out.weight", 1][0].tolist())


def _written(a, b):
    out = torch.zeros(2, 7)
    out[:, :3] = a
    out[:, 4:] = b
    return out


def _overwritten(a, b):
    out = _written(a, b)
    out[:, :3] = 5.0
    return out


MOVES = {
    "flip": (lambda a, _b: a.flip(-1), "a2 a1 a0"),
    "slice": (lambda a, _b: a[:, 1:], "a1 a2"),
    "every second": (lambda a, _b: a[:, ::2], "a0 a2"),
    "select": (lambda a, _b: torch.stack([a[:, 2], a[:, 0]], -1), "a2 a0"),
    "narrow": (lambda a, _b: a.narrow(1, 0, 2), "a0 a1"),
    "concatenation": (lambda a, b: torch.cat([b, a], -1), "b0 b1 b2 a0 a1 a2"),
    "the same twice": (lambda a, b: torch.cat([a, b, a], -1), "a0 a1 a2 b0 b1 b2 a0 a1 a2"),
    "padding": (lambda a, _b: F.pad(a, (1, 2)), "- a0 a1 a2 - -"),
    "padding with a number": (lambda a, _b: F.pad(a, (0, 1), value=3.0), "a0 a1 a2 -"),
    "cropping": (lambda a, _b: F.pad(a, (0, -1)), "a0 a1"),
    "repeat": (lambda a, _b: a.repeat(1, 2), "a0 a1 a2 a0 a1 a2"),
    "repeat_interleave": (lambda a, _b: a.repeat_interleave(2, 1), "a0 a0 a1 a1 a2 a2"),
    "tile": (lambda a, _b: a.tile(2), "a0 a1 a2 a0 a1 a2"),
    "unbind": (lambda a, _b: torch.stack(a.unbind(1)[::-1], 1), "a2 a1 a0"),
    "chunk": (lambda a, _b: a.chunk(3, 1)[1], "a1"),
    "split": (lambda a, _b: a.split([1, 2], 1)[1], "a1 a2"),
    "a list of indices": (lambda a, _b: a[:, [2, 0]], "a2 a0"),
    "index_select": (lambda a, _b: a.index_select(1, torch.tensor([1, 1])), "a1 a1"),
    "gather": (lambda a, _b: a.gather(1, torch.tensor([[2, 0]]).expand(2, 2)), "a2 a0"),
    "as_strided": (lambda a, _b: a.as_strided((2, 2), (3, 2)), "a0 a2"),
    "expand": (lambda a, _b: a[:, :, None].expand(-1, -1, 2).reshape(2, 6), "a0 a0 a1 a1 a2 a2"),
    "transpose": (lambda a, _b: a.T.contiguous().T, "a0 a1 a2"),
    "clone and detach": (lambda a, _b: a.clone().detach(), "a0 a1 a2"),
    "another dtype and back": (lambda a, _b: a.to(torch.float64).to(a.dtype), "a0 a1 a2"),
    "zeros written into": (_written, "a0 a1 a2 - b0 b1 b2"),
    "overwritten with a number": (_overwritten, "- - - - b0 b1 b2"),
}


@pytest.mark.parametrize("name", MOVES)
def test_elements_are_moved_as_the_data_are(name):
    operation, expected = MOVES[name]
    assert reading(operation) == expected


MEETS = {
    "sum": (lambda a, b: a + b, "a0 a1 a2"),
    "product": (lambda a, b: a * b, "a0 a1 a2"),
    "maximum": (torch.maximum, "a0 a1 a2"),
    "where": (lambda a, b: torch.where(a > 0, a, b), "a0 a1 a2"),
    "lerp": (lambda a, b: torch.lerp(a, b, 0.3), "a0 a1 a2"),
    "in place": (lambda a, b: a.mul_(2).add_(b).relu_(), "a0 a1 a2"),
    "in another order": (lambda a, b: torch.cat([a + b.flip(1), b], 1), "a0 a1 a2 a2 a1 a0"),
    "with a neighbour": (lambda a, _b: a[:, :2] + a[:, 1:], "a0 a0"),
    "with its mirror image": (lambda a, _b: a + a.flip(1), "a0 a1 a0"),
    "one half gates the other": (lambda a, b: F.glu(torch.cat([a, b], 1), 1), "a0 a1 a2"),
    "a part of one": (lambda a, b: torch.cat([a[:, :1] + b[:, :1], a, b], 1), "a0 a0 a1 a2 a0 b1 b2"),
    "a number": (lambda a, _b: 2 * a.exp() - 1, "a0 a1 a2"),
    "fixed numbers": (lambda a, _b: a * torch.ones(3), "a0 a1 a2"),
    "dropout": (lambda a, _b: F.dropout(a, 0.5), "a0 a1 a2"),
    "a mask": (lambda a, _b: a.masked_fill(torch.eye(2, 3).bool(), 0.0), "a0 a1 a2"),
    "whole numbers": (lambda a, b: torch.cat([(a > 0).long().to(a.dtype) * b, a], 1), "a0 a1 a2 a0 a1 a2"),
}


@pytest.mark.parametrize("name", MEETS)
def test_what_meets_in_an_element_is_tied(name):
    operation, expected = MEETS[name]
    assert reading(operation) == expected


MIXES = {
    "softmax": lambda a, _b: a.softmax(1),
    "log softmax": lambda a, _b: a.log_softmax(1),
    "layer norm": lambda a, _b: F.layer_norm(a, (3,)),
    "rms norm": lambda a, _b: F.rms_norm(a, (3,)),
    "cumulative sum": lambda a, _b: a.cumsum(1),
    "less its mean": lambda a, _b: a - a.mean(1, keepdim=True),
    "by its length": lambda a, _b: F.normalize(a, dim=1),
    "scores": lambda a, _b: (a @ a.T).softmax(1) @ a,
    "by a scaled copy": lambda a, _b: a * a.std(1, keepdim=True),
}


@pytest.mark.parametrize("name", MIXES)
def test_what_needs_all_features_ties_all(name):
    assert reading(MIXES[name]) == "a0 a0 a0"


MAPS = {
    "flattened": (lambda a, _b: a.flatten(1), "a0 " * 5 + "a1 " * 5 + "a2 " * 4 + "a2"),
    "flattened the other way": (lambda a, _b: a.mT.flatten(1), "a0 a1 a2 " * 4 + "a0 a1 a2"),
    "pooled": (lambda a, _b: F.adaptive_avg_pool1d(a, 1).flatten(1), "a0 a1 a2"),
    "max pooled": (lambda a, _b: F.max_pool1d(a, 2).flatten(1), "a0 a0 a1 a1 a2 a2"),
    "mean over positions": (lambda a, _b: a.mean(2), "a0 a1 a2"),
    "variance over positions": (lambda a, _b: torch.cat([a.var(2), a.amax(2)], 1), "a0 a1 a2 a0 a1 a2"),
    "softmax over positions": (lambda a, _b: a.softmax(2).sum(2), "a0 a1 a2"),
    "one position": (lambda a, _b: a[:, :, -1], "a0 a1 a2"),
    "windows": (lambda a, _b: a.unfold(2, 2, 1).amax((2, 3)), "a0 a1 a2"),
    "rolled over positions": (lambda a, _b: a.roll(1, 2)[..., 0], "a0 a1 a2"),
    "mirrored borders": (lambda a, _b: F.pad(a, (1, 1), mode="reflect").mean(2), "a0 a1 a2"),
    "as tokens": (lambda a, _b: a.mT, "a0 a1 a2"),
    "a product over positions": (lambda a, b: (a.softmax(-1) @ b.mT).mean(2), "a0 a0 a0"),
}


@pytest.mark.parametrize("name", MAPS)
def test_positions_of_a_map_are_one_feature(name):
    operation, expected = MAPS[name]
    assert reading(operation, maps=True) == expected


UPSAMPLED = ["nearest", "linear", "area", "nearest-exact"]


@pytest.mark.parametrize("mode", UPSAMPLED)
def test_maps_are_resized_one_by_one(mode):
    assert reading(lambda a, _b: F.interpolate(a, scale_factor=2, mode=mode).mean(2), maps=True) == "a0 a1 a2"


SPREAD = {
    "one feature scales all": (lambda a, b: a * b[:, :1], "a0 a1 a2"),
    "a column for all": (lambda a, b: torch.cat([a + b[:, 1:2], b], 1), "a0 a1 a2 b0 b1 b2"),
}


@pytest.mark.parametrize("name", SPREAD)
def test_what_acts_on_all_features_stays_and_they_do_not(name):
    operation, expected = SPREAD[name]
    assert reading(operation) == expected


JOINED = {
    "interleaved": (lambda a, b: torch.stack([a, b], 2).flatten(1), "a0 a0 a1 a1 a2 a2"),
    "as rows": (lambda a, b: torch.cat([a, b])[:2], "a0 a1 a2"),
    "as rows, taken apart again": (lambda a, b: torch.cat(torch.cat([a, b]).chunk(2)[::-1], 1), "a0 a1 a2 a0 a1 a2"),
}


@pytest.mark.parametrize("name", JOINED)
def test_what_is_joined_side_by_side_is_equally_wide(name):
    operation, expected = JOINED[name]
    assert reading(operation) == expected


# -- the labels themselves -------------------------------------------------------------------------------------


def together(features, number):
    """Label 1, 2, … to the smallest label that it is coupled with."""
    classes = features.classes().of(torch.arange(1, number + 1))
    return [int((classes == each).nonzero()[0]) + 1 for each in classes]


def test_ties_are_transitive_and_zero_ties_nothing():
    features = Features()
    assert features.fresh(6).tolist() == [1, 2, 3, 4, 5, 6]
    features.tie(torch.tensor([1, 3, 0]), torch.tensor([2, 0, 4]))
    features.tie(torch.tensor([5]), torch.tensor([2]))
    assert together(features, 6) == [1, 1, 3, 4, 1, 6]


def test_ties_of_a_broadcast_shape():
    features = Features()
    rows, columns = features.fresh(2)[:, None], features.fresh(3)
    assert features.tie(rows, torch.zeros_like(columns)).tolist() == [[1, 1, 1], [2, 2, 2]]
    features.tie(rows[:1].expand(1, 3), columns[:1])
    assert together(features, 5) == [1, 2, 1, 4, 5]


def test_long_chains_of_ties():
    features = Features()
    labels = features.fresh(3000)
    order = torch.randperm(3000)
    features.tie(labels[order[:-1]], labels[order[1:]])
    assert set(together(features, 3000)) == {1}


def test_merging_leaves_one_label_for_each_remaining_position():
    features = Features()
    labels = features.fresh(6).reshape(2, 3)
    merged = features.merge(labels, [1])
    assert merged.shape == (2, 1)
    assert together(features, 6) == [1, 1, 1, 4, 4, 4]


def test_repeated_labels_are_looked_at_once():
    features = Features()
    line = features.fresh(3)[:, None, None]
    labels, mirrored = line.expand(3, 10**6, 10**6), line.flip(0).expand(3, 10**6, 10**6)
    assert features.merge(labels, [1, 2]).flatten().tolist() == [1, 2, 3]
    features.freeze(labels, "it is large")
    assert features.tie(labels, mirrored).shape == labels.shape
    assert together(features, 3) == [1, 2, 1]


def test_the_first_reason_stays():
    features = Features()
    labels = features.fresh(2)
    features.freeze(labels[:1], "the first")
    features.freeze(labels, "the second")
    classes = features.classes()
    assert [classes.frozen(int(number)) for number in classes.of(labels)] == ["the first", "the second"]
    assert classes.frozen(classes.none) == "it carries no features"
