"""A moving average of running statistics, so that averaged weights meet the statistics that belong to them."""

import torch
from torch import Tensor, nn


def decay_at(step: int, decay: float) -> float:
    """The decay of a step, counted from 1: early on averages are over the steps there were."""
    return min(decay, (1 + step) / (10 + step))


class AveragedBuffers(nn.Module):
    """An exponential moving average of a model's floating-point buffers, such as those of batch normalisation.

    The activations of averaged weights have other means and variances than those of the last step's; the average of
    the statistics over the same steps is near them (as in ``use_buffers`` of torch's averaged models). It is a module,
    so that it is saved and resumed with the others.

    Args:
        model: the model whose buffers are averaged.
        decay: of the average, in (0, 1); early on less, see :func:`decay_at`.
    """

    steps: Tensor

    def __init__(self, model: nn.Module, decay: float) -> None:
        super().__init__()
        self._source = [model]  # in a list: its parameters are not ours
        self._decay = decay
        self._names = frozenset(model.state_dict())  # buffers that are not saved are no statistics
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self.match()

    def _buffers_of_model(self) -> dict[str, Tensor]:
        named = self._source[0].named_buffers()
        return {
            name.replace(".", "/"): buffer
            for name, buffer in named
            if buffer.is_floating_point() and name in self._names
        }

    def match(self) -> None:
        """Begins anew with buffers that have another shape now, after units were removed."""
        own = dict(self.named_buffers())
        for name, buffer in self._buffers_of_model().items():
            average = own.get(name)
            if average is None or average.shape != buffer.shape:
                self.register_buffer(name, buffer.detach().clone())

    @torch.no_grad()
    def update(self) -> None:
        """Takes in the buffers as they are after a step."""
        self.steps += 1
        decay = decay_at(int(self.steps), self._decay)
        for name, buffer in self._buffers_of_model().items():
            self.get_buffer(name).lerp_(buffer, 1 - decay)

    @torch.no_grad()
    def swap(self) -> None:
        """Exchanges the buffers and their averages."""
        for name, buffer in self._buffers_of_model().items():
            average = self.get_buffer(name)
            now = buffer.clone()
            buffer.copy_(average)
            average.copy_(now)
