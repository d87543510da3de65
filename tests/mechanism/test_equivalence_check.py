"""The equivalence check is fair to networks that change, or draw, while they run."""

import pytest
import torch
from torch import nn

from l0bayes import sparsify


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
def test_a_wrong_group_deep_in_a_network_is_left_dense(kind):
    sparse = sparsify(deep(kind), torch.randn(2, 5, 6))
    found = [group.name for group in sparse.groups]
    assert "attention.qkv.unit" not in found
    assert "fc1.unit" in found
    assert "does not compute the same" in sparse.structure.dense["attention.qkv"]


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
