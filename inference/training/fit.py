"""Training: one ELBO, torch optimizers, checkpoints that a killed run resumes from."""

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyro
import torch
from pyro.infer import ELBO
from torch import nn

from l0bayes.arguments import check_file, checked_but
from l0bayes.find_sparse import find_sparse, is_gated
from l0bayes.html import html_table
from l0bayes.inference.callbacks.callback import Callback, Callbacks, Run
from l0bayes.inference.callbacks.tensorboard import TensorBoard
from l0bayes.inference.data.loaders import arguments_of, first_batch, own_generators
from l0bayes.inference.objective.elbo import ClosedFormKL_ELBO
from l0bayes.inference.objective.loss import Objective
from l0bayes.inference.objective.teacher import Teacher
from l0bayes.inference.prediction.evaluate import mean_error
from l0bayes.inference.selection.decision import marginal
from l0bayes.inference.size.constraint import Constraint
from l0bayes.inference.size.target import TOLERANCE, Target
from l0bayes.inference.storage.history import history_path
from l0bayes.inference.storage.lock import claimed
from l0bayes.inference.system.interrupt import deferred_interrupt
from l0bayes.inference.system.processes import Processes
from l0bayes.inference.training.divergence import check_alive
from l0bayes.inference.training.drawn_gates import DrawnGates
from l0bayes.inference.training.epoch import train_epoch
from l0bayes.inference.training.fingerprint import fingerprint
from l0bayes.inference.training.fit_options import FitOptions, Selection
from l0bayes.inference.training.gate_plan import GatePlan
from l0bayes.inference.training.optimizers import build_optimizer
from l0bayes.inference.training.parameter_groups import name_gates
from l0bayes.inference.training.plan_gates import plan_gates, resolved
from l0bayes.inference.training.progress import shown_progress
from l0bayes.inference.training.state import TrainingState
from l0bayes.inference.training.step import Step
from l0bayes.inference.training.step_batches import Batches
from l0bayes.inference.training.validation import (
    check_kinds,
    check_optimizer,
    check_options,
    check_teacher,
    check_validation,
    see_first_batch,
)
from l0bayes.inputs import Inputs
from l0bayes.models.likelihood import Likelihood
from l0bayes.posterior.cost import expected_l0, expected_macs, open_l0
from l0bayes.threads import one_thread


@dataclass(frozen=True)
class FitResult:
    """What a run measured.

    Attributes:
        history: a row an epoch: ``epoch``, ``phase`` (the last of the epoch: by evidence ``"open"``, ``"selecting"``,
            ``"finishing"``; by svi ``"drawn"``, ``"fixed"``; ``"plain"`` without gates), ``elbo`` (nats over the data
            set, mean of the epoch's steps; with the KL as ``kl_warmup`` weighs it then, and without the gates' in
            fine-tuning, where they are fixed), ``seconds`` of training and ``steps``, and where they apply
            ``expected_l0`` and ``open_l0`` (gated parameters alive in expectation, and in the test-time network),
            ``expected_macs`` (gated ones), ``open_gates`` (of the test-time gates, those that have something alive to
            decide over), ``share`` (the keep ratio of the test-time network, as the first target counts it),
            ``multiplier`` (of that target, in nats) and ``validation_error``.
        checkpoint: the checkpoint of the last epoch, if one was asked for.
        reached: target to the keep ratio of the test-time network.
        rounded: gates that were opened or closed at the end of ``selection="svi"``, nearest to their threshold, so that
            targets are met; see :mod:`l0bayes.inference.size.rounding`.
        selection: how gates were moved, ``"evidence"`` or ``"svi"``.
        stopped: why a callback ended the run, if one did.
    """

    history: pd.DataFrame
    checkpoint: Path | None
    reached: dict[Target, float]
    rounded: int = 0
    selection: Selection = "svi"
    stopped: str | None = None

    def _repr_html_(self) -> str:
        """What notebooks show: what was reached, and the last epochs."""
        said = [f"{len(self.history)} epochs, gates by {self.selection}"]
        said += [f"asked {target}, reached {ratio:.3g}" for target, ratio in self.reached.items()]
        said += [f"ended by a callback: {self.stopped}"] if self.stopped else []
        rows = [[f"{v:.4g}" if isinstance(v, float) else v for v in row] for row in self.history.tail(5).to_numpy()]
        return html_table("; ".join(said), list(self.history.columns), rows)

    @property
    def settled(self) -> int:
        """What ``rounded`` was called before."""
        return self.rounded


