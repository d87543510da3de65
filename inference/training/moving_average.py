"""A moving average of the weights, which often does better than the last step's."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from l0bayes.inference.training.averaged_buffers import AveragedBuffers, decay_at


class MovingAverage:
    """An exponential moving average of every parameter but the gates', kept in the optimizer's state.

    Statistics of batch normalisation are averaged with them, see :mod:`l0bayes.inference.training.averaged_buffers`.

    There it is saved, resumed and shrunk with the other moments of each parameter.

    Args:
        optimizer: over the parameters.
        decay: of the average, in (0, 1); early on less, see
            :func:`~l0bayes.inference.training.averaged_buffers.decay_at`.
        trained: the network that is trained.

    Attributes:
        buffers: the averages of its running statistics, a module, to be saved and resumed with others.
    """

    _KEY = "moving_average"

    def __init__(self, optimizer: torch.optim.Optimizer, decay: float, trained: nn.Module) -> None:
        self._optimizer = optimizer
        self.buffers = AveragedBuffers(trained, decay)
        self._decay = decay

    def _all_but_gates(self) -> list[Tensor]:
        groups = (group for group in self._optimizer.param_groups if group.get("name") != "gates")
        return [parameter for group in groups for parameter in group["params"]]

    @torch.no_grad()
    def update(self) -> None:
        """Takes in the parameters as they are after a step."""
        self.buffers.update()
        for parameter in self._all_but_gates():
            if parameter.grad is None and not self._optimizer.state.get(parameter):
                continue  # its optimizer would take this state for its own
            state = self._optimizer.state[parameter]
            if self._KEY not in state:
                state[self._KEY], state[f"{self._KEY}_steps"] = parameter.detach().clone(), 0
            steps = state[f"{self._KEY}_steps"] = state[f"{self._KEY}_steps"] + 1
            state[self._KEY].lerp_(parameter, 1 - decay_at(steps, self._decay))

    @torch.no_grad()
    def swap(self) -> None:
        """Exchanges the parameters and their averages."""
        self.buffers.swap()
        for parameter in self._all_but_gates():
            average = self._optimizer.state[parameter].get(self._KEY)
            if average is not None:
                now = parameter.detach().clone()
                parameter.copy_(average)
                average.copy_(now)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Within it, the averages take the place of the parameters."""
        self.swap()
        try:
            yield
        finally:
            self.swap()
