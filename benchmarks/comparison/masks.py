"""Networks that lose single weights: zeros that no optimizer moves, and how many there are to be."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from comparison.training import Finished
from l0bayes.inference import Target
from l0bayes.posterior.cost import cost

_LAYERS = (nn.Conv2d, nn.Linear)


class Zeros(nn.Module, ABC):
    """Which weights of a tensor are zero: a parametrization, so that momentum and averages are of what is below it."""

    @abstractmethod
    def scores(self, values: Tensor) -> Tensor:
        """By how much each value deserves to stay; comparable from layer to layer."""

    @abstractmethod
    def cut(self, values: Tensor, score: float) -> None:
        """Makes zeros of all values whose score is not above this one."""


class Masked(Zeros):
    """Weights are there or not, and those that went stay away; the largest deserve to stay."""

    mask: Tensor

    def __init__(self, values: Tensor) -> None:
        super().__init__()
        self.register_buffer("mask", torch.ones_like(values, dtype=torch.bool))

    def forward(self, values: Tensor) -> Tensor:
        """The values that are there."""
        return values * self.mask

    def scores(self, values: Tensor) -> Tensor:
        """Magnitudes."""
        return values.abs() * self.mask

    def cut(self, values: Tensor, score: float) -> None:
        """Takes the smaller ones away for good."""
        self.mask &= values.abs() > score


class SoftThreshold(Zeros):
    """Weights shrink by a threshold, that is learned, and are zero below it; they may come back.

    w = sign(θ) · max(|θ| − σ(s + c), 0), eq. 3 of Kusupati et al. 2020 (arXiv 2002.03231) but for c, which all layers
    have in common: the learned s says how layers share the weights that are left, and c how many these are.
    """

    def __init__(self, values: Tensor) -> None:
        super().__init__()
        self.s = nn.Parameter(values.new_zeros(()))
        self.c = -torch.inf  # no buffer, of which there would be a moving average

    def forward(self, values: Tensor) -> Tensor:
        """The values beyond the threshold, by how much they are."""
        return values.sign() * (values.abs() - (self.s + self.c).sigmoid()).relu()

    def scores(self, values: Tensor) -> Tensor:
        """The c at which each value becomes zero."""
        return values.abs().clamp(max=1).logit() - self.s

    def cut(self, values: Tensor, score: float) -> None:  # noqa: ARG002 (values speak for themselves in each call)
        """Moves the threshold."""
        self.c = score


@dataclass(frozen=True)
class _Layer:
    """A layer that loses weights.

    Attributes:
        module: the layer.
        price: of each of its weights, as a target counts.
        biased: whether a unit's bias is counted while one of its weights is there.
    """

    module: Any
    price: int
    biased: bool

    @property
    def zeros(self) -> Zeros:
        """The rule for its weights."""
        found: Zeros = self.module.parametrizations.weight[0]
        return found

    @property
    def values(self) -> Tensor:
        """What the rule is applied to."""
        values: Tensor = self.module.parametrizations.weight.original
        return values.detach()

    @property
    def there(self) -> Tensor:
        """Which weights are not zero."""
        weight: Tensor = self.module.weight
        return weight.detach() != 0

    def prices(self, scores: Tensor) -> Tensor:
        """Of all weights, flat; a unit's best pays for the bias, with which it comes and goes."""
        prices = torch.full(scores.shape, self.price).flatten(1)
        if self.biased:
            prices.scatter_add_(1, scores.flatten(1).argmax(1, keepdim=True), torch.ones(len(prices), 1).long())
        return prices.flatten()


class WeightSparse:
    """The layers of a network, which lose the weights that deserve least to stay, over all layers at once.

    A target of parameters counts weights that are not zero, biases of units that have any, and whatever else there is.
    One of MACs counts multiplications by weights that are not zero, which dense arithmetic does not save.

    Args:
        net: the network, changed in place.
        kind: how its weights become zero.
        example: an input.
        target: what is counted.
    """

    def __init__(self, net: nn.Module, kind: type[Zeros], example: Tensor, target: Target) -> None:
        self.net = net
        whole = cost(net, example)
        of_macs = target.of != "parameters"
        self._whole = whole.macs if of_macs else whole.parameters
        places = _places(net, example)
        self._layers = [
            _Layer(module, number if of_macs else 1, biased=not of_macs and module.bias is not None)
            for module, number in places.items()
        ]
        for module in places:
            for name, rule in (("weight", kind), ("bias", Masked)):
                if (values := getattr(module, name)) is not None:
                    parametrize.register_parametrization(module, name, rule(values.detach()))
        self._fixed = self._whole - sum(int(layer.prices(layer.values).sum()) for layer in self._layers)

    @torch.no_grad()
    def _counted(self) -> int:
        """What the layers have, as the target counts."""
        return sum(
            layer.price * int(layer.there.sum()) + layer.biased * int(layer.there.flatten(1).any(1).sum())
            for layer in self._layers
        )

    @property
    def share(self) -> float:
        """What is left of the full network."""
        return (self._fixed + self._counted()) / self._whole

    @torch.no_grad()
    def keep(self, share: float) -> None:
        """Keeps the best weights that a share of the full network has room for."""
        every = [layer.zeros.scores(layer.values) for layer in self._layers]
        scores, best_first = torch.cat([some.flatten() for some in every]).sort(descending=True)
        prices = torch.cat([layer.prices(some) for layer, some in zip(self._layers, every, strict=True)])
        room = round(share * self._whole) - self._fixed
        kept = int((prices[best_first].cumsum(0) <= room).sum())
        if kept == len(scores):
            return
        between = float(scores[max(0, kept - 1) : kept + 1].mean())
        for layer in self._layers:
            layer.zeros.cut(layer.values, between)
            if layer.module.bias is not None:
                layer.module.parametrizations.bias[0].mask.copy_(layer.there.flatten(1).any(1))

    def finished(self) -> Finished:
        """The network as a plain one, with the zeros in its weights."""
        share = self.share
        for layer in self._layers:
            for name in list(layer.module.parametrizations):
                parametrize.remove_parametrizations(layer.module, name)
        weights = sum(int((parameter != 0).sum()) for parameter in self.net.parameters())
        return Finished(self.net, weights=weights, share=share)


def _places(net: nn.Module, example: Tensor) -> dict[nn.Module, int]:
    """Layer to the places of its output at which each of its weights is multiplied with something."""
    places: dict[nn.Module, int] = {}

    def note(module: nn.Module, _: object, output: Tensor) -> None:
        places[module] = output[0, 0].numel()

    hooks = [module.register_forward_hook(note) for module in net.modules() if isinstance(module, _LAYERS)]
    cost(net, example)
    for hook in hooks:
        hook.remove()
    return places
