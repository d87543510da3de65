"""Tools of one's own beside a run: what they are told, and how they end it."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import nn

from l0bayes.errors import ArgumentError
from l0bayes.inference.system.processes import Processes


class Run:
    """How far a run is, as callbacks see it.

    Attributes:
        model: the model.
        guide: its guide.
        epoch: epochs that are done.
        step: steps that are done in the epoch after that; 0 between epochs.
        phase: what the gates do: by evidence ``"open"``, ``"selecting"`` or ``"finishing"``; by svi ``"drawn"`` or
            ``"fixed"``; ``"plain"`` without gates.
        measured: of a step its ``elbo``, in nats over the data set; of an epoch the row of the history, see
            :class:`~l0bayes.inference.FitResult`.
        stopped: why the run ends after this epoch, if a callback has said so.
    """

    def __init__(self, model: nn.Module, guide: nn.Module) -> None:
        self.model = model
        self.guide = guide
        self.epoch = 0
        self.step = 0
        self.phase = ""
        self.measured: Mapping[str, Any] = {}
        self.stopped: str | None = None

    def stop(self, reason: str = "a callback asked for it") -> None:
        """Ends the run after the epoch in progress, as if it had been the last."""
        self.stopped = reason


class Callback:
    """Is told of a run. Override what is of interest; an error that is raised ends the run and reaches the caller.

    In several processes only the first calls its callbacks, and a stop counts for all.
    """

    def on_start(self, run: Run) -> None:
        """Before the first step, of a run that was resumed too."""

    def on_step(self, run: Run) -> None:
        """After each step."""

    def on_epoch(self, run: Run) -> None:
        """After each epoch, once it was measured and its checkpoint written."""

    def on_end(self, run: Run) -> None:
        """After the last epoch, and after an error or an interruption."""


class Function(Callback):
    """A function that is called after each epoch.

    Args:
        function: takes a :class:`Run`.
    """

    def __init__(self, function: Callable[[Run], Any]) -> None:
        self._function = function

    def on_epoch(self, run: Run) -> None:
        """Calls it."""
        self._function(run)


class Callbacks:
    """All callbacks of a run, called in their order.

    Args:
        given: callbacks, or functions to call after each epoch.
        run: what they are told.
        first: callbacks that are called before those.

    Raises:
        ArgumentError: if one is neither.
    """

    def __init__(
        self, given: Sequence[Callback | Callable[[Run], Any]], run: Run, first: Sequence[Callback] = ()
    ) -> None:
        self.run = run
        self._all = [*first, *(_as_callback(one) for one in _as_sequence(given))]
        self._processes = Processes()
        self._started = False

    @property
    def _called(self) -> list[Callback]:
        return self._all if self._processes.first else []

    def start(self, epoch: int, processes: Processes) -> None:
        """Tells them that the run begins, after so many epochs; in the first process alone, here and below."""
        self._processes, self._started = processes, True
        self.run.epoch = epoch
        for one in self._called:
            one.on_start(self.run)

    def step(self, epoch: int, step: int, phase: str, elbo: float) -> None:
        """Tells them of a step."""
        if self._called:
            self._see(epoch, step, phase, {"elbo": elbo})
        for one in self._called:
            one.on_step(self.run)

    def epoch(self, row: Mapping[str, Any]) -> None:
        """Tells them of an epoch, by its row of the history."""
        self._see(int(row["epoch"]), 0, str(row["phase"]), dict(row))
        for one in self._called:
            one.on_epoch(self.run)
        if self._all and self._processes.of_first(float(self.run.stopped is not None)) and self.run.stopped is None:
            self.run.stop()  # the reason is known to the first alone

    @property
    def stopped(self) -> bool:
        """Whether the run ends, in all processes."""
        return self.run.stopped is not None

    def end(self) -> None:
        """Tells those that it is over that were told of its beginning."""
        for one in self._called if self._started else []:
            one.on_end(self.run)

    def _see(self, epoch: int, step: int, phase: str, measured: Mapping[str, Any]) -> None:
        self.run.epoch, self.run.step, self.run.phase, self.run.measured = epoch, step, phase, measured


def _as_sequence(given: Any) -> Sequence[Any]:
    if isinstance(given, Sequence) and not isinstance(given, str):
        return given
    raise ArgumentError(f"callbacks must be a list; got {given!r}. For one, give [it]")


def _as_callback(one: Any) -> Callback:
    if isinstance(one, Callback):
        return one
    if isinstance(one, type) or not callable(one):
        raise ArgumentError(
            f"callbacks must be Callback objects, or functions of a Run to call after each epoch; got {one!r}"
        )
    return Function(one)
