"""What a network costs: parameters held and multiply-accumulates done."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from l0bayes.evaluating import evaluating
from l0bayes.sparsify import find_sparse


@dataclass(frozen=True)
class Cost:
    """What one network costs.

    Attributes:
        parameters: numbers held in parameters, biases included.
        macs: multiply-accumulates of the matrix products and convolutions of one forward pass of one input.
    """

    parameters: int
    macs: int


def cost(net: nn.Module, example_input: Tensor) -> Cost:
    """Parameters and MACs of a network.

    Args:
        net: any network.
        example_input: one or more inputs it accepts; the MACs are divided by their number.

    Returns:
        The cost, MACs being those torch's flop counter finds (half of its FLOPs).
    """
    with evaluating(net), FlopCounterMode(display=False) as counter:
        net(example_input)
    macs = counter.get_total_flops() // 2 // len(example_input)
    return Cost(sum(parameter.numel() for parameter in net.parameters()), macs)


@torch.no_grad()
def expected_l0(model: nn.Module, guide: Any) -> float:
    """Expected number of gated parameters that are not zero, Σ |g| · P(z ≠ 0) (paper, §2.4 with eq. 12).

    Args:
        model: a sparse module, or a model around one.
        guide: its guide.

    Returns:
        A number of parameters; each gate pays for the parameters that read its feature.
    """
    gates = guide.gates()
    total = sum(group.fan_out * gates[group.name].prob_nonzero.sum() for group in find_sparse(model).groups)
    return float(total)
