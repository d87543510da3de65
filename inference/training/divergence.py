"""When nothing can come of a run any more: numbers that are not finite, gates that are all closed."""

import math
from typing import Any

import torch
from torch import nn

from l0bayes.errors import DivergenceError

_CLOSED = 0.05  # P(z ≠ 0) from which a gate hardly finds back


def check_finite(loss: float, where: str, kept: str) -> None:
    """Raises unless the loss of a step is finite.

    Args:
        loss: of the step.
        where: the epoch and the step, in words.
        kept: a sentence about the last good state.

    Raises:
        DivergenceError: if it is not.
    """
    if not math.isfinite(loss):
        raise DivergenceError(
            f"the loss became {loss} in {where}.{kept} Start again, elsewhere, with a lower lr or gate_lr"
        )


def check_alive(parameters: nn.Module, guide: Any, epoch: int, kept: str) -> None:
    """Raises if nothing can be learned any more.

    Args:
        parameters: a module that holds them all.
        guide: whose gates are looked at, if it has any.
        epoch: its number, from 1.
        kept: a sentence about the last good state.

    Raises:
        DivergenceError: if a parameter is not finite, or every gate closed in nearly every draw.
    """
    for name, parameter in parameters.named_parameters():
        if not torch.isfinite(parameter).all():
            raise DivergenceError(
                f"{name} is no longer finite after epoch {epoch}.{kept} Start again, elsewhere, with a lower lr or "
                "gate_lr"
            )
    gates: dict[str, Any] = getattr(guide, "gates", dict)()
    probable = max((float(gate.prob_nonzero.detach().max()) for gate in gates.values()), default=1.0)
    if probable < _CLOSED:
        raise DivergenceError(
            f"all {sum(gate.batch_shape.numel() for gate in gates.values())} gates closed by epoch {epoch} (the most "
            f"probable has P(z ≠ 0) = {probable:.2g}); nothing can be learned any more.{kept} Lower code_cost or "
            "gate_lr, start more open, or set kl_warmup"
        )
