"""The guard that keeps pathwise gradients out of the log-density of a mixed distribution.

For a mixed distribution ``log q(z) − log p(z)`` jumps where ``z`` leaves an atom. The derivative that autograd
takes along a reparameterised draw misses the jump, so every gradient estimator built on it is biased. The
*value* of the log-density is right, and so is its derivative in the distribution's own parameters at a fixed
``z`` (the score); only the derivative in ``z`` is forbidden.
"""

from typing import Any

import torch
from torch import Tensor

from l0bayes.errors import PathwiseGradientError

_MESSAGE = (
    "a gradient reached the log-density of a gate (HardConcrete, L0Prior or SpikeAndSlabPrior) through the gate's "
    "value. Gates are mixed distributions: the pathwise gradient of log q - log p misses the jumps at the atoms "
    "0 and 1 and is biased. Remedy: train with TraceMeanField_ELBO (or l0bayes.inference.ClosedFormKL_ELBO), "
    "which use the exact KL; give gate sites a prior with a registered KL (L0Prior, SpikeAndSlabPrior or "
    "HardConcrete), with the same .to_event in model and guide; do not use Trace_ELBO, and for a score-function "
    "estimator call log_prob(value.detach())."
)


class _ScoreOnly(torch.autograd.Function):
    """Identity whose backward raises."""

    @staticmethod
    def forward(value: Tensor) -> Tensor:
        return value.view_as(value)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Any:  # noqa: ARG004 (autograd's signature)
        raise PathwiseGradientError(_MESSAGE)


def score_only(value: Tensor) -> Tensor:
    """Returns ``value`` unchanged, and makes any gradient that would flow back through it an error.

    Args:
        value: a draw of a gate, any shape.

    Returns:
        The same numbers. ``backward`` through them raises
        :class:`~l0bayes.errors.PathwiseGradientError`.
    """
    if not value.requires_grad:
        return value
    guarded: Tensor = _ScoreOnly.apply(value)
    return guarded
