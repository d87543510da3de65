"""When a run goes from drawn gates to fixed ones, and when it ends, by its validation errors so far."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from l0bayes.inference.size.constraint import DESCENT
from l0bayes.inference.training.fit_options import FitOptions

History = Sequence[Mapping[str, Any]]


def drawn_epochs(history: History, options: FitOptions, *, targeted: bool = False) -> int:
    """Epochs with drawn gates: all that were asked for, or those after which the error fell no more.

    Patience begins when what is asked of the gates stays the same: after the warm-up, and, with a target, after the
    half of the run over which its goal descends.
    """
    begin = max(math.ceil(options.kl_warmup), math.ceil(DESCENT * options.epochs) if targeted else 0)
    patient = until_no_better(history[begin : options.epochs], options.patience)
    return options.epochs if patient is None else begin + patient


def all_epochs(history: History, options: FitOptions, *, targeted: bool = False) -> int:
    """Epochs of the whole run; fine-tuning has its own patience."""
    drawn = drawn_epochs(history, options, targeted=targeted)
    return drawn + (until_no_better(history[drawn:], options.patience) or options.fine_tune)


def until_no_better(history: History, patience: int | None) -> int | None:
    """The first epoch by which the error has not fallen for ``patience`` epochs, if there is one."""
    ends = range(1, len(history) + 1)
    return None if patience is None else next((end for end in ends if _no_better(history[:end], patience)), None)


def _no_better(history: History, patience: int) -> bool:
    errors = [row["validation_error"] for row in history if "validation_error" in row]
    return len(errors) > patience and min(errors[-patience:]) >= min(errors[:-patience])
