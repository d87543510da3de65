"""Training: one ELBO, one torch optimizer, checkpoints that a killed run resumes from."""

import itertools
import math
import time
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyro
import torch
from pyro import poutine
from pyro.infer import ELBO
from pyro.infer.autoguide import AutoGuide
from torch import Tensor, nn
from tqdm import tqdm

from l0bayes.errors import DataError, DivergenceError
from l0bayes.evaluating import evaluating
from l0bayes.inference.checkpoint import (
    Progress,
    load_checkpoint,
    random_state,
    save_checkpoint,
    set_random_state,
)
from l0bayes.inference.elbo import ClosedFormKL_ELBO
from l0bayes.inference.evaluate import evaluate, is_gated
from l0bayes.inference.interrupt import Interruption, deferred_interrupt
from l0bayes.inference.parameter_groups import parameter_groups
from l0bayes.inference.shrink import shrink, shrink_to
from l0bayes.models.likelihood import Likelihood
from l0bayes.posterior.cost import expected_l0
from l0bayes.sparsify import find_sparse

Batches = Iterable[tuple[Tensor, ...]]


@dataclass(frozen=True)
class FitResult:
    """What a run measured.

    Attributes:
        history: a row an epoch: ``epoch``, ``elbo`` (nats over the data set, mean of the epoch's steps),
            ``seconds`` of training, and where they apply ``expected_l0`` (parameters), ``open_gates`` (of the
            test-time gates) and ``validation_error``.
        checkpoint: the checkpoint of the last epoch, if one was asked for.
    """

    history: pd.DataFrame
    checkpoint: Path | None


def fit(
    model: nn.Module,
    guide: AutoGuide,
    train_loader: Batches,
    *,
    epochs: int,
    lr: float = 1e-3,
    gate_lr: float = 1e-2,
    weight_decay: float = 0.0,
    optimizer: torch.optim.Optimizer | None = None,
    elbo: ELBO | None = None,
    num_particles: int = 1,
    shrink_below: float | None = None,
    validation_loader: Batches | None = None,
    checkpoint: str | Path | None = None,
    progress: bool = True,
) -> FitResult:
    """Maximises the ELBO of model and guide, in place.

    Args:
        model: a Pyro model that is a module, called with the batches of the loader.
        guide: its guide.
        train_loader: an iterable of batches, each a tuple of the model's arguments: a
            :class:`~l0bayes.inference.TensorBatches` or any data loader. Seed torch before the call for a
            reproducible order of data and draws of gates.
        epochs: passes over the loader, at least 1, those before a resumed checkpoint included.
        lr: learning rate of the weights, of Adam.
        gate_lr: learning rate of the gates.
        weight_decay: of the weights only.
        optimizer: a torch optimizer over all parameters of model and guide, instead of the last three.
        elbo: the ELBO; :class:`~l0bayes.inference.ClosedFormKL_ELBO` if ``None``. A model with sites that have no
            closed-form KL needs ``TraceMeanField_ELBO``.
        num_particles: draws of the gates a step, for the default ELBO.
        shrink_below: after each epoch, units with P(z ≠ 0) below this are removed for good, see
            :func:`~l0bayes.inference.shrink`. ``None`` removes none.
        validation_loader: batches on which to report the error after each epoch.
        checkpoint: a file written after every epoch and on Ctrl-C. If it exists, the run goes on from there, as
            if it had never stopped.
        progress: whether to show a progress bar.

    Returns:
        The history and where the checkpoint is.

    Raises:
        ValueError: if an argument is out of range.
        DataError: if the loader is empty or its data do not suit the model.
        DivergenceError: if the loss stops being finite.
        FileFormatError: if the checkpoint is damaged or belongs to another run.
        KeyboardInterrupt: on Ctrl-C, after the step in progress; its message says where the checkpoint is.
    """
    if epochs < 1:
        raise ValueError(f"epochs must be at least 1; got {epochs}")
    if num_particles < 1:
        raise ValueError(f"num_particles must be at least 1; got {num_particles}")
    if shrink_below is not None and not (0 <= shrink_below < 1 and is_gated(model)):
        raise ValueError(f"shrink_below must be in [0, 1), and the model around a sparse module; got {shrink_below}")
    _check_arguments(model, guide, train_loader)
    with pyro.get_param_store().scope(), deferred_interrupt() as interruption:
        objective = (elbo or ClosedFormKL_ELBO(num_particles=num_particles))(model, guide)
        _see_first_batch(guide, train_loader)
        if optimizer is None:
            groups = parameter_groups(objective, lr=lr, gate_lr=gate_lr, weight_decay=weight_decay)
            optimizer = torch.optim.Adam(groups, fused=True)
        run = _Run(objective, optimizer, None if checkpoint is None else Path(checkpoint), interruption)
        run.resume()
        bar = tqdm(total=epochs, initial=run.progress.epoch, unit="epoch", disable=not progress)
        with bar:
            while run.progress.epoch < epochs:
                row = run.train_epoch(train_loader)
                row |= _measure(model, guide, validation_loader)
                if shrink_below is not None:
                    run.shrink(shrink_below)
                run.finish_epoch(row)
                bar.set_postfix({k: f"{v:.4g}" for k, v in row.items() if k != "seconds"})
                bar.update()
    return FitResult(pd.DataFrame(run.progress.history), run.checkpoint)


