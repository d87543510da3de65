"""How a run moves its gates, phase by phase: what the loop of :func:`~l0bayes.inference.fit` asks at each step."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import nn  # noqa: TC002 (documented types)

from l0bayes.inference.objective.loss import Objective
from l0bayes.inference.training.fit_options import FitOptions
from l0bayes.inference.training.schedules import lr_factor

PhaseName = Literal["open", "selecting", "finishing", "drawn", "fixed", "plain"]
History = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Moment:
    """How far a run is.

    Attributes:
        epoch: epochs finished.
        step: steps done in the epoch after that.
        steps: an epoch has.
        history: a row for each epoch finished.
    """

    epoch: int
    step: int
    steps: int
    history: History = ()

    @property
    def epochs(self) -> float:
        """Epochs that are done, the one in progress in part."""
        return self.epoch + self.step / self.steps


@dataclass(frozen=True)
class Phase:
    """What holds for a step.

    Attributes:
        name: by evidence ``"open"``, all gates are, ``"selecting"`` and ``"finishing"``, on the compacted network; by
            svi ``"drawn"`` and ``"fixed"``; ``"plain"`` without gates.
        kl_weight: what the KL is multiplied by.
        lr_factor: what the learning rates that were given are multiplied by, but that of the gates.
    """

    name: PhaseName
    kl_weight: float
    lr_factor: float


class GatePlan(ABC):
    """What the gates do in each phase of a run.

    Args:
        objective: the loss of a batch, which a plan tells what stands in for draws of the gates.
        options: how to train.

    Attributes:
        stored: modules of the plan's own that belong in a checkpoint, by name.
        shapes_changed: called with the network that is trained from now on, when its parameters are others.
    """

    def __init__(self, objective: Objective, options: FitOptions) -> None:
        self.objective = objective
        self.options = options
        self.model: Any = objective.model
        self.guide: Any = objective.guide
        self.stored: dict[str, nn.Module] = {}
        self.shapes_changed: Callable[[nn.Module], None] = lambda _: None

    @abstractmethod
    def last_epoch(self, history: History) -> int:
        """Epochs after which the run is over, as far as can be told by now."""

    @abstractmethod
    def phase(self, now: Moment) -> Phase:
        """What holds for the next step of an epoch that has begun; nothing is changed by asking."""

    def _phase(self, name: PhaseName, now: Moment, kl_weight: float = 1.0) -> Phase:
        return Phase(name, kl_weight, lr_factor(self.options, now.epochs))

    @abstractmethod
    def begin_epoch(self, now: Moment) -> None:
        """Sets what holds for all steps of an epoch; a resumed epoch begins so too."""

    def begin_step(self, now: Moment, phase: Phase) -> None:  # noqa: B027 (most plans have nothing to do here, and below)
        """Moves the gates, where that is due before the next step, which is in a phase."""

    def end_step(self, now: Moment) -> None:  # noqa: B027
        """After a step, which is counted in ``now`` already."""

    def see_gradients(self, rows: int) -> None:  # noqa: B027
        """Between the backward pass of a step on so many data and the step itself."""

    def end_epoch(self, epoch: int) -> None:  # noqa: B027
        """After the steps of an epoch, before it is measured; so many are finished with it."""

    @property
    @abstractmethod
    def averages(self) -> bool:
        """Whether a moving average of what is trained may begin."""

    @property
    @abstractmethod
    def keeps_its_shape(self) -> bool:
        """Whether the network that is trained has the same shapes in every step."""

    def write_back(self) -> None:  # noqa: B027
        """Writes what was learned elsewhere into the model."""

    def finish(self) -> None:  # noqa: B027
        """After the last epoch of a run that was not interrupted."""

    def leads_through(self) -> bool:
        """Whether the network's outputs depend on its inputs by the gates alone, not by what ``min_units`` keeps."""
        return True

    def close(self) -> None:  # noqa: B027
        """Leaves model and optimizer as they are outside of runs."""

    def state(self) -> dict[str, Any]:
        """What a checkpoint notes of the plan, as JSON."""
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:  # noqa: B027
        """Takes up what :meth:`state` told, before modules and optimizer are loaded."""
