"""What the data say for each gate, gathered while the weights are trained.

For a gate z at 1 let F = Σₙ (∂ℓₙ/∂z)², ℓₙ being the log-likelihood of a datum. To second order (Laplace's method, with
the empirical Fisher information in the place of the curvature) closing the gate loses ½F nats of log-likelihood. And
∂ℓ/∂z = Σ θ ∂ℓ/∂θ over the weights that read the feature, since it multiplies them: the gradients that training computes
anyway are all it takes, for open gates too, where log α has no gradient of its own.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from l0bayes.structure import GateGroup, Slice


class Evidence(nn.Module):
    """Moving averages of F for every gate of a network.

    A batch of B of N data with slope g = ∂(−ELBO)/∂z, in nats over the data set, tells (B/N) g² of F: its mean is
    Σₙ (∂ℓₙ/∂z)² where the mean slope vanishes, as it does once the weights have settled, and more where it does not.
    Gates that are closed keep what was last seen of them, relative to those that are open: all evidence falls as the
    network learns, and what is old would seem better than what is new. A module, so that it is saved and resumed.

    Args:
        groups: the gate groups.
        window: steps over which the averages reach back, at least 1.
    """

    def __init__(self, groups: Sequence[GateGroup], window: float) -> None:
        super().__init__()
        self._groups = tuple(groups)
        self._rate = 1 / max(window, 1.0)
        for group in self._groups:
            for kind in ("average", "weight"):
                self.register_buffer(_buffer(kind, group), torch.zeros(group.size))

    @torch.no_grad()
    def update(self, net: nn.Module, opened: Mapping[str, Tensor], share: float) -> None:
        """Takes in the gradients of a step.

        Args:
            net: the network, its parameters with the gradients of the negative ELBO.
            opened: group name to which gates were open in the step, ``(size,)`` booleans.
            share: of the data set in the step, B/N.
        """
        parameters = dict(net.named_parameters())
        before = self._total(opened)
        for group in self._groups:
            seen = share * slope(group, parameters).square()
            average, weight = (self.get_buffer(_buffer(kind, group)) for kind in ("average", "weight"))
            moved = self._rate * opened[group.name].to(average)
            average.addcmul_(moved, seen - average)
            weight.addcmul_(moved, 1 - weight)
        drift = torch.where(before > 0, self._total(opened) / before, 1.0)
        for group in self._groups:
            average = self.get_buffer(_buffer("average", group))
            average.copy_(torch.where(opened[group.name], average, average * drift))

    def _total(self, opened: Mapping[str, Tensor]) -> Tensor:
        """Evidence of all gates that are open."""
        return torch.stack([nats @ opened[name].to(nats) for name, nats in self.nats().items()]).sum()

    @torch.no_grad()
    def nats(self) -> dict[str, Tensor]:
        """Group name to ½F of its gates, in nats, ``(size,)``; 0 for gates that have never been open."""
        found = {}
        for group in self._groups:
            average, weight = (self.get_buffer(_buffer(kind, group)) for kind in ("average", "weight"))
            found[group.name] = 0.5 * average / weight.clamp(min=torch.finfo(weight.dtype).tiny)
        return found


def slope(group: GateGroup, parameters: Mapping[str, nn.Parameter]) -> Tensor:
    """∂loss/∂z of every gate of a group that is open at 1: Σ θ ∂loss/∂θ over the weights that read its feature.

    Args:
        group: the gate group.
        parameters: name to parameter, with gradients of the loss.

    Returns:
        Slopes, ``(size,)``, in float32 at least; 0 where no weight has a gradient.
    """
    device = next(iter(parameters.values())).device
    total = torch.zeros(group.size, device=device)
    for part in group.slices:
        parameter = parameters.get(part.tensor)
        if not part.consumes or parameter is None or parameter.grad is None:
            continue
        each = parameter * parameter.grad
        if part.dim is not None:
            each = each.sum([dim for dim in range(each.dim()) if dim != part.dim]) if each.dim() > 1 else each
        gates, decides = _table(part, device)
        total.index_add_(0, gates, torch.where(decides, each.flatten(), 0).to(total))
    return total


def _table(part: Slice, device: torch.device) -> tuple[Tensor, Tensor]:
    """Position to gate, and where there is one."""
    gates = part.gates.flatten().to(device)
    return gates.clamp(min=0), gates >= 0


def _buffer(kind: str, group: GateGroup) -> str:
    return f"{kind}/{group.name}".replace(".", "/")
