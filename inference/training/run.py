"""One training run, epoch by epoch: its state, its steps, and how it resumes after an interruption."""

import math
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import nn

from l0bayes.errors import DataError
from l0bayes.inference.data.loaders import length
from l0bayes.inference.objective.loss import Objective
from l0bayes.inference.size.constraint import Constraint
from l0bayes.inference.size.shrink import shrink, shrink_to, units_left
from l0bayes.inference.storage.checkpoint import (
    Progress,
    load_checkpoint,
    save_checkpoint,
)
from l0bayes.inference.storage.history import write_history
from l0bayes.inference.storage.tensorboard import Log
from l0bayes.inference.system.interrupt import Interruption
from l0bayes.inference.system.processes import Processes
from l0bayes.inference.system.random_state import random_state
from l0bayes.inference.training.averaged_buffers import AveragedBuffers
from l0bayes.inference.training.compiling import Compiled, network_of
from l0bayes.inference.training.divergence import check_alive, check_finite
from l0bayes.inference.training.fingerprint import check_same_run
from l0bayes.inference.training.fit_options import FitOptions
from l0bayes.inference.training.gate_plan import GatePlan, Moment
from l0bayes.inference.training.moving_average import MovingAverage
from l0bayes.inference.training.step_batches import Batch, Batches, step_batches
from l0bayes.inference.training.validation import check_batch

_FIXED = ("accumulate", "kl_warmup", "clip_norm", "ema", "num_particles", "antithetic", "schedule", "shrink_below")