@checked_but("model", "train_loader", "target", "optimizer", "callbacks")
def fit(
    model: nn.Module,
    guide: nn.Module,
    train_loader: Batches,
    *,
    validation_loader: Batches | None = None,
    checkpoint: str | Path | None = None,
    history: str | Path | None = None,
    tensorboard: str | Path | None = None,
    target: Target | Sequence[Target] = (),
    optimizer: torch.optim.Optimizer | str | None = None,
    elbo: ELBO | None = None,
    teacher: nn.Module | None = None,
    callbacks: Sequence[Callback | Callable[[Run], Any]] = (),
    progress: bool = True,
    options: FitOptions | None = None,
    **changes: Any,
) -> FitResult:
    """Maximises the ELBO of model and guide, in place.

    Args:
        model: a Pyro model that is a module, called with the batches of the loader.
        guide: its guide.
        train_loader: an iterable of batches, each a tuple of the model's arguments, ``(x, y)``, or a mapping that is
            its one argument, ``{"input_ids": …, "labels": …}``: a :class:`~l0bayes.inference.TensorBatches` or any data
            loader. Seed torch before the call for a reproducible order of data and draws of gates. Torch generators of
            the loader's own are resumed too, and samplers that want to know the epoch (``DistributedSampler``) are
            told.
        validation_loader: batches on which to report the error after each epoch.
        checkpoint: a file written after every epoch and on Ctrl-C. If it exists, the run resumes from there, as
            if it had never stopped.
        history: a ``.csv`` or ``.json`` file, into which the history is written after every epoch.
        tensorboard: a folder for the history as TensorBoard reads it; needs the extra ``tensorboard``.
        target: what is to be left of the network, instead of (or on top of) a code cost; one or several.
        optimizer: a torch optimizer over all parameters of model and guide, instead of those that the options make.
        elbo: the ELBO; :class:`~l0bayes.inference.ClosedFormKL_ELBO` if ``None``. A model with sites that have no
            closed-form KL needs ``TraceMeanField_ELBO``.
        teacher: a trained network of the same inputs and outputs, such as a copy of a dense one from before
            ``sparsify``, whose outputs take the place of a share of the targets: knowledge distillation, see
            ``teacher_weight`` and ``temperature``. ``elbo`` in the history stays that of the targets.
        callbacks: tools beside the run: :class:`~l0bayes.inference.Callback` objects, which are told of steps and
            epochs and may end the run, or functions of a :class:`~l0bayes.inference.Run` to call after each epoch.
        progress: whether to show how far the run is: a bar on a terminal, a line an epoch in a file.
        options: how to train.
        changes: any of the :class:`~l0bayes.inference.FitOptions` by name, such as ``epochs=30, lr=1e-3``.

    Returns:
        The history, where the checkpoint is, and how near the targets are. Where one was missed there is a warning.

    Raises:
        TypeError: if an option is unknown.
        ValueError: if an argument is out of range, or a target impossible.
        OSError: if a file cannot be written; what was written before it is still there.
        DataError: if the loader is empty or its data do not suit the model.
        DivergenceError: if the loss stops being finite, or no gate is open any more.
        FileFormatError: if the checkpoint is damaged or belongs to another run.
        ThreadError: if another thread of this process trains: give each run a process of its own.
        FileInUseError: if another run is writing the checkpoint or the history.
        KeyboardInterrupt: on Ctrl-C, after the step in progress; its message says where the checkpoint is.
    """
    if isinstance(optimizer, str):
        changes["optimizer"], optimizer = optimizer, None
    asked = (options or FitOptions()).changed(**changes)
    targets = tuple(target) if isinstance(target, Sequence) else (target,)
    check_kinds(model, guide, train_loader, targets)
    called = Callbacks(callbacks, Run(model, guide), () if tensorboard is None else (TensorBoard(tensorboard),))
    asked = resolved(asked, model, train_loader)
    check_options(model, train_loader, validation_loader, asked, targets=bool(targets), own_elbo=elbo is not None)
    files = {
        "checkpoint": None if checkpoint is None else check_file("checkpoint", checkpoint),
        "history": history_path(history),
    }
    with (
        one_thread("fit", run=True),
        claimed(**files),
        pyro.get_param_store().scope(),
        deferred_interrupt() as interruption,
    ):
        elbo = elbo or ClosedFormKL_ELBO(num_particles=asked.num_particles, antithetic=asked.antithetic)
        objective = Objective(elbo, model, guide, bf16=asked.bf16, round_to=asked.round_to, masked=asked.masked)
        if teacher is not None:
            objective.teacher = Teacher(check_teacher(teacher, model), teacher, asked.teacher_weight, asked.temperature)
        see_first_batch(guide, train_loader)
        check_validation(model, guide, validation_loader)
        if asked.channels_last:
            model.to(memory_format=torch.channels_last)
        num_data = int(getattr(model, "num_data", 1))
        constraints = _constraints(targets, model, guide, train_loader, asked)
        if optimizer is not None:
            check_optimizer(optimizer, objective, asked)
        if optimizer is not None and (asked.ema is not None or asked.schedule != "constant"):
            name_gates(optimizer, objective)
        optimizer = optimizer or build_optimizer(objective, asked, num_data)
        gates = plan_gates(objective, asked, constraints, optimizer, train_loader)
        processes = Processes()
        state = TrainingState(
            optimizer,
            asked,
            gates,
            constraints,
            **files,
            generators=own_generators(train_loader),
            writes=processes.first,
            fingerprint=None if checkpoint is None else fingerprint(objective, train_loader, asked),
        )
        step = Step(objective, state, processes, interruption, num_data=num_data)
        try:
            state.resume()
            step.follow_shapes()
            called.start(state.progress.epoch, processes)
            step.called = called
            _train(state, step, train_loader, validation_loader, progress=progress and processes.first)
        finally:
            gates.close()
            called.end()
        reached = {constraint.target: constraint.reached() for constraint in constraints}
    _warn_of_missed(constraints, reached, at_most=asked.selection == "evidence")
    _warn_of_cut(gates)
    rounded = gates.rounded if isinstance(gates, DrawnGates) else 0
    return FitResult(
        pd.DataFrame(state.progress.history),
        state.checkpoint,
        reached,
        rounded,
        asked.selection or "svi",
        called.run.stopped,
    )


