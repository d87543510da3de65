"""The prior of a network's gates, and of the weights behind them: what is drawn at their sites, and what it costs."""

import math
from collections.abc import Mapping
from functools import partial
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions import Beta

from l0bayes.code_cost.expected_cost import ExpectedCost
from l0bayes.code_cost.joint_cost import JointCost
from l0bayes.code_cost.slab import PointSlab, Slab
from l0bayes.distributions import HardConcrete, JointL0Prior, L0Prior, SpikeAndSlabPrior
from l0bayes.distributions.kl import kl_of_coins
from l0bayes.gate_options import GateOptions
from l0bayes.observed import Observed
from l0bayes.structure import GateGroup, Structure
from l0bayes.structure.names import layer_of


class NetworkPrior:
    """The prior of the gates of a network.

    Args:
        net: the network.
        structure: its gate groups.
        options: layer to the options of its gates.
        default: options of all other layers.
        inclusion: group name to the prior probability of its gates, a number or a ``Beta``; ``None`` where the prior is
            the paper's code cost alone.
        cost: what a code cost is paid for: ``"parameters"``, ``"macs"`` or ``"paper"``.
        slab: what weights cost that are there, if they do.

    Attributes:
        inclusion: as given.
        inclusion_sites: names of the sites of inclusion probabilities that are unknown, one for each such group.
        sites: names of all latent sites, if they are the gate groups alone; else none.
    """

    def __init__(
        self,
        net: nn.Module,
        structure: Structure,
        options: Mapping[str, GateOptions],
        default: GateOptions,
        inclusion: Mapping[str, float | Beta | None],
        *,
        cost: str,
        slab: Slab | None,
    ) -> None:
        self._net, self._slab = net, slab
        self._groups = structure.groups
        self._names = tuple(group.name for group in structure.groups)
        self._sizes = [group.size for group in structure.groups]
        self.inclusion = dict(inclusion)
        self.inclusion_sites = tuple(_site_of(g) for g in self._groups if isinstance(inclusion[g.name], Beta))
        self.sites = () if self.inclusion_sites else self._names
        code_costs = {name: options.get(layer_of(name), default).code_cost for name in structure.shapes}
        of_groups = {group.name: options[group.layer].code_cost for group in self._groups}
        self._own = [of_groups[group.name] * group.own for group in self._groups]
        self._joint: ExpectedCost | None = None
        if cost != "paper":  # where each gate pays for its own weights
            macs = cost == "macs"
            elements = {
                name: each * (structure.macs.get(name, 0.0) if macs else 1.0) for name, each in code_costs.items()
            }
            self._joint = ExpectedCost(structure, elements, of_groups if macs else 0.0)

    def by_group(self, vector: Tensor) -> dict[str, Tensor]:
        """A vector of all gates, group after group, by the groups' names; views of it."""
        return dict(zip(self._names, vector.split(self._sizes), strict=True))

    # -- sites ------------------------------------------------------------------------------------------------------

    def sample(self) -> dict[str, Tensor]:
        """Draws every gate group as a Pyro site named after it; ``(size,)`` values by group name.

        Inclusion probabilities that are unknown are sites too, ``inclusion.<group>``, each before its group.
        """
        like = torch.zeros((), device=next(self._net.parameters()).device)
        joint = None
        if self._joint is not None:
            slab = None if self._slab is None else partial(self._slab, self._net)
            joint = JointCost(self._joint, self._sizes, slab)
        draws: dict[str, Tensor] = {}
        with Observed() as observed:
            for position, group in enumerate(self._groups):
                prior = self._prior(position, joint, self._draw_inclusion(group, like), like)
                draws[group.name] = pyro.sample(group.name, prior)
                if joint is not None:
                    joint.note_draw(position, draws[group.name], observed=group.name in observed.names)
        return draws

    def _draw_inclusion(self, group: GateGroup, like: Tensor) -> float | Tensor | None:
        """The prior probability of a group's gates; a site where it is unknown."""
        given = self.inclusion[group.name]
        if not isinstance(given, Beta):
            return given
        a, b = (getattr(given, f"concentration{which}").to(like) for which in (1, 0))
        drawn: Tensor = pyro.sample(_site_of(group), dist.Beta(a, b, validate_args=False))
        return drawn

    def _prior(self, position: int, joint: JointCost | None, inclusion: float | Tensor | None, like: Tensor) -> Any:
        size, own = self._sizes[position], self._own[position].to(like)
        prior: Any
        if joint is not None:
            prior = JointL0Prior(joint, position, size, inclusion, dtype=like.dtype, device=like.device)
        elif inclusion is None:
            prior = L0Prior(own, validate_args=False)
        else:
            prior = SpikeAndSlabPrior(inclusion, own, validate_args=False)
        return prior.to_event(1)

    # -- costs, in nats ---------------------------------------------------------------------------------------------

    def kl(self, gates: HardConcrete) -> Tensor:
        """KL(q ‖ p) of the gates of all groups, and of point weights under their slab: the sum over their sites.

        Args:
            gates: group after group, of ``batch_shape`` ``(gates,)``; inclusion probabilities are known.

        Returns:
            A scalar.
        """
        logits = gates.logit_nonzero
        probs = torch.sigmoid(logits)
        kl = self._code_cost(probs)
        if self._slab is not None:
            kl = kl + self._slab(self._net, list(probs.split(self._sizes)))
        for name, logit in self.by_group(logits).items():
            if isinstance(inclusion := self.inclusion[name], float):
                kl = kl + kl_of_coins(logit, logit.new_tensor(inclusion)).sum()
        return kl

    def _code_cost(self, probs: Tensor) -> Tensor:
        return torch.cat(self._own).to(probs) @ probs if self._joint is None else self._joint.of(probs)

    def cost(self, probs: Mapping[str, Tensor]) -> Tensor:
        """What open gates cost: code cost, the slab of point weights, and the prior's log-odds against them.

        Linear in each P(z ≠ 0), so that its gradient at given gates is the cost of each beside the others. Inclusion
        probabilities that are unknown have no part in it.

        Args:
            probs: group name to P(z ≠ 0), of shape ``(size,)``; or 0 and 1 for given gates.
        """
        each = [probs[name] for name in self._names]
        total = self._code_cost(torch.cat(each))
        for name, inclusion in self.inclusion.items():
            if isinstance(inclusion, float):
                total = total - math.log(inclusion / (1 - inclusion)) * probs[name].sum()
        if isinstance(self._slab, PointSlab):
            total = total + self._slab(self._net, [prob.float() for prob in each])
        return total

    def slab_cost(self, gates: Mapping[str, Tensor], stand_in: nn.Module | None = None) -> Tensor:
        """The slab's part of the KL, of the weights that given gates leave; 0 if they have no slab.

        Args:
            gates: group name to gate values of shape ``(size,)``.
            stand_in: a network that has only those weights, and runs in place of the subnetwork.
        """
        if self._slab is None:
            return torch.zeros((), device=next(self._net.parameters()).device)
        if stand_in is not None and isinstance(self._slab, PointSlab):
            return self._slab.of_all(stand_in)
        return self._slab(self._net, [(gates[name] != 0).float() for name in self._names])


def _site_of(group: GateGroup) -> str:
    return f"inclusion.{group.name}"
