"""Which plan moves the gates of a run, and the options that follow from it."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from l0bayes.errors import DataError
from l0bayes.find_sparse import find_sparse, is_gated
from l0bayes.inference.data.loaders import length
from l0bayes.inference.objective.loss import Objective
from l0bayes.inference.size.constraint import Constraint
from l0bayes.inference.training.drawn_gates import DrawnGates
from l0bayes.inference.training.fit_options import FitOptions
from l0bayes.inference.training.gate_plan import GatePlan
from l0bayes.inference.training.gates_by_evidence import GatesByEvidence
from l0bayes.inference.training.step_batches import Batches


def resolved(options: FitOptions, model: nn.Module, loader: Batches) -> FitOptions:
    """The options with ``selection`` and ``schedule`` decided.

    Raises:
        ValueError: if evidence is asked for where there is none to be had.
        DataError: if it is asked for and the loader does not know its length.
    """
    reason = _no_evidence(model)
    known = length(loader) is not None
    if options.selection == "evidence" and reason is not None:
        raise ValueError(f"selection='evidence' {reason}. Choose selection='svi'")
    if options.selection == "evidence" and not known:
        raise DataError("train_loader must have a length for selection='evidence', whose phases go by the steps done")
    usable = reason is None and known and not options.of_drawn_gates
    selection = options.selection or ("evidence" if usable else "svi")
    schedule = options.schedule or ("late_cosine" if selection == "evidence" else "constant")
    return options.changed(selection=selection, schedule=schedule)


def _no_evidence(model: nn.Module) -> str | None:
    """Why gates cannot be moved by evidence; ``None`` if they can."""
    if not is_gated(model):
        return "needs a network made by sparsify; the model has none"
    sparse = find_sparse(model)
    if sparse.slab == "normal":
        return "is for weights that are points; those of slab='normal' have a posterior of their own"
    if sparse.prior.inclusion_sites:
        return "takes prior inclusion probabilities as given; here they have Beta priors"
    return None


def plan_gates(
    objective: Objective,
    options: FitOptions,
    constraints: Sequence[Constraint],
    optimizer: torch.optim.Optimizer,
    loader: Any,
) -> GatePlan:
    """The plan of a run.

    Args:
        objective: the loss of a batch.
        options: with ``selection`` decided.
        constraints: those of the targets.
        optimizer: of all parameters.
        loader: the batches.
    """
    if options.selection == "svi":
        return DrawnGates(objective, options, constraints)
    steps = max(1, math.ceil((length(loader) or 0) / options.accumulate))
    model: Any = objective.model
    num_data = int(getattr(model, "num_data", 1))
    return GatesByEvidence(objective, options, constraints, optimizer, num_data=num_data, steps=steps)
