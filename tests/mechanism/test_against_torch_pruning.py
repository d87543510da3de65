"""Where torch-pruning's dependency graph can follow a network, it finds the same coupled slices."""

import warnings

import pytest
import torch
from torch import nn

from l0bayes.models import MLP, LeNet5, WideResNet
from l0bayes.structure import Finder, Request, Roles

torch_pruning = pytest.importorskip("torch_pruning")


class Concatenated(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 4, 3, padding=1)
        self.norm, self.last = nn.BatchNorm2d(10), nn.Conv2d(10, 5, 1)
        self.fc = nn.Linear(5, 2)

    def forward(self, x):
        first = self.first(x).relu()
        x = self.norm(torch.cat((first, self.second(first)), 1))
        return self.fc(self.last(x).relu().mean((2, 3)))


NETWORKS = {
    "mlp": (lambda: MLP(12, 10, 8, 3), (12,)),
    "lenet": (LeNet5, (1, 28, 28)),
    "wide resnet": (lambda: WideResNet(10, 1), (3, 16, 16)),
    "wider resnet": (lambda: WideResNet(16, 2), (3, 16, 16)),
    "concatenation": (Concatenated, (3, 8, 8)),
}


def tensors(module, name, *, is_output):
    """What goes of a module when an output, or an input, of it is pruned."""
    if isinstance(module, nn.Linear | nn.Conv2d) and not is_output:
        return {(f"{name}.weight", 1)}
    state = [key for key, value in module.state_dict().items() if value.dim()]
    return {(f"{name}.{key}", 0) for key in state}


def by_torch_pruning(net, x):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        graph = torch_pruning.DependencyGraph().build_dependency(net, example_inputs=x)
        groups = list(graph.get_all_groups())
    names = {module: name for name, module in net.named_modules()}
    found = set()
    for group in groups:
        members = [(item.dep.target.module, graph.is_out_channel_pruning_fn(item.dep.handler)) for item in group.items]
        parts = [tensors(m, names[m], is_output=out) for m, out in members if m in names and list(m.parameters())]
        found.add(frozenset().union(*parts))
    return found


@pytest.mark.parametrize("kind", NETWORKS)
def test_the_same_slices_belong_together(kind):
    fresh, shape = NETWORKS[kind]
    net, x = fresh().eval(), torch.randn(2, *shape)
    roles = Roles(net, x)
    structure = Finder(roles).structure({layer: Request("unit") for layer in roles.layers()})
    ours = {frozenset((part.tensor, part.dim) for part in group.slices) for group in structure.groups}
    last = next(layer for layer in reversed(list(structure.dense)))
    theirs = {group for group in by_torch_pruning(net, x) if (f"{last}.weight", 0) not in group}
    assert ours == theirs
