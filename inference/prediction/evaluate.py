"""The error of a network on data."""

from collections.abc import Iterable
from typing import Any

from pyro import poutine
from torch import Tensor

from l0bayes.errors import DataError
from l0bayes.evaluating import evaluating
from l0bayes.find_sparse import is_gated
from l0bayes.inference.prediction.predict import predict
from l0bayes.models.likelihood import Likelihood


def evaluate(model: Likelihood, guide: Any, loader: Iterable[tuple[Tensor, ...]]) -> float:
    """Mean error of the network at the test-time gates; of one without gates, at the guide's medians.

    Args:
        model: a network with its likelihood.
        guide: its guide.
        loader: batches of inputs and targets.

    Returns:
        The mean of the likelihood's ``error`` over all rows: the share misclassified, or the mean squared error.

    Raises:
        DataError: if the loader is empty.
    """
    total, rows = 0.0, 0
    for x, y in loader:
        output = predict(model, guide, x) if is_gated(model) else _output_at_median(model, guide, x)
        total += float(model.error(output, y).sum())
        rows += len(x)
    if rows == 0:
        raise DataError("loader is empty; give it at least one batch")
    return total / rows


def _output_at_median(model: Likelihood, guide: Any, x: Tensor) -> Tensor:
    with evaluating(model):
        median = guide.median() if any(True for _ in guide.parameters()) else {}
        output: Tensor = poutine.condition(model.child("net"), data=median)(x)
    return output