class _Run:
    """The state of one run, epoch by epoch."""

    def __init__(
        self,
        elbo: nn.Module,
        optimizer: torch.optim.Optimizer,
        checkpoint: Path | None,
        interruption: Interruption,
    ) -> None:
        self._elbo = elbo
        self._optimizer = optimizer
        self._interruption = interruption
        self._checked = False
        self._modules = {name: elbo.get_submodule(name) for name in ("model", "guide")}
        self.checkpoint = checkpoint
        self.progress = Progress()

    def resume(self) -> None:
        if self.checkpoint is not None and self.checkpoint.exists():
            self.progress = load_checkpoint(self.checkpoint, self._modules, self._optimizer, self._as_small_as)

    def _as_small_as(self, progress: Progress) -> None:
        model, guide = self._modules.values()
        shrink_to(model, guide, self._optimizer, progress.units)  # type: ignore[arg-type] # a guide, as fit was given

    def _save(self) -> None:
        if self.checkpoint is not None:
            save_checkpoint(self.checkpoint, self._modules, self._optimizer, self.progress)

    def train_epoch(self, loader: Batches) -> dict[str, float]:
        """Trains for one epoch, or for the rest of the one that was interrupted."""
        self._elbo.train()
        done = self.progress
        batches = self._batches(loader)
        start = time.perf_counter() - done.sums.get("seconds", 0.0)
        for batch in batches:
            if not self._checked:
                _check_batch(self._elbo, batch)
                self._checked = True
            loss = self._step(batch)
            done.step += 1
            done.sums["rows"] = done.sums.get("rows", 0.0) + len(batch[0])
            done.sums["elbo"] = done.sums.get("elbo", 0.0) - loss
            done.sums["seconds"] = time.perf_counter() - start
            if self._interruption.requested:
                self._stop()
        if done.step == 0:
            raise DataError(f"train_loader is empty: it gave no batch in epoch {done.epoch + 1}")
        self._check_num_data(int(done.sums["rows"]))
        return {"elbo": done.sums["elbo"] / done.step, "seconds": done.sums["seconds"]}

    def _check_num_data(self, rows: int) -> None:
        """A wrong N would silently change what a code cost means; a dropped last batch does not matter."""
        num_data = getattr(self._modules["model"], "num_data", rows)
        if self.progress.epoch == 0 and not 0.1 * num_data <= rows <= num_data:
            warnings.warn(f"model.num_data is {num_data}, and train_loader gave {rows} rows in an epoch", stacklevel=3)

    def _batches(self, loader: Batches) -> Iterable[tuple[Tensor, ...]]:
        done = self.progress
        if done.step == 0:
            done.epoch_random = random_state()
            return iter(loader)
        now = random_state()
        set_random_state(done.epoch_random)
        rest = itertools.islice(iter(loader), done.step, None)
        first = next(rest, None)  # the order of data is drawn here
        set_random_state(now)
        return [] if first is None else itertools.chain([first], rest)

    def _step(self, batch: tuple[Tensor, ...]) -> float:
        self._optimizer.zero_grad()
        loss = self._elbo(*batch)
        value: float = loss.item()
        if not math.isfinite(value):
            saved = self.checkpoint is not None and self.checkpoint.exists()
            kept = f" The last good state is in {self.checkpoint}." if saved else ""
            raise DivergenceError(
                f"the loss became {value} in epoch {self.progress.epoch + 1}, step {self.progress.step + 1}.{kept} "
                "Lower lr or gate_lr"
            )
        loss.backward()
        self._optimizer.step()
        return value

    def shrink(self, closed_below: float) -> None:
        model, guide = self._modules.values()
        shrink(model, guide, self._optimizer, closed_below=closed_below)  # type: ignore[arg-type] # checked by fit
        self.progress.units = {name: units.tolist() for name, units in find_sparse(model).units.items()}

    def finish_epoch(self, row: dict[str, float]) -> None:
        done = self.progress
        done.epoch += 1
        done.step, done.sums = 0, {}
        done.history.append({"epoch": float(done.epoch), **row})
        done.epoch_random = random_state()
        self._save()
        if self._interruption.requested:
            self._stop()

    def _stop(self) -> None:
        self._save()
        where = (
            "no checkpoint was asked for; model and guide keep what they learned"
            if self.checkpoint is None
            else f"everything is in {self.checkpoint}; the same call with it goes on from there"
        )
        raise KeyboardInterrupt(f"stopped after {self.progress.epoch} epochs and {self.progress.step} steps: {where}")


