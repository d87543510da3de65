"""The oracle of the mechanism: masked = subnetwork = compacted, for any network and any gates."""

import copy

import torch
from torch import Tensor, nn

from l0bayes import SparseModule, sparsify
from l0bayes.masked import masked_forward
from l0bayes.compacted import compact_network


def random_gates(sparse: SparseModule, share_open: float = 0.5) -> dict[str, Tensor]:
    """Gates of which about a share is open, half of those fully."""
    gates = {}
    for group in sparse.groups:
        value = torch.rand(group.size).clamp(0.05) * 1.5
        gates[group.name] = value.clamp(max=1.0) * (torch.rand(group.size) < share_open)
    return gates


def constant_gates(sparse: SparseModule, value: float) -> dict[str, Tensor]:
    return {group.name: torch.full((group.size,), value) for group in sparse.groups}


def masked(sparse: SparseModule, gates: dict[str, Tensor], *inputs: Tensor) -> Tensor:
    """The definition: every feature computed, then multiplied by its gate."""
    return masked_forward(sparse.net, sparse.groups, gates, *inputs)


def assert_same(first: Tensor, second: Tensor, tolerance: float = 1e-10) -> None:
    torch.testing.assert_close(first, second, rtol=tolerance, atol=tolerance)


def assert_exact(net: nn.Module, x: Tensor, gates: str | dict = "unit", draws: int = 4) -> SparseModule:
    """Puts gates on a network and compares the three ways to run it; float64 is the caller's business."""
    before = copy.deepcopy(net.state_dict())
    sparse = sparsify(net.eval(), x, gates=gates)
    for share_open in (0.0, 1.0, *(0.6,) * draws):
        values = random_gates(sparse, share_open)
        expected = masked(sparse, values, x)
        assert_same(sparse.run(values, x), expected)
        assert_same(compact_network(net, sparse.groups, values)(x), expected)
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    return sparse
