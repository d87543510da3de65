"""Compacted networks of several kinds, with random gates, half of them closed."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from l0bayes import compact, sparsify
from l0bayes.inference import HardConcreteGuide
from l0bayes.models import MLP, LeNet5, WideResNet


class Transformer(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Linear(8, 16)
        layer = nn.TransformerEncoderLayer(16, 4, 24, dropout=0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)
        self.head = nn.Linear(16, 3)

    def forward(self, x):
        return self.head(self.encoder(self.embedding(x)).mean(1))


@dataclass
class Compacted:
    small: nn.Module
    x: Tensor
    fresh: Callable[[], nn.Module]


_KINDS = {
    "mlp": (lambda: MLP(12, 10, 8, 3), (12,), "unit"),
    "mlp by inputs": (lambda: MLP(12, 10, 8, 3), (12,), "input"),
    "lenet": (LeNet5, (1, 28, 28), "unit"),
    "lenet by filters and inputs": (LeNet5, (1, 28, 28), {"conv*": "unit", "fc*": "input"}),
    "wide resnet": (lambda: WideResNet(10, 1), (3, 32, 32), "unit"),
    "transformer": (Transformer, (5, 8), "unit"),
}
NETWORKS = tuple(_KINDS)


def compacted(kind):
    fresh, shape, gates = _KINDS[kind]
    x = torch.randn(3, *shape)
    sparse = sparsify(fresh(), x, gates=gates)
    guide = HardConcreteGuide(sparse)
    with torch.no_grad():
        for log_alpha in guide.parameters():
            log_alpha.copy_(torch.randn_like(log_alpha) * 4)
    return Compacted(compact(sparse, guide), x, fresh)
