"""The optimizers of a run: one, or one for the weights and one for the gates that act as one."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from l0bayes.inference.training.fit_options import FitOptions
from l0bayes.inference.training.parameter_groups import parameter_groups


class Together(torch.optim.Optimizer):
    """Several optimizers over different parameters as one: their groups in a row, and one state.

    Args:
        optimizers: at least one.
    """

    def __init__(self, *optimizers: torch.optim.Optimizer) -> None:
        self._optimizers = optimizers
        super().__init__([group for optimizer in optimizers for group in optimizer.param_groups], {})
        self._share()

    def _share(self) -> None:
        """Gives each optimizer its groups, the very ones that are here, and the state of all."""
        groups = iter(self.param_groups)
        for optimizer in self._optimizers:
            optimizer.param_groups = [next(groups) for _ in optimizer.param_groups]
            optimizer.state = self.state

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._share()

    def __getstate__(self) -> dict[str, Any]:
        parent: Any = super()
        return {**parent.__getstate__(), "_optimizers": self._optimizers}

    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override] # torch types it twice
        """One step of each optimizer."""
        loss = None if closure is None else closure()
        for optimizer in self._optimizers:
            optimizer.step()
        return loss


def build_optimizer(module: nn.Module, options: FitOptions, num_data: int) -> torch.optim.Optimizer:
    """Adam for everything; or Nesterov's method for weights and other variational parameters, and Adam for gates.

    Args:
        module: what holds model and guide.
        options: rates and the optimizer's name.
        num_data: by which the loss is divided for weight decay, and the rate of ``"sgd"``, to be of the mean loss.

    Returns:
        An optimizer over all trainable parameters.
    """
    decay = options.weight_decay * num_data  # of the loss, a sum over the data
    groups = parameter_groups(module, lr=options.lr, gate_lr=options.gate_lr, weight_decay=decay)
    if options.optimizer == "adam":
        return torch.optim.Adam(groups, fused=True)
    gates = [group for group in groups if group["name"] == "gates"]
    others = [{**group, "lr": group["lr"] / num_data} for group in groups if group["name"] != "gates"]
    found: list[torch.optim.Optimizer] = []
    if others:
        found.append(torch.optim.SGD(others, momentum=options.momentum, nesterov=options.momentum > 0))
    if gates:
        found.append(torch.optim.Adam(gates, fused=True))
    return found[0] if len(found) == 1 else Together(*found)