def _check_arguments(model: Any, guide: Any, loader: Any) -> None:
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a module, such as Classifier or a PyroModule; got {type(model).__name__}")
    if not hasattr(loader, "__iter__") or isinstance(loader, Iterator):
        raise DataError(
            f"train_loader must be something to iterate over once an epoch, such as TensorBatches or a list of "
            f"batches; got {type(loader).__name__}"
        )
    if is_gated(model) and not hasattr(guide, "gates"):
        raise TypeError(
            f"guide must be a HardConcreteGuide for a model with a sparse network; got {type(guide).__name__}"
        )


def _see_first_batch(guide: Any, loader: Batches) -> None:
    """Creates the parameters of a guide that needs data to know the model's sites."""
    waits = isinstance(guide, AutoGuide) and guide.prototype_trace is None
    if not waits or any(True for _ in guide.parameters()):  # a loaded state brings parameters before the data
        return
    state = random_state()
    batch = next(iter(loader), None)
    if batch is None:
        raise DataError("train_loader is empty; give it at least one batch")
    with torch.no_grad():
        guide(*batch)
    set_random_state(state)


def _check_batch(objective: Any, batch: Any) -> None:
    """Runs model and guide once, to find what could never be trained; nothing is changed by it."""
    if not isinstance(batch, (tuple, list)):
        raise DataError(f"train_loader must give tuples of the model's arguments; got a {type(batch).__name__}")
    state = random_state()
    with evaluating(objective), poutine.trace(param_only=True) as capture:
        trace = poutine.trace(objective.guide).get_trace(*batch)
        poutine.replay(objective.model, trace=trace)(*batch)
    set_random_state(state)
    known = {id(parameter) for parameter in objective.parameters()}
    for name, site in capture.trace.nodes.items():
        value: Any = site["value"]
        if id(value.unconstrained()) not in known:
            raise ValueError(
                f"model: parameter {name!r} belongs to Pyro's global store and not to model or guide, so fit cannot "
                "train it. Make it a PyroParam or nn.Parameter of the module, or train with SVI"
            )


@torch.no_grad()
def _measure(model: nn.Module, guide: Any, validation_loader: Batches | None) -> dict[str, float]:
    row = {}
    if is_gated(model):
        row["expected_l0"] = expected_l0(model, guide)
        row["open_gates"] = float(sum(int((z != 0).sum()) for z in guide.point().values()))
    if validation_loader is not None and isinstance(model, Likelihood):
        row["validation_error"] = evaluate(model, guide, validation_loader)
    return row
