"""The slab's part of the KL for weights that are normal: the full spike-and-slab posterior of a network."""

import math

import torch
from torch import Tensor, nn

from l0bayes.code_cost.slab import Slab
from l0bayes.structure import Structure
from l0bayes.structure.names import shared_parameters

_START = 0.1  # standard deviations at the start, relative to the root mean square of their tensor
_SMALLEST = 1e-12  # added to expected numbers, so that 0 / 0 has a logarithm and a gradient


def standard_deviations(net: nn.Module) -> nn.Module:
    """Parameters log σ for the weights of a network, under the weights' names.

    Every parameter that is trained and has two dimensions or more has them; biases and the scales of norms stay
    points, and so do weights that several layers share.

    Args:
        net: the network, whose own parameters are the means.

    Returns:
        A module of modules, nested as the network's.
    """
    holder, shared = nn.Module(), shared_parameters(net)
    for name, weight in net.named_parameters():
        if not Slab.covers(weight.shape) or not weight.requires_grad or name in shared:
            continue
        wide = torch.promote_types(weight.dtype, torch.float32)
        typical = weight.detach().to(wide).square().mean().sqrt().clamp(min=1e-6)
        *path, last = name.split(".")
        module = holder
        for part in path:
            if part not in dict(module.named_children()):  # hasattr would find methods
                module.add_module(part, nn.Module())
            module = module.get_submodule(part)
        module.register_parameter(last, nn.Parameter(torch.full_like(weight, (_START * typical).log().item()).to(wide)))
    return holder


class NormalSlab(Slab):
    """Σⱼ P(all gates over j are open) · KL(N(μⱼ, σⱼ²) ‖ N(0, s²)), in closed form.

    The third term of the full objective (Louizos et al. 2018, appendix A): what the paper fixes to a constant λ
    is learned for each weight. Weights without a σ are points, and pay the penalty of
    :class:`~l0bayes.code_cost.slab.PointSlab` if ``scale`` is given, else nothing.

    Args:
        structure: the gate groups.
        log_sd: log σ under the weights' names, see :func:`standard_deviations`.
        scale: s, > 0; ``None`` for empirical Bayes, the value for each tensor that makes its KL the least:
            s² = Σ P (μ² + σ²) / Σ P.
    """

    def __init__(self, structure: Structure, log_sd: nn.Module, scale: float | None) -> None:
        super().__init__(structure)
        self._log_sd = log_sd
        self._scale = scale

    def log_sd(self) -> dict[str, Tensor]:
        """Weight name to log σ."""
        return dict(self._log_sd.named_parameters())

    def sd(self) -> dict[str, Tensor]:
        """Weight name to σ."""
        return {name: value.exp() for name, value in self._log_sd.named_parameters()}

    def log_scale(self, name: str, weight: Tensor, alive: Tensor | float = 1.0) -> Tensor:
        """Log s of one tensor, as given or as follows from its weights.

        Args:
            name: of the tensor.
            weight: its means.
            alive: P(all gates over an element are open), broadcasting to the weight's shape.
        """
        if self._scale is not None:
            return weight.new_tensor(math.log(self._scale))
        second = weight.square() + (2 * self.log_sd()[name]).exp()
        alive = torch.as_tensor(alive, dtype=second.dtype, device=second.device).expand_as(second)
        return 0.5 * (((alive * second).sum() + _SMALLEST).log() - (alive.sum() + _SMALLEST).log())

    def _of(self, name: str, weight: Tensor, alive: Tensor | float) -> Tensor:
        log_sd = self.log_sd().get(name)
        if log_sd is None:
            return weight.new_zeros(()) if self._scale is None else self._point(weight, alive, self._scale)
        alive = torch.as_tensor(alive, dtype=log_sd.dtype, device=log_sd.device).expand_as(weight)
        each = self.log_scale(name, weight, alive) - log_sd
        if self._scale is not None:  # at the best s the rest adds up to nothing
            each = each + (weight.square() + (2 * log_sd).exp()) / (2 * self._scale**2) - 0.5
        return (alive * each).sum()
