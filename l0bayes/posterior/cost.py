"""What a network costs: parameters held and multiply-accumulates done."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from l0bayes.code_cost.live_cost import Amount
from l0bayes.evaluating import evaluating
from l0bayes.find_sparse import find_sparse
from l0bayes.inputs import Inputs
from l0bayes.structure.multiplications import MacCounter, unfused_attention


@dataclass(frozen=True)
class Cost:
    """What one network costs.

    Attributes:
        parameters: numbers held in parameters, biases included.
        macs: multiply-accumulates of one forward pass of one input: matrix products, convolutions, attention,
            recurrent layers and bilinear forms, by the rules of :mod:`l0bayes.structure.multiplications`.
    """

    parameters: int
    macs: int


def cost(net: nn.Module, example_input: Any) -> Cost:
    """Parameters and MACs of a network, by the same rules as ``expected_macs``, targets and ``cost="macs"``.

    Args:
        net: any network.
        example_input: an input it accepts, a tuple of positional or a mapping of keyword inputs, of one or more rows,
            by whose number the MACs are divided.

    Returns:
        The cost.
    """
    inputs = Inputs.of(example_input)
    with evaluating(net), unfused_attention(), MacCounter() as counter:
        inputs.call(net)
    return Cost(sum(parameter.numel() for parameter in net.parameters()), round(counter.total / (inputs.rows or 1)))


@torch.no_grad()
def expected_l0(model: nn.Module, guide: Any) -> float:
    """Expected number of parameters that are not zero, among those that gates decide over.

    A parameter is not zero when all gates over it are open; the expectation is over their joint draws, in closed form
    (the paper's ``|g|`` · P(z ≠ 0) of eq. 12, without counting twice what lies under two gates).

    Args:
        model: a sparse module, or a model around one.
        guide: its guide.

    Returns:
        A number of parameters.
    """
    return _gated(model, guide, "parameters")


@torch.no_grad()
def expected_macs(model: nn.Module, guide: Any) -> float:
    """Expected multiply-accumulates of one input, among those that gates decide over.

    Args:
        model: a sparse module, or a model around one.
        guide: its guide.

    Returns:
        A number of multiply-accumulates; those in layers without gates are not in it.
    """
    return _gated(model, guide, "macs")


@torch.no_grad()
def open_l0(model: nn.Module, guide: Any, rule: str = "paper") -> float:
    """Number of parameters, among those that gates decide over, that the test-time gates leave.

    Args:
        model: a sparse module, or a model around one.
        guide: its guide.
        rule: how a test-time gate is chosen, see :meth:`~l0bayes.HardConcrete.point`.

    Returns:
        A number of parameters.
    """
    return _gated(model, guide, "parameters", {name: (z != 0).double() for name, z in guide.point(rule).items()})


def _gated(model: nn.Module, guide: Any, of: Amount, probs: Mapping[str, Tensor] | None = None) -> float:
    live = find_sparse(model).live_cost(of)
    if probs is None:
        probs = {name: gate.prob_nonzero.double() for name, gate in guide.gates().items()}
    return float(live.gated(probs))
