"""What all methods of the comparison share: one loop of training, and how a network's size is counted."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from comparison.tasks import Data, Task
from l0bayes import sparsify
from l0bayes.inference import FitOptions, HardConcreteGuide, TensorBatches, fit
from l0bayes.models import Classifier
from l0bayes.posterior.cost import cost
from l0bayes.subnetwork.compacted import compact_network

HALVINGS = 12  # of an interval, in search of a size


@dataclass
class Finished:
    """A trained network.

    Attributes:
        net: the network.
        opened: group name to which units of the full network it has, where that can be said.
        weights: that are not zero, for networks that are sparse and not small.
        share: what they are of the full network's.
    """

    net: nn.Module
    opened: Mapping[str, Tensor] | None = None
    weights: int | None = None
    share: float | None = None


@dataclass(frozen=True)
class Job:
    """One training run of a method.

    Attributes:
        task: what every method is given.
        data: its parts.
        found: group name to which units l0bayes left open from the same seed, for what takes its widths.
        checkpoint: a file that a run which was stopped resumes from, if one is kept; for runs of one stage.
    """

    task: Task
    data: Data
    found: Mapping[str, Tensor] = field(default_factory=dict)
    checkpoint: Path | None = None

    @property
    def example(self) -> Tensor:
        """Two images."""
        return self.data.train.x[:2]

    @property
    def steps(self) -> int:
        """Of all epochs."""
        return self.task.options.epochs * len(self.task.batches(self.data.train))


def trained(
    job: Job,
    net: nn.Module,
    options: FitOptions | None = None,
    after_step: Callable[[int], None] | None = None,
) -> nn.Module:
    """A plain network, trained by the same loop, on the same schedule, as everything else here.

    Args:
        job: what is trained on.
        net: the network, trained in place.
        options: others than the task's.
        after_step: told the number of each step once it is done.
    """
    model = Classifier(net, num_data=len(job.data.train))
    guide, loader = HardConcreteGuide(model), job.task.batches(job.data.train)
    checkpoint = job.checkpoint if options is None and after_step is None else None
    batches = loader if after_step is None else _Followed(loader, after_step)
    fit(model, guide, batches, options=options or job.task.options, checkpoint=checkpoint, progress=False)
    return net


class _Followed:
    """Batches, of which each is followed by a call once the step with it is done, when the next one is asked for."""

    def __init__(self, batches: TensorBatches, after_step: Callable[[int], None]) -> None:
        self._batches, self._after_step = batches, after_step
        self._steps = 0

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for batch in self._batches:
            yield batch
            self._steps += 1
            self._after_step(self._steps)


def share_of(task: Task, small: nn.Module, full: nn.Module, example: Tensor) -> float:
    """What a network has of the full one's parameters, or MACs, as the target counts."""
    of = "parameters" if task.target.of == "parameters" else "macs"
    kept, whole = (getattr(cost(net, example), of) for net in (small, full))
    return float(kept / whole)


def uniform(task: Task, example: Tensor) -> dict[str, Tensor]:
    """The same share of every layer's units, the largest under which the target is met; the data are taken whole."""
    full = task.build()
    groups = sparsify(full, example, gates=task.gates).groups

    def units(share: float) -> dict[str, Tensor]:
        inputs = {group.name for group in groups if all(part.consumes for part in group.slices)}
        kept = {g.name: g.size if g.name in inputs else max(1, round(share * g.size)) for g in groups}
        return {group.name: torch.arange(group.size) < kept[group.name] for group in groups}

    low, high = 0.0, 1.0
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        small = compact_network(full, groups, _floats(units(middle)))
        low, high = (middle, high) if share_of(task, small, full, example) <= task.target.share else (low, middle)
    return units(low)


def _floats(opened: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: gates.float() for name, gates in opened.items()}


def with_units(task: Task, net: nn.Module, opened: Mapping[str, Tensor], example: Tensor) -> nn.Module:
    """A network with some of its units, their weights as they are."""
    return compact_network(net, sparsify(net, example, gates=task.gates).groups, _floats(opened))
