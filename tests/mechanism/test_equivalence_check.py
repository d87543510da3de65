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
