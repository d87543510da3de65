"""Input validation of a run of training: what is refused before it begins."""

import inspect
import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from pyro import poutine
from pyro.infer.autoguide import AutoGuide
from pyro.poutine.util import site_is_subsample
from torch import Tensor, nn

from l0bayes.checks import explained_types
from l0bayes.compat import tree_leaves
from l0bayes.errors import DataError
from l0bayes.evaluating import evaluating
from l0bayes.find_sparse import is_gated
from l0bayes.inference.data.loaders import arguments_of, first_batch, length, own_generators
from l0bayes.inference.guide.bound_to_model import check_belongs
from l0bayes.inference.prediction.evaluate import mean_error
from l0bayes.inference.size.target import Target
from l0bayes.inference.system.random_state import random_state, set_random_state
from l0bayes.inference.training.fit_options import FitOptions
from l0bayes.models.likelihood import Likelihood
from l0bayes.models.own_loss import LossLikelihood


def check_kinds(model: Any, guide: Any, loader: Any, targets: Sequence[Any]) -> None:
    """Raises where an argument of ``fit`` is not the kind of thing it should be."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a module, such as Classifier or a PyroModule; got {type(model).__name__}")
    _check_loader("train_loader", loader)
    if is_gated(model) and not hasattr(guide, "gates"):
        raise TypeError(
            f"guide must be a HardConcreteGuide for a model with a sparse network; got {type(guide).__name__}"
        )
    check_belongs(model, guide)
    for target in targets:
        if not isinstance(target, Target):
            raise TypeError(f"target must be a Target, such as Target(0.1); got {target!r}")


def _check_loader(name: str, loader: Any) -> None:
    if not hasattr(loader, "__iter__") or isinstance(loader, Iterator | Tensor | type):
        raise DataError(
            f"{name} must be something to iterate over once an epoch, such as TensorBatches or a list of batches; got "
            f"{type(loader).__name__}"
        )


def check_validation(model: Any, guide: Any, loader: Any) -> None:
    """Raises unless the model has an error on the first batch of ``validation_loader``; nothing is changed by it."""
    if loader is None:
        return
    _check_loader("validation_loader", loader)
    if not isinstance(model, Likelihood):
        raise TypeError(
            f"validation_loader needs a model such as Classifier that knows an error; got {type(model).__name__}"
        )
    own = own_generators(loader)
    state = random_state(own)
    mean_error(model, guide, itertools.islice(loader, 1), "validation_loader")
    set_random_state(state, own)


def check_options(
    model: Any, loader: Any, validation: Any, options: FitOptions, *, targets: bool, own_elbo: bool
) -> None:
    """Raises where options of ``fit`` ask for what model, loaders or ELBO do not have."""
    if own_elbo and (options.antithetic or options.num_particles > 1):
        raise ValueError("antithetic and num_particles are options of the default ELBO; give them to elbo itself")
    for name in ("shrink_below", "round_to", "masked"):
        value = getattr(options, name)
        if value != getattr(FitOptions, name) and not is_gated(model):
            raise ValueError(f"{name}={value} needs a network made by sparsify; the model has none")
    if options.patience is not None and (validation is None or not isinstance(model, Likelihood)):
        raise ValueError("patience needs a validation_loader, and a model such as Classifier that knows an error")
    if (options.fine_tune or targets) and not is_gated(model):
        raise ValueError("fine_tune and target need a network made by sparsify; the model has none")
    if (options.kl_warmup or targets) and length(loader) is None:
        raise DataError("train_loader must have a length for kl_warmup and target, which go by the share of a run done")


def check_teacher(teacher: nn.Module, model: Any) -> Likelihood:
    """The model as one that a teacher can teach; raises where either cannot."""
    if not isinstance(model, Likelihood) or isinstance(model, LossLikelihood):
        raise TypeError(
            f"teacher is for a model that knows its observations, such as Classifier; got {type(model).__name__}"
        )
    mine = {id(parameter) for parameter in model.parameters()}
    if any(id(parameter) in mine for parameter in teacher.parameters()):
        raise ValueError("teacher has parameters of the model that is trained; give a copy, by copy.deepcopy")
    return model


def check_optimizer(optimizer: Any, objective: nn.Module, options: FitOptions) -> None:
    """Raises unless a user's own optimizer trains all there is, by its own settings alone."""
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise TypeError(f"optimizer must be a torch.optim.Optimizer, adam or sgd; got {type(optimizer).__name__}")
    known = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    left = [name for name, value in objective.named_parameters() if value.requires_grad and id(value) not in known]
    if left:
        raise ValueError(
            f"optimizer leaves out {', '.join(left[:3])}{' and others' if len(left) > 3 else ''}. Build it on "  # noqa: PLR2004
            "parameter_groups(nn.ModuleList([model, guide])); what is to stay as it is has requires_grad_(False)"
        )
    usual = FitOptions()
    for name in ("lr", "gate_lr", "weight_decay", "momentum"):
        if (value := getattr(options, name)) != getattr(usual, name):
            raise ValueError(f"{name}={value} is not for an optimizer of one's own; set it there")


def see_first_batch(guide: Any, loader: Iterable[Any]) -> None:
    """Creates the parameters of a guide that needs data to know the model's sites."""
    waits = isinstance(guide, AutoGuide) and guide.prototype_trace is None
    if not waits or any(True for _ in guide.parameters()):  # a loaded state brings parameters before the data
        return
    batch, state = arguments_of(first_batch(loader)), random_state()
    with torch.no_grad():
        guide(*batch)
    set_random_state(state)


def check_batch(objective: Any, batch: Any) -> None:
    """Runs model and guide once, to find what could never be trained; nothing is changed by it."""
    _check_number(objective.model, batch)
    state = random_state()
    device = next((parameter.device.type for parameter in objective.parameters()), "cpu")
    with (
        evaluating(objective),
        explained_types(objective, tree_leaves(batch), "train_loader"),
        torch.autocast(device, torch.bfloat16, enabled=objective.bf16),
        poutine.trace(param_only=True) as capture,
    ):
        trace = poutine.trace(objective.guide).get_trace(*batch)
        drawn = poutine.trace(poutine.replay(objective.model, trace=trace)).get_trace(*batch)
    set_random_state(state)
    if not any(not site_is_subsample(drawn.nodes[name]) for name in drawn.observation_nodes):
        raise DataError(
            f"model observes nothing in a batch of {len(batch)}: it needs a likelihood, such as Classifier(network, "
            "num_data=N), and train_loader its targets too, (x, y)"
        )
    known = {id(parameter) for parameter in objective.parameters()}
    for name, site in capture.trace.nodes.items():
        value: Any = site["value"]
        if id(value.unconstrained()) not in known:
            raise ValueError(
                f"model: parameter {name!r} belongs to Pyro's global store and not to model or guide, so fit cannot "
                "train it. Make it a PyroParam or nn.Parameter of the module, or train with SVI"
            )


def _check_number(model: Any, batch: Sequence[Any]) -> None:
    signature = inspect.signature(model.forward)
    try:
        signature.bind(*batch)
    except TypeError as error:
        raise DataError(
            f"train_loader gives {len(batch)} values a batch, and the model takes {signature}: {error}"
        ) from error