class Run:
    """The state of one run.

    Args:
        objective: the loss of a batch.
        optimizer: over all parameters.
        options: how to train.
        checkpoint: where to write checkpoints, if anywhere.
        history: where to write the history, if anywhere.
        interruption: whether Ctrl-C was pressed.
        gates: what the gates do in each phase.
        constraints: the targets as constraints, in the order in which they were given.
        num_data: size of the training set, 1 if nobody knows.
        generators: of random numbers, the loader's own.
        fingerprint: what the run is about, as its checkpoints note it.
    """

    def __init__(
        self,
        objective: Objective,
        optimizer: torch.optim.Optimizer,
        options: FitOptions,
        *,
        checkpoint: Path | None,
        history: Path | None = None,
        interruption: Interruption,
        gates: GatePlan,
        constraints: Sequence[Constraint] = (),
        num_data: int = 1,
        generators: Sequence[torch.Generator] = (),
        fingerprint: dict[str, Any] | None = None,
    ) -> None:
        self._objective = objective
        self.processes = Processes()
        self._parallel = self.processes.wrap(objective)
        self._optimizer = optimizer
        self._options = options
        self._interruption = interruption
        self.gates = gates
        self.constraints = tuple(constraints)
        self.model: Any = objective.model
        self.guide: Any = objective.guide
        self._num_data = num_data
        self._generators = generators
        self._own: dict[str, nn.Module] = {"model": self.model, "guide": self.guide}
        self._checked = False
        self._steps = 1  # an epoch, as far as the loader knows
        self._rates = [group["lr"] for group in optimizer.param_groups]
        self.average: MovingAverage | None = None
        self._averaged: AveragedBuffers | None = None
        self._compiled = Compiled(self._trained) if options.compile else None
        if gates.averages:
            self._average(self.model)
        gates.shapes_changed = self._follow
        self.checkpoint = checkpoint
        self._history = history
        self.progress = Progress()
        self._fingerprint = fingerprint or {}

    # -- resuming -----------------------------------------------------------------------------------------------

    def resume(self) -> None:
        """Resumes from the checkpoint, if there is one."""
        if self.checkpoint is None or not self.checkpoint.exists():
            return
        self.progress = load_checkpoint(
            self.checkpoint, self._stored, self._optimizer, self._as_it_was, self._generators
        )
        for constraint, multiplier in zip(self.constraints, self.progress.multipliers, strict=True):
            constraint.multiplier = multiplier
            constraint.measure()

    def _as_it_was(self, progress: Progress) -> dict[str, nn.Module]:
        if self.processes.first:  # others may have data of their own
            check_same_run(progress, self._fingerprint, self._options)
        if progress.units:
            shrink_to(self.model, self.guide, self._optimizer, progress.units)
            self._follow_shapes()
        for name, now in self._settings.items():
            if (then := progress.settings.get(name)) != now:
                raise ValueError(f"it was written with {name}={then}, now it is {now}")
        self.gates.restore(progress.gates)
        return self._stored

    @property
    def _settings(self) -> dict[str, Any]:
        """What cannot change in the middle of a run without changing what it means."""
        options = {name: getattr(self._options, name) for name in _FIXED}
        targets = [str(constraint.target) for constraint in self.constraints]
        return {"target": targets, "selection": type(self.gates).__name__, **options}

    @property
    def _stored(self) -> dict[str, nn.Module]:
        """What a checkpoint holds, by name."""
        averaged = {} if self._averaged is None else {"averaged": self._averaged}
        return self._own | self.gates.stored | averaged

    @contextmanager
    def _rates_as_given(self) -> Iterator[None]:
        """Learning rates before the schedule, which a run of more epochs has another of."""
        scheduled = [group["lr"] for group in self._optimizer.param_groups]
        self.restore_rates()
        try:
            yield
        finally:
            for group, rate in zip(self._optimizer.param_groups, scheduled, strict=True):
                group["lr"] = rate

    def restore_rates(self) -> None:
        """Sets the learning rates back to what they were before the schedule."""
        for group, rate in zip(self._optimizer.param_groups, self._rates, strict=True):
            group["lr"] = rate

    def save(self) -> None:
        """Writes checkpoint and history, once for all processes.

        Raises:
            OSError: if that fails, on a full disk for instance.
        """
        if not self.processes.first:
            return
        self.progress.multipliers = [constraint.multiplier for constraint in self.constraints]
        self.progress.settings = self._settings
        self.progress.fingerprint = self._fingerprint
        self.progress.gates = self.gates.state()
        try:
            if self.checkpoint is not None:
                with self._rates_as_given():
                    save_checkpoint(self.checkpoint, self._stored, self._optimizer, self.progress, self._generators)
            if self._history is not None:
                write_history(self._history, self.progress.history)
        except OSError as error:
            raise type(error)(
                error.errno,
                f"{error.strerror}, after {self.progress.epoch} epochs.{self._kept()} Model and guide keep what they "
                "learned. Make room, or give another path, and call again",
                error.filename,
            ) from error

    # -- an epoch -----------------------------------------------------------------------------------------------

    @property
    def last_epoch(self) -> int:
        """Epochs after which the run is over, as far as can be told by now."""
        return self.gates.last_epoch(self.progress.history)

    @property
    def _now(self) -> Moment:
        return Moment(self.progress.epoch, self.progress.step, self._steps, self.progress.history)

    def _set_rates(self) -> None:
        factor = self._options.lr_factor(self._now.epochs)
        for group, rate in zip(self._optimizer.param_groups, self._rates, strict=True):
            if self._options.schedule != "constant" and group.get("name") != "gates":
                group["lr"] = rate * factor

    def train_epoch(self, loader: Batches) -> dict[str, float]:
        """Trains for one epoch, or for the rest of the one that was interrupted.

        Returns:
            Means over the epoch.

        Raises:
            DataError: if the loader is empty.
            DivergenceError: if the loss is not finite.
            KeyboardInterrupt: on Ctrl-C.
        """
        done = self.progress
        self._objective.train()
        self._steps = max(1, math.ceil((length(loader) or 0) / self._options.accumulate))
        self.gates.begin_epoch(self._now)
        start = time.perf_counter() - done.sums.get("seconds", 0.0)
        for batches in step_batches(loader, done, self._options, self._keep):
            self.gates.begin_step(self._now)
            self._set_rates()
            if not self._checked:
                check_batch(self._objective, batches[0])
                self._checked = True
            rows = sum(len(batch[0]) for batch in batches) * self.processes.size
            with self._compiled.active() if self._compiled and self.gates.keeps_its_shape else nullcontext():
                loss = self._step(batches, rows)
            done.step += 1
            self.gates.end_step(self._now)
            done.sums["rows"] = done.sums.get("rows", 0.0) + rows
            done.sums["elbo"] = done.sums.get("elbo", 0.0) - loss
            done.sums["seconds"] = time.perf_counter() - start
            if self._interruption.requested:
                self._stop()
        self.gates.end_epoch(done.epoch + 1)
        if done.step == 0:
            raise DataError(f"train_loader is empty: it gave no batch in epoch {done.epoch + 1}")
        self._check_num_data(int(done.sums["rows"]))
        return {
            "elbo": done.sums["elbo"] / done.step,
            "seconds": done.sums["seconds"],
            "steps": float(done.step),
        }

    def _check_num_data(self, rows: int) -> None:
        """A wrong N would silently change what a code cost means; a dropped last batch does not matter."""
        num_data = getattr(self.model, "num_data", rows)
        if self.progress.epoch == 0 and not 0.1 * num_data <= rows <= num_data:
            warnings.warn(f"model.num_data is {num_data}, and train_loader gave {rows} rows in an epoch", stacklevel=3)

    def _keep(self) -> str:
        """Writes down the steps done since the last checkpoint, if there are any; says where."""
        if self.progress.step:
            self.save()
        return self._kept()

    # -- a step -------------------------------------------------------------------------------------------------

    def _step(self, batches: Sequence[Batch], rows: int) -> float:
        self._optimizer.zero_grad()
        total = 0.0
        for batch in batches:
            with self.processes.independent_draws(active=self._options.independent_draws):
                loss = self._parallel(*batch) / len(batches)
            total += self._objective.negative_elbo / len(batches)
            loss.backward()
        total, interrupted = self.processes.mean(total, float(self._interruption.requested))
        self._interruption.requested = interrupted > 0
        check_finite(total, f"epoch {self.progress.epoch + 1}, step {self.progress.step + 1}", self._kept())
        self.gates.see_gradients(rows)
        if (norm := self._options.clip_norm) is not None:
            nn.utils.clip_grad_norm_(self._objective.parameters(), norm * self._num_data)
        self._optimizer.step()
        if self.average is not None:
            self.average.update()
        return total

    def _kept(self) -> str:
        saved = self.checkpoint is not None and self.checkpoint.exists()
        return f" The last good state is in {self.checkpoint}." if saved else ""

    # -- between epochs -----------------------------------------------------------------------------------------

    def check_alive(self) -> None:
        """Raises before the checkpoint is written if nothing can come of the run any more."""
        check_alive(self._objective, self.guide, self.progress.epoch + 1, self._kept())

    def shrink(self, closed_below: float) -> None:
        """Removes units that are closed for good."""
        if shrink(self.model, self.guide, self._optimizer, closed_below=closed_below):
            self._follow_shapes()
        self.progress.units = units_left(self.model)

    def _follow_shapes(self) -> None:
        """After units were removed."""
        self._parallel = self.processes.wrap(self._objective)
        if self._averaged is not None:
            self._averaged.match()

    def _follow(self, net: nn.Module) -> None:
        """After another network is trained in place of the model's own."""
        self._parallel = self.processes.wrap(self._objective)
        self._average(net)

    def _average(self, trained: nn.Module) -> None:
        """Begins the moving average, if one is asked for."""
        if (decay := self._options.ema) is not None:
            self._averaged = AveragedBuffers(trained, decay)
            self.average = MovingAverage(self._optimizer, decay, self._averaged)

    def _trained(self) -> nn.Module:
        """The network that is trained now."""
        stand_in: nn.Module | None = self._objective.stand_in
        return network_of(self.model) if stand_in is None else stand_in

    def finish_epoch(self, row: dict[str, float], log: Log) -> None:
        """Notes what was measured, and writes the checkpoint.

        Args:
            row: what was measured.
            log: where it is shown besides.

        Raises:
            KeyboardInterrupt: if Ctrl-C was pressed meanwhile.
        """
        done = self.progress
        done.epoch += 1
        done.step, done.sums = 0, {}
        done.history.append({"epoch": float(done.epoch), **row})
        done.epoch_random = random_state(self._generators)
        log(done.history[-1])
        self.save()
        if self._interruption.requested:
            self._stop()

    def _stop(self) -> None:
        self.gates.write_back()
        self.save()
        where = (
            "no checkpoint was asked for; model and guide keep what they learned"
            if self.checkpoint is None
            else f"everything is in {self.checkpoint}; the same call with it resumes there"
        )
        raise KeyboardInterrupt(f"stopped after {self.progress.epoch} epochs and {self.progress.step} steps: {where}")
