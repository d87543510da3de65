"""The equivalence check is fair to networks that change, or draw, while they run."""

import os
import random

import numpy as np
import pytest
import torch
from awkward_nets import Network
from torch import nn
from torch.nn import functional as F  # noqa: N812 (everybody's name for it)

from l0bayes import sparsify
from l0bayes.errors import StructureError


class Noisy(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(6, 5), nn.Linear(5, 2)

    def forward(self, x):
        h = self.fc1(x)
        return self.fc2(h + torch.empty_like(h).normal_() + torch.empty_like(h).uniform_())


class Moving(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(6, 5), nn.Linear(5, 2)
        self.register_buffer("mean", torch.zeros(5))

    def forward(self, x):
        h = self.fc1(x)
        if self.training:
            self.mean.mul_(0.9).add_(0.1 * h.detach().mean(0))
        return self.fc2(h - self.mean)


def spectral():
    return nn.Sequential(nn.utils.parametrizations.spectral_norm(nn.Linear(4, 4)), nn.Linear(4, 5), nn.Linear(5, 2))


@pytest.mark.parametrize(("make", "layer"), [(Noisy, "fc1"), (Moving, "fc1"), (spectral, "1")])
def test_they_keep_their_gates(make, layer):
    net = make()
    sparse = sparsify(net, torch.randn(3, next(net.parameters()).shape[-1] if make is spectral else 6))
    assert f"{layer}.unit" in [group.name for group in sparse.groups]


class Attention(nn.Module):
    """Heads whose width is inferred, as einops does with the number of heads given: fewer features make others."""

    def __init__(self, width=48, heads=4, dtype=None):
        super().__init__()
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.heads, self.dtype = heads, dtype

    def forward(self, x):
        rows, length, _ = x.shape
        q, k, v = self.qkv(x).view(rows, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        scores = (q @ k.transpose(-2, -1) / 2).to(self.dtype or x.dtype).softmax(-1).to(x.dtype)
        return self.out((scores @ v).transpose(1, 2).reshape(rows, length, -1))


class Deep(nn.Module):
    """So deep in a network that the output hardly depends on it."""

    def __init__(self, share, **options):
        super().__init__()
        self.share = share
        self.embed, self.attention, self.head = nn.Linear(6, 48), Attention(**options), nn.Linear(48, 3)
        self.fc1, self.fc2 = nn.Linear(48, 9), nn.Linear(9, 48)

    def forward(self, x):
        x = self.embed(x)
        x = x + self.share * self.attention(x)
        return self.head(x + self.fc2(self.fc1(x).relu()))


def deep(kind):
    """One that runs in float64, or that casts to float32 inside or before everything."""
    if kind == "float64":
        return Deep(1e-6)
    net = Deep(1e-4, dtype=torch.float32 if kind == "cast inside" else None)
    if kind == "float32 only":
        net.register_forward_pre_hook(lambda _, args: tuple(x.float() for x in args))
    return net


@pytest.mark.parametrize("kind", ["float64", "cast inside", "float32 only"])
def test_a_wrong_group_deep_in_a_network_is_found_and_padded(kind):
    found = {group.name: group.padded for group in sparsify(deep(kind), torch.randn(2, 5, 6)).groups}
    assert found["attention.qkv.unit"]
    assert found["fc1.unit"] is None


def test_a_network_whose_training_mode_insists_on_float32_keeps_its_gates():
    def use(s, x):
        h = s.fc2(s.fc1(x).relu())
        return h + s.aux(x.float()) if s.training else h

    net = Network(use, fc1=nn.Linear(6, 5), fc2=nn.Linear(5, 2), aux=nn.Linear(6, 2))
    assert [group.name for group in sparsify(net, torch.randn(3, 6)).groups] == ["fc1.unit"]


class Cancelling(nn.Module):
    """What leaves it is the small difference of large numbers."""

    def __init__(self):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(6, 9), nn.Linear(9, 2)

    def forward(self, x):
        h = 1e9 * self.fc2(self.fc1(x).relu())
        return (h + 1) - h


def test_right_groups_that_agree_to_the_rounding_of_larger_numbers_keep_their_gates():
    assert "fc1.unit" in [group.name for group in sparsify(Cancelling(), torch.randn(3, 6)).groups]


class ByWidth(torch.autograd.Function):
    """The identity, whose gradient is divided by the number of features."""

    @staticmethod
    def forward(_ctx, x):
        return x.clone()

    @staticmethod
    def backward(_ctx, grad):
        return grad / grad.shape[1]


def by_hook(h):
    if h.requires_grad:
        h.register_hook(lambda grad: grad / grad.shape[1])
    return h


@pytest.mark.parametrize("between", [ByWidth.apply, by_hook])
def test_gradients_that_depend_on_the_width_are_found_and_keep_it(between):
    net = Network(
        lambda s, x: s.fc3(s.fc2(between(s.fc1(x)).relu()).relu()),
        fc1=nn.Linear(6, 5),
        fc2=nn.Linear(5, 4),
        fc3=nn.Linear(4, 2),
    )
    with torch.no_grad():
        sparse = sparsify(net, torch.randn(3, 6))
    first, second = sparse.groups
    assert "the gradient in 'fc1.weight' is another" in first.padded
    assert second.padded is None


class Once(torch.autograd.Function):
    """Something that has no gradient."""

    @staticmethod
    def forward(_ctx, x):
        return 2 * x


def test_networks_that_cannot_be_trained_keep_their_gates():
    net = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 2))
    net.register_forward_hook(lambda _net, _args, out: Once.apply(out))
    assert [group.name for group in sparsify(net, torch.randn(3, 6)).groups] == ["0.unit"]


# -- chance ----------------------------------------------------------------------------------------------------------


class Drawing(nn.Module):
    """Draws something between two layers, in one mode or in both."""

    def __init__(self, draw, *, training_only=False):
        super().__init__()
        self.fc1, self.fc2, self.fc3, self.fc4 = nn.Linear(6, 5), nn.Linear(5, 4), nn.Linear(4, 3), nn.Linear(3, 2)
        self.draw, self.training_only = draw, training_only
        self.own = np.random.default_rng(3)

    def forward(self, x):
        h = self.fc1(x).relu()
        if self.training or not self.training_only:
            h = self.draw(self, h)
        return self.fc4(self.fc3(self.fc2(h).relu()).relu())


class DrawingByHand(Drawing):
    """Reads what it drew without calling the layer whose weight it reads it with."""

    def forward(self, x):
        h = self.fc1(x).relu()
        if self.training or not self.training_only:
            h = self.draw(self, h)
        return self.fc4(self.fc3(F.linear(h, self.fc2.weight, self.fc2.bias).relu()).relu())


def attend(_, h):
    return F.scaled_dot_product_attention(h[:, None, None], h[:, None, None], h[:, None, None], dropout_p=0.5)[:, 0, 0]


TORCH = {
    "attention that drops": attend,
    "gumbel softmax": lambda _, h: h * F.gumbel_softmax(torch.ones(len(h), 1, 2), hard=True)[:, 0, :1],
    "dropout in evaluation": lambda _, h: F.dropout(h, 0.5, training=True),
    "alpha dropout": lambda _, h: F.alpha_dropout(h, 0.5, training=True),
    "exponential": lambda _, h: h * torch.empty_like(h).exponential_(),
    "normal": lambda _, h: h + torch.normal(torch.zeros_like(h), 1.0),
    "a permutation": lambda _, h: h[torch.randperm(len(h))],
    "numpy by rows": lambda _, h: h * torch.as_tensor(np.random.rand(len(h), 1), dtype=h.dtype),  # noqa: NPY002
    "layers left out": lambda _, h: h if random.random() < 0.5 else 2 * h,  # noqa: S311
    "a generator of its own": lambda s, h: h * s.own.random(),
}
BY_WIDTH = {
    "numpy": lambda _, h: h + torch.from_numpy(np.random.randn(*h.shape)).to(h),  # noqa: NPY002
    "a generator of its own": lambda s, h: h + torch.as_tensor(s.own.random(h.shape)).to(h),
    "python": lambda _, h: h + torch.tensor([random.random() for _ in range(h.shape[1])]).to(h),  # noqa: S311
}


@pytest.mark.parametrize("training_only", [False, True])
@pytest.mark.parametrize("name", TORCH)
def test_networks_that_draw_keep_their_gates(name, training_only):
    x = torch.randn(4, 6)
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()  # noqa: NPY002
    net = Drawing(TORCH[name], training_only=training_only)
    own = net.own.bit_generator.state
    sparse = sparsify(net, x)
    wanted = {"fc1.unit", "fc2.unit", "fc3.unit"} - ({"fc1.unit"} if name == "attention that drops" else set())
    assert {group.name for group in sparse.groups} == wanted
    assert random.getstate() == before[0]
    assert np.random.get_state()[1].tolist() == before[1]  # noqa: NPY002
    assert net.own.bit_generator.state == own


@pytest.mark.parametrize("training_only", [False, True])
@pytest.mark.parametrize("name", BY_WIDTH)
def test_draws_past_torch_of_the_width_of_features_are_named(name, training_only):
    sparse = sparsify(DrawingByHand(BY_WIDTH[name], training_only=training_only), torch.randn(4, 6))
    assert [group.name for group in sparse.groups] == ["fc2.unit", "fc3.unit"]
    reason = sparse.structure.dense["fc1"]
    assert "in Drawing" in reason
    assert "gives random numbers" in reason
    assert "torch.randn_like" in reason
    assert ("training mode" in reason) == training_only


@pytest.mark.parametrize("name", BY_WIDTH)
def test_draws_past_torch_go_on_at_full_width(name):
    found = {group.name: bool(group.padded) for group in sparsify(Drawing(BY_WIDTH[name]), torch.randn(4, 6)).groups}
    assert found == {"fc1.unit": True, "fc2.unit": False, "fc3.unit": False}


def test_what_no_seed_holds_is_refused_and_named():
    net = Drawing(lambda _, h: h * (1 + int.from_bytes(os.urandom(4)) / 2**32))
    with pytest.raises(StructureError, match=r"mul in Drawing gives something else each time.*torch\.randn_like"):
        sparsify(net, torch.randn(4, 6))
