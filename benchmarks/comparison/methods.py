"""What a user would do instead, and ours: each method gives a plain network of the size that was asked for."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from comparison.paper import has_recipe, paper
from comparison.pruning import fisher, group_sparsity, has_scales, magnitude, slimming, taylor
from comparison.tasks import Task
from comparison.training import Finished, Job, trained, uniform, with_units
from comparison.weights import gradual, lottery, soft_threshold
from l0bayes import compact, sparsify
from l0bayes.inference import FitOptions, HardConcreteGuide, fit
from l0bayes.models import Classifier


def dense(job: Job) -> Finished:
    """The full network."""
    return Finished(trained(job, job.task.build()))


def thin(job: Job) -> Finished:
    """A network with fewer units, the same share in every layer, from scratch."""
    net = with_units(job.task, job.task.build(), uniform(job.task, job.example), job.example)
    job.task.initialise(net)
    return Finished(trained(job, net))


def found_from_scratch(job: Job) -> Finished:
    """The widths that ours found, from scratch."""
    net = with_units(job.task, job.task.build(), job.found, job.example)
    job.task.initialise(net)
    return Finished(trained(job, net))


def ticket(job: Job) -> Finished:
    """The units that ours found, with the weights that they started from."""
    return Finished(trained(job, with_units(job.task, job.task.build(), job.found, job.example)))


def ours(job: Job) -> Finished:
    """The library with its defaults."""
    return _gated(job, job.task.options)


def taught(job: Job) -> Finished:
    """The same, with the full network, trained as long before, as its teacher."""
    return _gated(job, job.task.options, teacher=trained(job, job.task.build(), job.task.options))


def svi(job: Job) -> Finished:
    """Gates drawn and moved by their gradients to the same target; fixed in the last quarter of the epochs."""
    epochs = job.task.options.epochs
    late = max(1, epochs // 4)
    return _gated(job, job.task.options.changed(selection="svi", epochs=epochs - late, fine_tune=late))


def _gated(job: Job, options: FitOptions, teacher: nn.Module | None = None) -> Finished:
    task = job.task
    model = Classifier(sparsify(task.build(), job.example, gates=task.gates), num_data=len(job.data.train))
    guide, loader = HardConcreteGuide(model), task.batches(job.data.train)
    kept = {"checkpoint": job.checkpoint, "teacher": teacher}
    fit(model, guide, loader, target=task.target, options=options, progress=False, **kept)
    opened = {name: gates != 0 for name, gates in guide.point().items()}
    return Finished(compact(model, guide), opened)


def _always(_: Task) -> bool:
    return True


@dataclass(frozen=True)
class Method:
    """A row of the comparison.

    Attributes:
        title: what tables and pictures call it.
        run: trains a network.
        follows_ours: whether it takes what l0bayes found from the same seed.
        suits: whether it can be applied to a task.
    """

    title: str
    run: Callable[[Job], Finished]
    follows_ours: bool = False
    suits: Callable[[Task], bool] = _always


METHODS = {
    "dense": Method("dense", dense),
    "thin": Method("thin, from scratch", thin),
    "magnitude": Method("Torch-Pruning, magnitude", magnitude),
    "taylor": Method("Torch-Pruning, Taylor", taylor),
    "fisher": Method("Torch-Pruning, Fisher", fisher),
    "group-lasso": Method("Torch-Pruning, group sparsity", group_sparsity),
    "slimming": Method("Torch-Pruning, network slimming", slimming, suits=has_scales),
    "l0bayes": Method("l0bayes", ours),
    "taught": Method("l0bayes, with the dense network as teacher", taught),
    "widths": Method("widths of l0bayes, from scratch", found_from_scratch, follows_ours=True),
    "ticket": Method("units of l0bayes, rewound", ticket, follows_ours=True),
    "svi": Method("l0bayes, drawn gates (svi)", svi),
    "paper": Method("the paper's settings", paper, suits=has_recipe),
    "gradual": Method("single weights, gradual magnitude", gradual),
    "str": Method("single weights, STR", soft_threshold),
    "lottery": Method("single weights, lottery ticket (4 × the epochs)", lottery),
}
