"""What a training run is made of and what is saved of it, so that one that was stopped resumes as if it had not."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import nn

from l0bayes.inference.size.constraint import Constraint
from l0bayes.inference.size.shrink import shrink, shrink_to, units_left
from l0bayes.inference.storage.checkpoint import Progress, load_checkpoint, save_checkpoint
from l0bayes.inference.storage.history import write_history
from l0bayes.inference.system.random_state import random_state
from l0bayes.inference.training.fingerprint import check_same_run
from l0bayes.inference.training.fit_options import FitOptions
from l0bayes.inference.training.gate_plan import GatePlan
from l0bayes.inference.training.moving_average import MovingAverage

_FIXED = ("accumulate", "kl_warmup", "clip_norm", "ema", "num_particles", "antithetic", "schedule", "shrink_below")


class TrainingState:
    """Model, guide, optimizer, averages, multipliers and progress of one run, and their checkpoint.

    Args:
        optimizer: over all parameters.
        options: how to train.
        gates: what the gates do in each phase.
        constraints: the targets as constraints, in the order in which they were given.
        checkpoint: where to write checkpoints, if anywhere.
        history: where to write the history, if anywhere.
        generators: of random numbers, the loader's own.
        writes: whether this process is the one that writes files.
        fingerprint: what the run is about, as its checkpoints note it.

    Attributes:
        progress: how far the run is.
        average: the moving average of what is trained, once there is one.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        options: FitOptions,
        gates: GatePlan,
        constraints: Sequence[Constraint] = (),
        *,
        checkpoint: Path | None = None,
        history: Path | None = None,
        generators: Sequence[torch.Generator] = (),
        writes: bool = True,
        fingerprint: dict[str, Any] | None = None,
    ) -> None:
        self.optimizer = optimizer
        self.options = options
        self.gates = gates
        self.constraints = tuple(constraints)
        self.checkpoint = checkpoint
        self.generators = generators
        self.model: Any = gates.model
        self.guide: Any = gates.guide
        self.progress = Progress()
        self.average: MovingAverage | None = None
        self._history = history
        self._writes = writes
        self._fingerprint = fingerprint or {}
        self._rates = [group["lr"] for group in optimizer.param_groups]
        if gates.averages:
            self.begin_average(self.model)

    # -- resuming -----------------------------------------------------------------------------------------------

    def resume(self) -> None:
        """Resumes from the checkpoint, if there is one."""
        if self.checkpoint is None or not self.checkpoint.exists():
            return
        self.progress = load_checkpoint(self.checkpoint, self._stored, self.optimizer, self._as_it_was, self.generators)
        for constraint, multiplier in zip(self.constraints, self.progress.multipliers, strict=True):
            constraint.multiplier = multiplier
            constraint.measure()

    def _as_it_was(self, progress: Progress) -> dict[str, nn.Module]:
        if self._writes:  # others may have data of their own
            check_same_run(progress, self._fingerprint, self.options)
        if progress.units:
            shrink_to(self.model, self.guide, self.optimizer, progress.units)
            self._match_shapes()
        for name, now in self._settings.items():
            if (then := progress.settings.get(name)) != now:
                raise ValueError(f"it was written with {name}={then}, now it is {now}")
        self.gates.restore(progress.gates)
        return self._stored

    @property
    def _settings(self) -> dict[str, Any]:
        """What cannot change in the middle of a run without changing what it means."""
        options = {name: getattr(self.options, name) for name in _FIXED}
        targets = [str(constraint.target) for constraint in self.constraints]
        taught = self.gates.objective.teacher is not None
        teacher = [self.options.teacher_weight, self.options.temperature] if taught else None
        return {"target": targets, "selection": type(self.gates).__name__, "teacher": teacher, **options}

    @property
    def _stored(self) -> dict[str, nn.Module]:
        """What a checkpoint holds, by name."""
        averaged = {} if self.average is None else {"averaged": self.average.buffers}
        return {"model": self.model, "guide": self.guide} | self.gates.stored | averaged

    # -- learning rates -----------------------------------------------------------------------------------------

    def set_rates(self, factor: float) -> None:
        """Sets the learning rates of everything but gates to a multiple of what was given."""
        for group, rate in zip(self.optimizer.param_groups, self._rates, strict=True):
            if self.options.schedule != "constant" and group.get("name") != "gates":
                group["lr"] = rate * factor

    def restore_rates(self) -> None:
        """Sets the learning rates back to what they were before the schedule."""
        for group, rate in zip(self.optimizer.param_groups, self._rates, strict=True):
            group["lr"] = rate

    @contextmanager
    def _rates_as_given(self) -> Iterator[None]:
        """Learning rates before the schedule, which a run of more epochs has another of."""
        scheduled = [group["lr"] for group in self.optimizer.param_groups]
        self.restore_rates()
        try:
            yield
        finally:
            for group, rate in zip(self.optimizer.param_groups, scheduled, strict=True):
                group["lr"] = rate

    # -- averages and shapes ------------------------------------------------------------------------------------

    def begin_average(self, trained: nn.Module) -> None:
        """Begins the moving average of a network, if one is asked for."""
        if self.options.ema is not None:
            self.average = MovingAverage(self.optimizer, self.options.ema, trained)

    def averaged(self) -> AbstractContextManager[None]:
        """Within it the averages take the place of the parameters, if there are any."""
        return nullcontext() if self.average is None else self.average.in_place()

    def shrink(self, closed_below: float) -> bool:
        """Removes units that are closed for good; says whether there were any."""
        removed = bool(shrink(self.model, self.guide, self.optimizer, closed_below=closed_below))
        if removed:
            self._match_shapes()
        self.progress.units = units_left(self.model)
        return removed

    def _match_shapes(self) -> None:
        if self.average is not None:
            self.average.buffers.match()

    # -- saving -------------------------------------------------------------------------------------------------

    def finish_epoch(self, row: dict[str, Any]) -> None:
        """Notes what was measured, and writes checkpoint and history."""
        done = self.progress
        done.epoch += 1
        done.step, done.sums = 0, {}
        done.history.append({"epoch": float(done.epoch), **row})
        done.epoch_random = random_state(self.generators)
        self.save()

    def save(self) -> None:
        """Writes checkpoint and history, once for all processes.

        Raises:
            OSError: if that fails, on a full disk for instance.
        """
        if not self._writes:
            return
        self.progress.multipliers = [constraint.multiplier for constraint in self.constraints]
        self.progress.settings = self._settings
        self.progress.fingerprint = self._fingerprint
        self.progress.gates = self.gates.state()
        try:
            if self.checkpoint is not None:
                with self._rates_as_given():
                    save_checkpoint(self.checkpoint, self._stored, self.optimizer, self.progress, self.generators)
            if self._history is not None:
                write_history(self._history, self.progress.history)
        except OSError as error:
            raise type(error)(
                error.errno,
                f"{error.strerror}, after {self.progress.epoch} epochs.{self.kept()} Model and guide keep what they "
                "learned. Make room, or give another path, and call again",
                error.filename,
            ) from error

    def keep(self) -> str:
        """Writes down the steps done since the last checkpoint, if there are any; says where."""
        if self.progress.step:
            self.save()
        return self.kept()

    def kept(self) -> str:
        """Says where the last good state is, if anywhere."""
        saved = self.checkpoint is not None and self.checkpoint.exists()
        return f" The last good state is in {self.checkpoint}." if saved else ""

    def stop(self) -> None:
        """Writes everything down and ends the run.

        Raises:
            KeyboardInterrupt: always; its message says where the checkpoint is.
        """
        self.gates.write_back()
        self.save()
        where = (
            "no checkpoint was asked for; model and guide keep what they learned"
            if self.checkpoint is None
            else f"everything is in {self.checkpoint}; the same call with it resumes there"
        )
        raise KeyboardInterrupt(f"stopped after {self.progress.epoch} epochs and {self.progress.step} steps: {where}")