def _constraints(
    targets: Sequence[Target], model: Any, guide: Any, loader: Any, options: FitOptions
) -> tuple[Constraint, ...]:
    updates = math.ceil(len(loader) / options.accumulate) * options.epochs if targets else 0
    timed = any(target.of == "latency" for target in targets)
    example = _inputs_in(model, arguments_of(first_batch(loader))) if timed else None
    shared: dict[str, Any] = {"num_data": int(model.num_data) if targets else 1, "updates": updates, "example": example}
    constraints = [Constraint(target, model, guide, **shared) for target in targets]
    for one in constraints:
        one.alone = not one.others(constraints)
    return tuple(constraints)


def _inputs_in(model: Any, batch: tuple[Any, ...]) -> Inputs:
    """What the network of a model is given of a batch."""
    return model.parts(*batch)[0] if isinstance(model, Likelihood) else Inputs.of(batch[0])


def _train(
    state: TrainingState, step: Step, loader: Batches, validation_loader: Batches | None, *, progress: bool
) -> None:
    """The loop: phases of the gates, epochs, what is measured after each, and what is left in the model at the end."""
    done, gates, options = state.progress, state.gates, state.options
    with shown_progress(gates.last_epoch(done.history), done.epoch, active=progress) as show:
        while done.epoch < gates.last_epoch(done.history) and not step.called.stopped:
            row: dict[str, Any] = train_epoch(state, step, loader)
            check_alive(step.objective, state.guide, done.epoch + 1, state.kept())
            with state.averaged():
                gates.write_back()
                row |= _measure(state, validation_loader)
            if options.shrink_below is not None and state.shrink(options.shrink_below):
                step.follow_shapes()
            state.finish_epoch(row)
            show(done.history[-1])
            step.called.epoch(done.history[-1])
            if step.interruption.requested:
                state.stop()
    if state.average is not None:
        state.average.swap()
    state.restore_rates()
    gates.finish()


@torch.no_grad()
def _measure(state: TrainingState, validation_loader: Batches | None) -> dict[str, float]:
    model, guide = state.model, state.guide
    row = {}
    if is_gated(model):
        row["expected_l0"] = expected_l0(model, guide)
        row["open_l0"] = open_l0(model, guide)
        row["expected_macs"] = expected_macs(model, guide)
        row["open_gates"] = float(_alive_gates(model, guide))
    for constraint in state.constraints:
        constraint.measure()
    for constraint in state.constraints[:1]:
        row |= {"share": constraint.reached(), "multiplier": constraint.multiplier}
    if validation_loader is not None and isinstance(model, Likelihood):
        row["validation_error"] = mean_error(model, guide, validation_loader, "validation_loader")
    return row


def _alive_gates(model: nn.Module, guide: Any) -> int:
    """Test-time gates that are open and have something to decide over, which others may have closed."""
    opened = {name: z != 0 for name, z in guide.point().items()}
    adds = marginal(find_sparse(model).live_cost().amount, opened)
    return sum(int((opened[name] & (adds[name] > 0).to(opened[name].device)).sum()) for name in opened)


def _warn_of_missed(constraints: Sequence[Constraint], reached: dict[Target, float], *, at_most: bool) -> None:
    """Tells of targets that were not reached; by evidence, a network is below one where no further gate fits."""
    for one in constraints:
        target, ratio = one.target, reached[one.target]
        decided = any(reached[other.target] > (1 - TOLERANCE) * other.target.share for other in one.others(constraints))
        if ratio < target.share and (decided or at_most):
            continue  # it is met, by a narrower target on the same layers
        if abs(ratio / target.share - 1) > TOLERANCE:
            warnings.warn(
                f"target: {target} was not reached: it is {ratio:.3g}. "
                + (
                    "Train longer, raise gate_lr, or ask for less"
                    if ratio > target.share
                    else "Longer runs overshoot less; with several targets the narrower one decides"
                ),
                stacklevel=4,
            )


def _warn_of_cut(gates: GatePlan) -> None:
    """Tells of a network whose outputs would not depend on its inputs, but for the gates that must stay open."""
    if not gates.leads_through():
        warnings.warn(
            "no way leads from the network's inputs to its outputs through gates that are open by themselves: those of "
            "min_units alone keep it from being constant. Lower code_cost, or train for longer",
            stacklevel=4,
        )
