"""The tasks of the comparison: data, network, and one budget of epochs and one schedule for every method."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from recipes import WIDE_RESNET
from torch import nn

from l0bayes.inference import FitOptions, Target, TensorBatches
from l0bayes.inference.data.augment import shifted
from l0bayes.inference.data.datasets import Split, load_data
from l0bayes.models import MLP, LeNet5, WideResNet


@dataclass(frozen=True)
class Data:
    """Parts of a data set."""

    train: Split
    validation: Split
    test: Split


@dataclass(frozen=True)
class Task:
    """What every method is given.

    Attributes:
        data: the parts, read from a folder.
        build: the full network.
        initialise: sets a network of any width to random weights, as ``build`` does.
        gates: the granularity of ours.
        target: the size to reach.
        options: epochs, optimizer, rates: the same for all.
        batch_size: images a step.
        augment: of a batch of images.
        pruned_by: epoch after which the iterative pruning of others is done.
        thin: group name to the number of units of a thin network that somebody would draw up; ``None`` for the same
            share of every layer, which for LeNet-5 would leave two filters.
    """

    data: Callable[[Path], Data]
    build: Callable[[], nn.Module]
    initialise: Callable[[nn.Module], None]
    gates: Any
    target: Target
    options: FitOptions
    batch_size: int
    augment: Callable[..., Any]
    pruned_by: int
    thin: Mapping[str, int] | None = None

    def batches(self, split: Split) -> TensorBatches:
        """Training batches, augmented and in random order."""
        return TensorBatches(split.x, split.y, self.batch_size, shuffle=True, augment=self.augment)


def reset(net: nn.Module) -> None:
    """Torch's own start of every layer."""
    for module in net.modules():
        if callable(getattr(module, "reset_parameters", None)):
            module.reset_parameters()


def reset_wide_resnet(net: nn.Module) -> None:
    """That of a Wide ResNet, for other widths."""
    reset(net)
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.Linear):
            nn.init.zeros_(module.bias)


def _mnist(folder: Path, *, images: bool) -> Data:
    loaded = load_data("mnist", str(folder), download=False)
    data = loaded.with_channels() if images else loaded
    return Data(data.train, data.validation, data.test)


def _cifar(folder: Path, rows: int) -> Data:
    """The first so many of the training part, up to 10,000 of the rest for validation; always the same order."""
    data = load_data("folder", str(folder), download=False).with_channels()
    x, y = (torch.cat([getattr(data.train, part), getattr(data.validation, part)]) for part in ("x", "y"))
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    train, validation = order[:rows], order[rows : rows + 10_000]
    return Data(Split(x[train], y[train]), Split(x[validation], y[validation]), data.test)


_ADAM = FitOptions(epochs=50, lr=2e-3, ema=0.999, schedule="late_cosine")
_SGD = FitOptions(
    epochs=8,
    lr=WIDE_RESNET["lr"],
    optimizer="sgd",
    weight_decay=WIDE_RESNET["weight_decay"],
    schedule="late_cosine",
    bf16=True,
    channels_last=True,
)
_SHIFT_1 = partial(shifted, pixels=1, flip=False)
_SHIFT_4 = partial(shifted, pixels=4, flip=True)
_LENET = 431_080  # parameters
_MLP = 266_610


def _lenet(parameters: int, *thin: int) -> Task:
    data = partial(_mnist, images=True)
    target = Target(parameters / _LENET)
    widths = dict(zip(("conv1.unit", "conv2.unit", "fc1.unit"), thin, strict=True))
    return Task(data, LeNet5, reset, "unit", target, _ADAM, 100, _SHIFT_1, 12, widths)


def _mlp(parameters: int) -> Task:
    data = partial(_mnist, images=False)
    build = partial(MLP, 784, 300, 100, 10)
    return Task(data, build, reset, "input", Target(parameters / _MLP), _ADAM, 100, _SHIFT_1, 12)


def _wrn(width: int, share: float, rows: int = 15_000, epochs: int = 8) -> Task:
    data = partial(_cifar, rows=rows)
    build = partial(WideResNet, 16, width)
    options, pruned_by = _SGD.changed(epochs=epochs), 3 * epochs // 8
    return Task(data, build, reset_wide_resnet, "unit", Target(share, "macs"), options, 128, _SHIFT_4, pruned_by)


TASKS: dict[str, Callable[[], Task]] = {
    "lenet-6000": partial(_lenet, 6_000, 6, 11, 21),
    "lenet-4150": partial(_lenet, 4_150, 5, 9, 18),
    "mlp-18000": partial(_mlp, 18_000),
    "mlp-8000": partial(_mlp, 8_000),
    "mlp-2700": partial(_mlp, 2_700),
    "wrn-16-1-half": partial(_wrn, 1, 0.5),
    "wrn-16-1-quarter": partial(_wrn, 1, 0.25),
    "wrn-16-1-twentieth": partial(_wrn, 1, 0.05),
    "wrn-16-2-quarter": partial(_wrn, 2, 0.25),
    "wrn-16-1-half-long": partial(_wrn, 1, 0.5, 50_000, 40),
    "wrn-16-1-quarter-long": partial(_wrn, 1, 0.25, 50_000, 40),
}
