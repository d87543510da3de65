"""When a run goes from drawn gates to fixed ones, and when it ends, by its validation errors so far."""

from collections.abc import Mapping, Sequence

from l0bayes.inference.fit_options import FitOptions

History = Sequence[Mapping[str, float]]


def drawn_epochs(history: History, options: FitOptions) -> int:
    """Epochs with drawn gates: all that were asked for, or those after which the error fell no more."""
    return _until_no_better(history[: options.epochs], options.patience) or options.epochs


def all_epochs(history: History, options: FitOptions) -> int:
    """Epochs of the whole run; fine-tuning has its own patience."""
    drawn = drawn_epochs(history, options)
    return drawn + (_until_no_better(history[drawn:], options.patience) or options.fine_tune)


def _until_no_better(history: History, patience: int | None) -> int | None:
    """The first epoch by which the error has not fallen for ``patience`` epochs, if there is one."""
    ends = range(1, len(history) + 1)
    return None if patience is None else next((end for end in ends if _no_better(history[:end], patience)), None)


def _no_better(history: History, patience: int) -> bool:
    errors = [row["validation_error"] for row in history if "validation_error" in row]
    return len(errors) > patience and min(errors[-patience:]) >= min(errors[:-patience])
