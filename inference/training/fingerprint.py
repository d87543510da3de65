"""What a run was about, so that a checkpoint is resumed by the same run alone: its objective, its data, its steps."""

import warnings
from collections.abc import Iterator, Mapping
from typing import Any

from l0bayes.find_sparse import sparse_modules
from l0bayes.inference.data.description import describe
from l0bayes.inference.objective.loss import Objective
from l0bayes.inference.storage.checkpoint import Progress
from l0bayes.inference.training.fit_options import FitOptions
from l0bayes.models.likelihood import Likelihood

Facts = Mapping[str, Any]

_SHOWN = 3  # differences that an error tells


def fingerprint(objective: Objective, loader: Any, options: FitOptions) -> dict[str, Any]:
    """Facts of a run that must be the same when it resumes, by what they are called, as JSON holds them.

    Parameters and the optimizer are compared by themselves; what a run may change in the middle, such as the number of
    epochs and the device, is not in it.

    Args:
        objective: with model and guide as they are before units are removed.
        loader: the training data.
        options: how to train.
    """
    model: Any = objective.model
    guide: Any = objective.guide
    noise = getattr(model, "noise_scale", None) if isinstance(model, Likelihood) else None
    networks = {name: part for name, part in model.named_modules() if part in sparse_modules(model)}
    return {
        "model": type(model).__qualname__,
        "num_data": getattr(model, "num_data", None),
        "noise_scale": noise if isinstance(noise, int | float) else None,  # one that is learned is a parameter
        "network": {name: part.terms for name, part in networks.items()},
        "guide": type(guide).__qualname__,
        "stretch (beta, gamma, zeta)": list(getattr(guide, "stretch", ())),
        "elbo": type(objective.elbo).__qualname__,
        "bf16": options.bf16,
        "independent_draws": options.independent_draws,
        **(
            {"round_to": options.round_to} if options.round_to > 1 else {}
        ),  # as checkpoints of before say nothing of it
        "train_loader": describe(loader),
    }


def check_same_run(then: Progress, now: Facts, options: FitOptions) -> None:
    """Raises ``ValueError`` unless a checkpoint is one of this very run, and of no more epochs than it has.

    Args:
        then: what the checkpoint holds.
        now: the :func:`fingerprint` of the run that resumes.
        options: how it trains.
    """
    if then.fingerprint is None:
        warnings.warn(
            "checkpoint: an earlier version wrote it, which did not note data and priors; make sure that they are the "
            "same. From the next epoch on they are noted",
            stacklevel=2,
        )
    elif differences := list(_differences(then.fingerprint, now)):
        more = f"; and {len(differences) - _SHOWN} more" if len(differences) > _SHOWN else ""
        raise ValueError(f"it was written by another run: {'; '.join(differences[:_SHOWN])}{more}")
    if then.epoch > (asked := options.epochs + options.fine_tune):
        raise ValueError(
            f"{then.epoch} epochs are done already, and epochs={options.epochs} with fine_tune={options.fine_tune} ask "
            f"for {asked}. Ask for at least as many"
        )


def _differences(then: Facts, now: Facts, where: str = "") -> Iterator[str]:
    for name in [*then, *(name for name in now if name not in then)]:
        before, after = then.get(name), now.get(name)
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            yield from _differences(before, after, f"{where}{name}: " if name else where)
        elif before != after:
            yield f"{where}{name} was {before}, is {after}"
