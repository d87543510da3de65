"""Physically removes units whose gates are closed for good, in the middle of a run."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from l0bayes.arguments import checked_but
from l0bayes.find_sparse import find_sparse, sparse_modules
from l0bayes.inference.guide.bound_to_model import check_belongs
from l0bayes.inference.guide.hard_concrete_guide import HardConcreteGuide
from l0bayes.shrunken import remove_units
from l0bayes.sparse_module import SparseModule
from l0bayes.subnetwork.tensors import Kept, Replaced, narrow


@checked_but("optimizer")
@torch.no_grad()
def shrink(
    model: nn.Module,
    guide: HardConcreteGuide,
    optimizer: torch.optim.Optimizer | None = None,
    *,
    closed_below: float = 1e-3,
) -> dict[str, int]:
    """Removes units whose gates are closed for good, with their parameters, gates and optimizer state.

    For GPUs and ``torch.compile``, which like shapes that stay the same: instead of taking a draw's closed slices out
    in every step, they are taken out once. From there on the run is that of the larger network in which those gates
    are always closed. Single weights and selected inputs (gates that make nothing smaller by themselves) stay.
    The network's modules stay the same objects; their parameters are new ones.

    Args:
        model: a sparse module, or a model around one.
        guide: its guide.
        optimizer: the optimizer of both, whose state is narrowed along.
        closed_below: units with P(z ≠ 0) below this go, in [0, 1); each group keeps at least one, and what the
            test-time network keeps, see ``min_units`` of :func:`~l0bayes.sparsify`.

    Returns:
        Group name to the number of units removed; empty if none were.

    Raises:
        TypeError: if the optimizer is none of torch's.
        ValueError: if ``closed_below`` is out of range, or the guide belongs to another network.
    """
    if optimizer is not None and not isinstance(optimizer, torch.optim.Optimizer):
        raise TypeError(
            f"optimizer must be a torch.optim.Optimizer; got {type(optimizer).__name__}. Leave Pyro's out: "
            "SVI picks up the new parameters, without the moments of the old ones"
        )
    if not 0 <= closed_below < 1:
        raise ValueError(f"closed_below must be in [0, 1); got {closed_below}. It is compared with P(z ≠ 0)")
    sparse = find_sparse(model)
    check_belongs(model, guide)
    gates, points = guide.gates(), guide.point()
    stay = {}
    for group in sparse.groups:
        if group.narrows:
            prob = gates[group.name].prob_nonzero
            stays = (prob >= closed_below) | (points[group.name] != 0)
            stays[prob.argmax()] = True
            stay[group.name] = stays.nonzero().squeeze(1).cpu()
    return _remove(model, guide, optimizer, stay)


@torch.no_grad()
def shrink_to(
    model: nn.Module,
    guide: HardConcreteGuide,
    optimizer: torch.optim.Optimizer | None,
    units: Mapping[str, Sequence[int]],
) -> None:
    """Shrinks a network at full size to the units that an earlier run was left with.

    Args:
        model: a sparse module, or a model around one.
        guide: its guide.
        optimizer: the optimizer of both.
        units: group name to the gates that stay, by their numbers in the full network.
    """
    _remove(model, guide, optimizer, _positions(find_sparse(model), units))


def units_left(module: nn.Module) -> dict[str, list[int]]:
    """The gates that are left of each group, by their numbers in the full network.

    Args:
        module: a model, or the guide of one; without one sparse module in it there is nothing to tell.
    """
    if isinstance(module, HardConcreteGuide):
        return {name: units.tolist() for name, units in module.units.items()}
    found = sparse_modules(module)
    return {name: units.tolist() for name, units in found[0].units.items()} if len(found) == 1 else {}


@torch.no_grad()
def take_units(module: nn.Module, units: Mapping[str, Sequence[int]]) -> None:
    """Gives a model, or a guide with its model, the sizes of one that was saved, so that its state can be loaded.

    Args:
        module: the model, or the guide.
        units: what :func:`units_left` told of the one that was saved.

    Raises:
        ValueError: if units are asked for that are not there (any more).
    """
    there = dict(module.named_parameters())  # a guide that waits for data to know the model's sites has none yet
    for sparse in sparse_modules(_model_of(module)):
        stay = _positions(sparse, units)
        if any(len(indices) < len(sparse.units[name]) for name, indices in stay.items()):
            remove_units(sparse, stay)
        if isinstance(module, HardConcreteGuide):
            for name, numbers in sparse.units.items():
                old = there.get(f"log_alpha.{name}")
                if old is not None and old.shape != numbers.shape:
                    module.resize_gates(name, len(numbers))


def _model_of(module: nn.Module) -> Any:
    return module.model if isinstance(module, HardConcreteGuide) else module


def _positions(sparse: SparseModule, units: Mapping[str, Sequence[int]]) -> dict[str, Tensor]:
    """Where units stand among those that are there now, for each group whose units can be taken out."""
    stay = {}
    for group in sparse.groups:
        if group.narrows and group.name in units:
            place = {unit: i for i, unit in enumerate(sparse.units[group.name].tolist())}
            if not rising(units[group.name]):
                raise ValueError(f"units of {group.name} must be numbers in rising order; got {units[group.name]}")
            if gone := [unit for unit in units[group.name] if unit not in place]:
                raise ValueError(f"units {gone[:3]} of {group.name} are not there; load into a network at full size")
            stay[group.name] = torch.tensor([place[unit] for unit in units[group.name]], dtype=torch.int64)
    return stay


def rising(numbers: Sequence[int], below: float = float("inf")) -> bool:
    """Whether numbers are positions in something of a size: from 0 on, each once, in their order."""
    return all(isinstance(number, int) for number in numbers) and all(
        before < after for before, after in itertools.pairwise([-1, *numbers, below])
    )


def _remove(
    model: nn.Module, guide: HardConcreteGuide, optimizer: torch.optim.Optimizer | None, stay: Mapping[str, Tensor]
) -> dict[str, int]:
    sparse = find_sparse(model)
    before = {group.name: group.size for group in sparse.groups}
    if all(len(indices) == before[name] for name, indices in stay.items()):
        return {}
    replaced, left = remove_units(sparse, stay)
    for name, indices in left.items():
        old, kept = guide.parameter(f"log_alpha.{name}"), ((0, indices),)
        new = guide.resize_gates(name, len(indices))
        new.copy_(narrow(old, kept))
        replaced.append((old, new, kept))
    if optimizer is not None:
        replace_parameters(optimizer, replaced)
    return {name: size - len(left[name]) for name, size in before.items() if size > len(left[name])}


def replace_parameters(optimizer: torch.optim.Optimizer, replaced: Replaced) -> None:
    """Puts new parameters in the places of old ones in an optimizer, with what is left of their state.

    Args:
        optimizer: of torch's.
        replaced: each old parameter, the new one, and which of the old one's entries it keeps.
    """
    new_of = {id(old): new for old, new, _ in replaced}
    for group in optimizer.param_groups:
        group["params"] = [new_of.get(id(parameter), parameter) for parameter in group["params"]]
    for old, new, kept in replaced:
        if old in optimizer.state:
            optimizer.state[new] = {key: _left(value, old, kept) for key, value in optimizer.state.pop(old).items()}


def _left(value: Any, old: Tensor, kept: Kept) -> Any:
    """What is left of a moment, along the dimensions it has in full; factored ones have others summed out."""
    if not isinstance(value, Tensor) or value.dim() != old.dim():
        return value
    return narrow(value, tuple((dim, keep) for dim, keep in kept if value.shape[dim] == old.shape[dim]))
