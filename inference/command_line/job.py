"""What a training job is about: its data, its networks with their guides, its batches."""

import math
from functools import partial

import torch
from torch import nn

from l0bayes.inference.command_line.train_options import TrainOptions
from l0bayes.inference.data.augment import shifted
from l0bayes.inference.data.batches import TensorBatches
from l0bayes.inference.data.datasets import Split, load_data
from l0bayes.inference.guide.hard_concrete_guide import HardConcreteGuide
from l0bayes.inference.system.processes import Processes
from l0bayes.models import MLP, Classifier, LeNet5, WideResNet
from l0bayes.sparsify import sparsify

_LENET = (28, 28)


class Job:
    """Makes data and networks as options ask for.

    Args:
        options: what to train, on what, and how.

    Attributes:
        data: training, validation and test part, in the shape that the network takes.

    Raises:
        DataError: if the data are missing or corrupt.
        ValueError: if data and network do not go together.
    """

    def __init__(self, options: TrainOptions) -> None:
        self.options = options
        data = load_data(options.data, options.data_dir, download=options.download)
        if options.network == "wrn" and data.train.x[0].dim() != 3:  # noqa: PLR2004
            raise ValueError(f"network: wrn takes coloured images; {options.data} are grey. Use lenet5 or mlp")
        if options.network == "lenet5" and data.image_shape != _LENET:
            size = " × ".join(map(str, data.image_shape))
            raise ValueError(f"network: lenet5 takes images of 28 × 28; those of {options.data} have {size}. Use mlp")
        self.data = data if options.network == "mlp" else data.with_channels()

    def build(self, *, gated: bool) -> tuple[Classifier, HardConcreteGuide]:
        """A new network with its likelihood, and its guide; both kinds start from the same weights."""
        o, data = self.options, self.data
        torch.manual_seed(o.seed)
        net = network_of(o, tuple(data.train.x.shape[1:]), data.classes)
        if gated:
            net = sparsify(
                net,
                data.train.x[:2],
                o.asked_code_cost,
                o.asked_gates,
                cost=o.cost,
                inclusion=o.asked_inclusion,
                expected_open=o.expected_open,
                slab=o.slab,
                slab_scale=o.slab_scale,
                num_data=len(data.train),
            )
        return self.classifier(net)

    def classifier(self, net: nn.Module) -> tuple[Classifier, HardConcreteGuide]:
        """A network with its likelihood, on the device, and its guide."""
        model = Classifier(net, num_data=len(self.data.train)).to(_device(self.options.device))
        return model, HardConcreteGuide(model, init_open=self.options.init_open)

    def batches(self, split: Split, batch_size: int = 4096, *, shuffle: bool = False) -> TensorBatches:
        """A part of the data on the device; in training (``shuffle``) augmented, and one process's share of it."""
        o = self.options
        x, y = split.x.to(o.device), split.y.to(o.device)
        if not shuffle:
            return TensorBatches(x, y, batch_size)
        processes = Processes()
        augment = partial(shifted, pixels=o.shift, flip=o.flip) if o.shift or o.flip else None
        shard = (processes.rank, processes.size)
        return TensorBatches(x, y, batch_size, shuffle=True, augment=augment, shard=shard)


def network_of(options: TrainOptions, input_shape: tuple[int, ...], classes: int) -> nn.Module:
    """The network that options ask for, at its full size, with new weights.

    Args:
        options: which, and how large.
        input_shape: of one input.
        classes: how many outputs it has.
    """
    if options.network == "wrn":
        return WideResNet(options.depth, options.width, classes, options.dropout)
    if options.network == "lenet5":
        return LeNet5(classes, input_shape[0], options.dropout)
    return MLP(math.prod(input_shape), *options.hidden, classes, dropout=options.dropout)


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
        torch.zeros((), device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device: {name!r} is not to be had here ({str(error).splitlines()[0]}). Use cpu") from error
    return device
