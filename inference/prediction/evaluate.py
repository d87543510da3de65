"""The error of a network on data."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from pyro import poutine
from torch import Tensor

from l0bayes.arguments import check_guide, checked
from l0bayes.checks import explained_types
from l0bayes.errors import DataError
from l0bayes.evaluating import evaluating
from l0bayes.find_sparse import find_sparse, is_gated
from l0bayes.inputs import Inputs
from l0bayes.models.likelihood import Likelihood
from l0bayes.models.own_loss import LossLikelihood
from l0bayes.threads import one_thread

_PAIR = 2
_ROWS = 4096


@checked
def evaluate(model: Likelihood, guide: Any, loader: Iterable[Any]) -> float:
    """Mean error of the network at the test-time gates; of one without gates, at the guide's medians.

    Args:
        model: a network with its likelihood.
        guide: its guide.
        loader: batches of inputs and targets, as for :func:`~l0bayes.inference.fit`.

    Returns:
        The mean of the likelihood's ``error`` over all rows: the share misclassified, or the mean squared error; of a
        :class:`~l0bayes.models.LossLikelihood` the loss, batches weighted by their rows.

    Raises:
        TypeError: if the model knows no error.
        DataError: if the loader is empty, or a batch is no pair of inputs and targets that suit the network.
    """
    return mean_error(model, guide, loader, "loader")


def mean_error(model: Likelihood, guide: Any, loader: Iterable[Any], argument: str) -> float:
    """What :func:`evaluate` returns, of a loader that the caller knows by another name."""
    if not isinstance(model, Likelihood):
        raise TypeError(f"model must be a Likelihood, such as Classifier; got {type(model).__name__}")
    total, rows = 0.0, 0
    for number, batch in enumerate(loader, 1):
        try:
            errors = _errors(model, guide, batch)
        except DataError as error:
            raise DataError(f"{argument}: in batch {number}: {error}") from error
        total += float(errors.sum())
        rows += len(errors)
    if rows == 0:
        raise DataError(f"{argument} is empty; give it at least one batch")
    return total / rows


def _errors(model: Likelihood, guide: Any, batch: Any) -> Tensor:
    """The error of each row, of targets that have one."""
    given: tuple[Any, ...] = (batch,) if isinstance(batch, Mapping) else batch
    if not _has_targets(model, given):
        got = len(given) if isinstance(given, tuple | list) and given is batch else type(batch).__name__
        raise DataError(
            f"it must be (x, y), inputs and targets, or a mapping with both, as {model.target!r}; got {got}"
        )
    if isinstance(model, LossLikelihood):
        inputs = model.with_targets(*given)
        loss = model.loss(_outputs(model, guide, inputs))
        return loss.expand(inputs.rows or 1)
    inputs, y = model.parts(*given)
    output = torch.cat([model.chosen(_outputs(model, guide, part)) for part in inputs.split(_ROWS, "x")])
    model.check_target(output, y)
    return model.error(output, y)


def _has_targets(model: Likelihood, given: Any) -> bool:
    """Whether the arguments of a model are inputs and targets, as two or in one mapping."""
    if not isinstance(given, tuple | list) or not 1 <= len(given) <= _PAIR:
        return False
    return len(given) == _PAIR or (isinstance(given[0], Mapping) and model.target in given[0])


def _outputs(model: Likelihood, guide: Any, inputs: Inputs) -> Any:
    """What the network returns at the test-time gates; one without gates, at the guide's medians."""
    with one_thread("evaluate"), evaluating(model), explained_types(model, inputs.tensors, "x"):
        if is_gated(model):
            check_guide(guide, "point")
            return find_sparse(model).run(guide.point(), *inputs.args, **inputs.kwargs)
        median = guide.median() if any(True for _ in guide.parameters()) else {}
        return inputs.call(poutine.condition(model.child("net"), data=median))
