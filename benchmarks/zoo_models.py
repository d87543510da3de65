"""torchvision's models with random weights that let every layer count. Only input sizes and flags are per model."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 (its usual name)
import torchvision
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

SEED = 0
_SQUARED_GATE = 0.24  # on average, see random_gates


@dataclass(frozen=True)
class Entry:
    """Side of the input images, and flags of the constructor: none but ``init_weights``, where that is slow."""

    side: int = 224
    flags: Mapping[str, Any] = field(default_factory=dict)


_AS_MADE = {"init_weights": False}
MODELS = {
    "alexnet": Entry(),
    "vgg11_bn": Entry(flags=_AS_MADE),
    "resnet18": Entry(),
    "resnet50": Entry(),
    "wide_resnet50_2": Entry(),
    "resnext50_32x4d": Entry(),
    "densenet121": Entry(),
    "squeezenet1_1": Entry(),
    "googlenet": Entry(flags=_AS_MADE),
    "inception_v3": Entry(299, _AS_MADE),
    "mobilenet_v2": Entry(),
    "mobilenet_v3_small": Entry(),
    "mnasnet0_5": Entry(),
    "shufflenet_v2_x0_5": Entry(),
    "efficientnet_b0": Entry(),
    "efficientnet_v2_s": Entry(),
    "regnet_y_400mf": Entry(),
    "convnext_tiny": Entry(),
    "vit_b_16": Entry(),
    "swin_t": Entry(),
    "maxvit_t": Entry(),
}


def images(name: str, rows: int) -> Tensor:
    """Random images of the model's size, in float32: coarse patches of colour and noise."""
    side, generator = MODELS[name].side, torch.Generator().manual_seed(SEED)
    patches = torch.randn(rows, 3, 4, 4, generator=generator)
    return F.interpolate(patches, size=side) + 0.5 * torch.randn(rows, 3, side, side, generator=generator)


def build(name: str) -> nn.Module:
    """A model in evaluation mode, the same each time."""
    torch.manual_seed(SEED)
    entry = MODELS[name]
    net: nn.Module = getattr(torchvision.models, name)(weights=None, **entry.flags)
    with torch.no_grad():
        for path, parameter in net.named_parameters():
            _start(net.get_submodule(path.rpartition(".")[0]), path.rpartition(".")[2], parameter)
    return net.eval()


def _start(owner: nn.Module, name: str, parameter: Tensor) -> None:
    """Weights keep the size of what passes through gates; scales are about 1; no zero hides a difference."""
    if isinstance(owner, nn.Linear | _ConvNd | nn.MultiheadAttention) and parameter.dim() > 1:
        parameter.normal_(std=(2 / (_SQUARED_GATE * parameter[0].numel())) ** 0.5)
    elif name in ("weight", "layer_scale"):
        parameter.uniform_(0.5, 1.5)
    else:  # biases, tokens, positions
        parameter.normal_(std=0.3)


def set_statistics(net: nn.Module, run: Callable[[], object]) -> None:
    """Gives batch norms running statistics near those of a run, each off by a factor and a shift of its own.

    Args:
        net: the network; it is in evaluation mode afterwards.
        run: runs it, with all gates in place: gates take away most of what passes, layer after layer.
    """
    norms = [module for module in net.modules() if isinstance(module, _BatchNorm)]
    usual = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0
    net.train()
    if norms:
        run()
    net.eval()
    for norm, momentum in zip(norms, usual, strict=True):
        norm.momentum = momentum
        mean, var = norm.running_mean, norm.running_var
        if isinstance(mean, Tensor) and isinstance(var, Tensor):
            var.mul_(torch.empty_like(var).uniform_(0.7, 1.4)).clamp_(min=1e-4)
            mean.add_(0.3 * var.sqrt() * torch.randn_like(mean))
