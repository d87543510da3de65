"""One epoch of training, or the rest of one that was interrupted."""

import math
import time
import warnings

from l0bayes.errors import DataError
from l0bayes.inference.data.loaders import length
from l0bayes.inference.training.gate_plan import Moment
from l0bayes.inference.training.state import TrainingState
from l0bayes.inference.training.step import Step
from l0bayes.inference.training.step_batches import Batches, step_batches

_SMALL = 0.1  # of num_data, below which an epoch is not all of it: a dropped last batch does not matter


def train_epoch(state: TrainingState, step: Step, loader: Batches) -> dict[str, float | str]:
    """Takes the steps of an epoch, each in the phase that the gates are in.

    Returns:
        Means over the epoch, and the phase that it ended in.

    Raises:
        DataError: if the loader is empty.
        DivergenceError: if the loss is not finite.
        KeyboardInterrupt: on Ctrl-C.
    """
    done, gates, objective = state.progress, state.gates, step.objective
    objective.train()
    steps = max(1, math.ceil((length(loader) or 0) / state.options.accumulate))

    def now(back: int = 0) -> Moment:
        return Moment(done.epoch, max(0, done.step - back), steps, done.history)

    gates.begin_epoch(now())
    phase = gates.phase(now(back=1))  # that of the last step, where a run was stopped after all of them
    start = time.perf_counter() - done.sums.get("seconds", 0.0)
    for batches in step_batches(loader, done, state.options, state.keep):
        phase = gates.phase(now())
        gates.begin_step(now(), phase)
        objective.kl_weight = phase.kl_weight
        state.set_rates(phase.lr_factor)
        loss, rows = step(batches)
        done.step += 1
        gates.end_step(now())
        done.sums["rows"] = done.sums.get("rows", 0.0) + rows
        done.sums["elbo"] = done.sums.get("elbo", 0.0) - loss
        done.sums["seconds"] = time.perf_counter() - start
        step.called.step(done.epoch, done.step, phase.name, -loss)
        if step.interruption.requested:
            state.stop()
    gates.end_epoch(done.epoch + 1)
    if done.step == 0:
        raise DataError(f"train_loader is empty: it gave no batch in epoch {done.epoch + 1}")
    _check_num_data(state, int(done.sums["rows"]))
    means = {"elbo": done.sums["elbo"] / done.step, "seconds": done.sums["seconds"], "steps": float(done.step)}
    return {"phase": phase.name, **means}


def _check_num_data(state: TrainingState, rows: int) -> None:
    """A wrong N would silently change what a code cost means."""
    num_data = getattr(state.model, "num_data", rows)
    if state.progress.epoch == 0 and not _SMALL * num_data <= rows <= num_data:
        warnings.warn(f"model.num_data is {num_data}, and train_loader gave {rows} rows in an epoch", stacklevel=3)
