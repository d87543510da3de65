"""Parameter groups for torch optimizers: gates apart from weights."""

from typing import Any

import torch
from torch import nn

from l0bayes.arguments import checked
from l0bayes.find_sparse import sparse_modules
from l0bayes.inference.guide.hard_concrete_guide import HardConcreteGuide


@checked
def parameter_groups(
    module: nn.Module, *, lr: float = 1e-3, gate_lr: float = 1e-2, weight_decay: float = 0.0
) -> list[dict[str, Any]]:
    """Splits trainable parameters into weights, gates, and the rest of the variational parameters.

    Gates need a learning rate of their own: with one for all they hardly move. Weight decay is for weights alone;
    on a gate it would pull P(z ≠ 0) towards a half. Note that Adam divides gradients by their size, so a constant
    code cost, however small, moves a gate that nothing else holds at the full learning rate.

    Args:
        module: ``elbo(model, guide)``, or any module that holds model and guide. Gates are the ``log_alpha`` of a
            :class:`~l0bayes.inference.HardConcreteGuide`, or a parameter of that very name.
        lr: learning rate of weights, and of the other parameters of their posteriors, > 0.
        gate_lr: learning rate of ``log_alpha``, > 0.
        weight_decay: of the weights, ≥ 0.

    Returns:
        Groups named ``weights``, ``gates`` and ``variational``, those that are not empty, for any
        :class:`torch.optim.Optimizer`.

    Raises:
        ValueError: if a rate is out of range, or there is nothing to train.
    """
    if not lr > 0 or not gate_lr > 0 or not weight_decay >= 0:
        raise ValueError(
            f"lr and gate_lr must be > 0, weight_decay >= 0; got lr={lr}, gate_lr={gate_lr}, "
            f"weight_decay={weight_decay}"
        )
    members = _members(module)
    if not any(members.values()):
        raise ValueError("module has no trainable parameters; call guide once with data if it is not set up yet")
    settings = {
        "weights": {"lr": lr, "weight_decay": weight_decay},
        "gates": {"lr": gate_lr, "weight_decay": 0.0},
        "variational": {"lr": lr, "weight_decay": 0.0},
    }
    return [{"name": name, "params": params, **settings[name]} for name, params in members.items() if params]


def _members(module: nn.Module) -> dict[str, list[nn.Parameter]]:
    """Kind to its trainable parameters."""
    members: dict[str, list[nn.Parameter]] = {"weights": [], "gates": [], "variational": []}
    kinds = {
        id(parameter): "gates" if name.startswith("log_alpha.") else "variational"
        for guide in module.modules()
        if isinstance(guide, HardConcreteGuide)
        for name, parameter in guide.named_parameters()
    }
    kinds |= {
        id(parameter): "variational"
        for sparse in sparse_modules(module)
        for parameter in sparse.child("log_sd").parameters()
    }
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            by_hand = "gates" if name.rpartition(".")[-1] == "log_alpha" else "weights"  # of a guide written by hand
            members[kinds.get(id(parameter), by_hand)].append(parameter)
    return members


def name_gates(optimizer: torch.optim.Optimizer, module: nn.Module) -> None:
    """Gives the groups of a user's own optimizer that are all gates the name ``gates``, as ours have it.

    Args:
        optimizer: over the parameters of ``module``.
        module: what holds model and guide.

    Raises:
        ValueError: if a group has both gates and others: nothing that treats gates apart could do so.
    """
    gates = {id(parameter) for parameter in _members(module)["gates"]}
    for number, group in enumerate(optimizer.param_groups):
        inside = sum(id(parameter) in gates for parameter in group["params"])
        if 0 < inside < len(group["params"]):
            raise ValueError(
                f"optimizer: its group {number} mixes gates and other parameters; a schedule and an average are for "
                "the others alone. Build it on parameter_groups(nn.ModuleList([model, guide])), or leave both out"
            )
        if inside:
            group["name"] = "gates"
