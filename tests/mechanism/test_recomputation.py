"""Layers that run again in backward would run without the gates."""

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from l0bayes import sparsify
from l0bayes.errors import StructureError


class Recomputing(nn.Module):
    def __init__(self, **options):
        super().__init__()
        self.fc1, self.fc2, self.fc3 = nn.Linear(6, 5), nn.Linear(5, 5), nn.Linear(5, 2)
        self.options = options

    def forward(self, x):
        def inside(h):
            return self.fc2(h.relu()).relu()

        h = self.fc1(x)
        return self.fc3(checkpoint(inside, h, **self.options) if self.options else inside(h))


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
@pytest.mark.parametrize("use_reentrant", [True, False])
def test_checkpointed_layers_are_refused(use_reentrant):
    with pytest.raises(StructureError, match=r"'fc2' runs again in backward \(torch.utils.checkpoint\)"):
        sparsify(Recomputing(use_reentrant=use_reentrant), torch.randn(3, 6))


def test_the_same_network_without_is_not():
    assert [group.name for group in sparsify(Recomputing(), torch.randn(3, 6)).groups] == ["fc1.unit", "fc2.unit"]
