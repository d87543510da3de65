"""The error of a network on data."""

from collections.abc import Iterable
from typing import Any

from pyro import poutine
from torch import Tensor

from l0bayes.arguments import checked
from l0bayes.checks import check_inputs, explained_types
from l0bayes.errors import DataError
from l0bayes.evaluating import evaluating
from l0bayes.find_sparse import is_gated
from l0bayes.inference.prediction.predict import predict
from l0bayes.models.likelihood import Likelihood
from l0bayes.threads import one_thread

_PAIR = 2


@checked
def evaluate(model: Likelihood, guide: Any, loader: Iterable[tuple[Tensor, ...]]) -> float:
    """Mean error of the network at the test-time gates; of one without gates, at the guide's medians.

    Args:
        model: a network with its likelihood.
        guide: its guide.
        loader: batches of inputs and targets.

    Returns:
        The mean of the likelihood's ``error`` over all rows: the share misclassified, or the mean squared error.

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
    if not isinstance(batch, (tuple, list)) or len(batch) != _PAIR:
        got = len(batch) if isinstance(batch, (tuple, list)) else type(batch).__name__
        raise DataError(f"it must be (x, y), inputs and targets; got {got}")
    x, y = batch
    check_inputs(x)
    output = predict(model, guide, x) if is_gated(model) else _output_at_median(model, guide, x)
    model.check_target(output, y)
    return model.error(output, y)


def _output_at_median(model: Likelihood, guide: Any, x: Tensor) -> Tensor:
    with one_thread("evaluate"), evaluating(model), explained_types(model, [x], "x"):
        median = guide.median() if any(True for _ in guide.parameters()) else {}
        output: Tensor = poutine.condition(model.child("net"), data=median)(x)
    return output
