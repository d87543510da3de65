"""Multiply-accumulates as torch's own counter finds them, where it can see every product."""

from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from l0bayes.structure.multiplications import unfused_attention


def flops(function, *, backward=False):
    """Floating-point operations: attention as plain products, since the counter knows only some fused kernels."""
    with unfused_attention(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        output = function()
        if backward:
            output.sum().backward()
    return counter.get_total_flops()


def macs(function):
    """Multiply-accumulates of a forward pass."""
    return flops(function) // 2
