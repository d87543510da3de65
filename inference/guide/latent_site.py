"""A latent site of a model, as a mean-field guide sees it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from l0bayes.distributions import GatePrior, HardConcrete
from l0bayes.errors import StructureError
from l0bayes.inference.guide.families import Family, GateFamily


@dataclass(frozen=True)
class LatentSite:
    """A latent site of the model, as the guide needs it.

    ``gate``: the site of the gates on which its members hang, as the model says by ``infer={"gate": …}``;
    ``gate_index``: for each of them the number of its gate, ``None`` where both have one shape.
    """

    name: str
    event_dim: int
    frames: tuple[Any, ...]
    family: Family
    gate: str | None = None
    gate_index: Tensor | None = None


def unwrap(fn: Any) -> Any:
    """The distribution inside Independent, masked and expanded wrappers."""
    while hasattr(fn, "base_dist") and not isinstance(fn, torch.distributions.TransformedDistribution):
        fn = fn.base_dist
    return fn


def is_gate(fn: Any) -> bool:
    """Whether a model's distribution is that of gates."""
    return isinstance(unwrap(fn), (GatePrior, HardConcrete))


def full_size(site: LatentSite, value: Tensor) -> Tensor:
    """The value repeated to the full size of the site's subsampled plates: a parameter for each of their members."""
    for frame in site.frames:
        full = frame.full_size or frame.size
        if full != frame.size:
            index = torch.arange(full, device=value.device) % frame.size
            value = value.index_select(frame.dim - site.event_dim, index)
    return value


def reference(fn: Any) -> Tensor:
    """A tensor of the dtype and on the device that a gate's prior draws in."""
    fn = unwrap(fn)
    tensor: Tensor = getattr(fn, next(iter(fn.arg_constraints)))
    return tensor


def check_slabs(sites: Mapping[str, LatentSite], trace: Any) -> None:
    """Raises unless what hangs on gates has one of them for each of its members, drawn before."""
    order = list(sites)
    for name, site in sites.items():
        if site.gate is None:
            continue
        gate = sites.get(site.gate)
        if gate is None or not isinstance(gate.family, GateFamily) or order.index(site.gate) > order.index(name):
            raise StructureError(f"site {name!r}: infer names {site.gate!r}, which is no site of gates drawn before it")
        shapes = [trace.nodes[key]["fn"].batch_shape for key in (site.gate, name)]
        shapes[0] = shapes[0] if site.gate_index is None else (*shapes[0][:-1], len(site.gate_index))
        if shapes[0] != shapes[1] or gate.event_dim or site.event_dim:
            raise StructureError(
                f"site {name!r} has batch shape {tuple(shapes[1])}, its gates {site.gate!r} have {tuple(shapes[0])}: "
                "each member needs a gate of its own, in a plate and not in .to_event; or infer's gate_index says which"
            )
