"""Louizos, Welling and Kingma 2018 (arXiv 1712.01312), with their settings: a price for parameters, and no size.

Their gates and accounting, λ = 0.1/N on the mean loss, one constant rate of Adam for weights and gates, as in
``configs/paper-lenet5.yaml`` and ``paper-mlp.yaml``; data, augmentation and epochs are those of the comparison.
"""

from typing import Any

from comparison.tasks import Task
from comparison.training import Finished, Job
from l0bayes import compact, sparsify
from l0bayes.inference import FitOptions, HardConcreteGuide, fit
from l0bayes.models import MLP, Classifier, LeNet5

_CODE_COST = 0.1  # nats a parameter
_RATE = 1e-3
_OPEN, _OPEN_PIXELS = 0.832, 0.952  # P(z ≠ 0) where dropout rates of 0.5, and of 0.2 for pixels, put log α
_INPUTS = {"gates": "input", "init_open": _OPEN}

_RECIPES: dict[type, tuple[dict[str, Any], float | None]] = {  # gates, and the decay of the moving average
    LeNet5: ({"conv*": {"gates": "unit", "init_open": _OPEN}, "fc*": _INPUTS}, None),
    MLP: ({"fc1": {"gates": "input", "init_open": _OPEN_PIXELS}, "fc[23]": _INPUTS}, 0.999),
}


def has_recipe(task: Task) -> bool:
    """Whether the paper trains this network."""
    return type(task.build()) in _RECIPES


def paper(job: Job) -> Finished:
    """The network that the paper's recipe arrives at, of whatever size."""
    net = job.task.build()
    gates, decay = _RECIPES[type(net)]
    sparse = sparsify(net, job.example, gates=gates, code_cost=_CODE_COST, cost="paper")
    model = Classifier(sparse, num_data=len(job.data.train))
    guide, loader = HardConcreteGuide(model), job.task.batches(job.data.train)
    options = FitOptions(
        epochs=job.task.options.epochs, lr=_RATE, gate_lr=_RATE, schedule="constant", ema=decay, selection="svi"
    )
    fit(model, guide, loader, options=options, checkpoint=job.checkpoint, progress=False)
    return Finished(compact(model, guide), {name: gates != 0 for name, gates in guide.point().items()})
