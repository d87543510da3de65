"""Networks of many kinds, each with the layers that read gated features, laid out by hand."""

import copy
import functools
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from l0bayes import SparseModule, sparsify
from l0bayes.models import MLP, LeNet5, WideResNet


class Text(nn.Module):
    """A transformer encoder on factorised embeddings."""

    def __init__(self, dropout=0.0):
        super().__init__()
        self.embed = nn.Embedding(11, 5)
        self.widen = nn.Linear(5, 12)
        self.position = nn.Parameter(0.1 * torch.randn(6, 12))
        layers = [nn.TransformerEncoderLayer(12, 3, 10, dropout, batch_first=True) for _ in range(2)]
        self.layers = nn.ModuleList(layers)
        self.head = nn.Linear(12, 4)

    def forward(self, x):
        x = self.widen(self.embed(x)) + self.position
        for layer in self.layers:
            x = layer(x)
        return self.head(x.mean(1))


class Dense(nn.Module):
    """A block of a DenseNet: each layer reads the outputs of all before it."""

    def __init__(self, growth=4, start=3):
        super().__init__()
        self.stem = nn.Conv2d(2, start, 3, padding=1, bias=False)
        widths = [start + growth * number for number in range(4)]
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) for width in widths)
        self.convs = nn.ModuleList(nn.Conv2d(width, growth, 3, padding=1, bias=False) for width in widths[:3])
        self.fc = nn.Linear(widths[3], 4)

    def forward(self, x):
        features = [self.stem(x)]
        for number, conv in enumerate(self.convs):  # torch.export of torch 2.6 takes every zip for a strict one
            features.append(conv(self.norms[number](torch.cat(features, 1)).relu()))
        return self.fc(self.norms[3](torch.cat(features, 1)).relu().mean((2, 3)))


class Grouped(nn.Module):
    """Group normalisation: whole groups of channels are coupled."""

    def __init__(self):
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(2, 12, 3), nn.GroupNorm(4, 12)
        self.conv2, self.norm2 = nn.Conv2d(12, 6, 3, stride=2), nn.GroupNorm(6, 6)
        self.fc = nn.Linear(6 * 4, 3)

    def forward(self, x):
        x = torch.nn.functional.gelu(self.norm1(self.conv1(x)))
        return self.fc(self.norm2(self.conv2(x)).tanh().flatten(1))


class Excited(nn.Module):
    """A squeeze-and-excitation block, the sigmoid of which is not 0 where nothing enters."""

    def __init__(self):
        super().__init__()
        self.conv1, self.norm = nn.Conv2d(2, 8, 3, bias=False), nn.BatchNorm2d(8)
        self.squeeze, self.excite = nn.Linear(8, 4), nn.Linear(4, 8)
        self.conv2 = nn.Conv2d(8, 3, 3)

    def forward(self, x):
        x = self.norm(self.conv1(x)).relu()
        scale = self.excite(self.squeeze(x.mean((2, 3))).relu()).sigmoid()
        return self.conv2(x * scale[:, :, None, None]).mean((2, 3))


Gates = dict[str, Tensor]
Readers = dict[str, Callable[[Gates], Tensor]]


@dataclass
class Example:
    """A network, its input, what gates are asked for, and layer to factor of each of its input features."""

    build: Callable[[], nn.Module]
    data: Callable[[int], Tensor]
    readers: Readers
    gates: str | dict = "unit"
    sites: list[str] = field(default_factory=list)


def _reads(*sites: str) -> Callable[[Gates], Tensor]:
    return lambda gates: torch.cat([gates[site] for site in sites])


def _repeated(site: str, times: int) -> Callable[[Gates], Tensor]:
    return lambda gates: gates[site].repeat_interleave(times)


def _images(channels: int, size: int) -> Callable[[int], Tensor]:
    return lambda rows: torch.randn(rows, channels, size, size)


def _wide() -> Readers:
    """Depth 16: two blocks a stage, the streams gated too."""
    readers: Readers = {}
    stream = "conv1.unit"  # no convolution in the first shortcut: stage 1 adds to what the first layer makes
    for stage in (1, 2, 3):
        for block in (0, 1):
            name = f"stage{stage}.{block}"
            readers[f"{name}.conv1"] = _reads(stream)
            if stage > 1 and block == 0:
                readers[f"{name}.shortcut"] = _reads(stream)
                stream = f"{name}.conv2.unit"
            readers[f"{name}.conv2"] = _reads(f"{name}.conv1.unit")
    return readers | {"fc": _reads(stream)}


def _text() -> Readers:
    readers: Readers = {"widen": _reads("embed.unit")}
    for layer in ("layers.0", "layers.1"):
        readers[f"{layer}.linear2"] = _reads(f"{layer}.linear1.unit")
        readers[f"{layer}.self_attn.out_proj"] = _repeated(f"{layer}.self_attn.unit", 4)
    return readers


def _dense() -> Readers:
    made = ["stem.unit", "convs.0.unit", "convs.1.unit", "convs.2.unit"]
    return {f"convs.{n}": _reads(*made[: n + 1]) for n in range(3)} | {"fc": _reads(*made)}


def _both(gates: Gates) -> Tensor:
    return gates["conv2.unit"].repeat_interleave(16) * gates["fc1.input"]


LENET = {"conv2": _reads("conv1.unit"), "fc1": _repeated("conv2.unit", 16), "fc2": _reads("fc1.unit")}
EXAMPLES = {
    "mlp": Example(
        lambda: MLP(7, 6, 5, 4),
        lambda rows: torch.randn(rows, 7),
        {"fc2": _reads("fc1.unit"), "fc3": _reads("fc2.unit")},
    ),
    "mlp by inputs": Example(
        lambda: MLP(7, 6, 5, 4),
        lambda rows: torch.randn(rows, 7),
        {f"fc{n}": _reads(f"fc{n}.input") for n in (1, 2, 3)},
        "input",
    ),
    "lenet": Example(LeNet5, _images(1, 28), LENET),
    "lenet of the paper": Example(
        LeNet5,
        _images(1, 28),
        LENET | {"fc1": _both, "fc2": _reads("fc2.input")},
        {"conv*": "unit", "fc*": "input"},
    ),
    "wide resnet": Example(lambda: WideResNet(16, 1, 4), _images(3, 8), _wide()),
    "transformer": Example(Text, lambda rows: torch.randint(0, 11, (rows, 6)), _text()),
    "densenet": Example(Dense, _images(2, 6), _dense()),
    "group norm": Example(
        Grouped, _images(2, 7), {"conv2": _repeated("conv1.unit", 3), "fc": _repeated("conv2.unit", 4)}
    ),
    "squeeze and excitation": Example(
        Excited,
        _images(2, 7),
        {"squeeze": _reads("conv1.unit"), "excite": _reads("squeeze.unit"), "conv2": _reads("conv1.unit")},
    ),
}


def gated(kind: str) -> SparseModule:
    """An example with gates, in training mode, with running statistics that are not the initial ones."""
    return copy.deepcopy(_gated(kind, torch.get_default_dtype()))


@functools.cache
def _gated(kind: str, _dtype: torch.dtype) -> SparseModule:
    example = EXAMPLES[kind]
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(7)
        sparse = sparsify(example.build(), example.data(2), gates=example.gates)
        with torch.no_grad():
            for _ in range(2):
                sparse.net.train()(example.data(8))
    return sparse
