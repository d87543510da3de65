"""Predictors and responses of a regression: read from whatever they come in, checked, and centred."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from l0bayes.errors import DataError

_CONSTANT = 1e-12  # spread of a column, relative to its size, below which it is constant


@dataclass(frozen=True)
class RegressionData:
    """Centred data.

    Attributes:
        x: predictors, of shape ``(n, p)``, each column with mean 0; float64.
        y: responses, of shape ``(n,)``, with mean 0; float64.
        x_mean: what was taken off the columns, of shape ``(p,)``.
        y_mean: what was taken off the responses.
        names: of the columns.
    """

    x: Tensor
    y: Tensor
    x_mean: Tensor
    y_mean: float
    names: tuple[str, ...]


def read_regression_data(X: Any, y: Any) -> RegressionData:  # noqa: N803
    """Reads and checks data.

    Args:
        X: predictors, of shape ``(n, p)``: an array, a tensor or a data frame, whose columns have names.
        y: responses, of shape ``(n,)``.

    Returns:
        The data, centred.

    Raises:
        DataError: if they are not numbers, not finite, of shapes that do not go together, or a column is constant.
    """
    names = tuple(map(str, X.columns)) if isinstance(X, pd.DataFrame) else None
    x, response = _floats("X", X), _floats("y", y)
    if x.dim() != 2 or 0 in x.shape:  # noqa: PLR2004
        raise DataError(f"X must be of shape (rows, predictors), with at least one of each; got {tuple(x.shape)}")
    if response.shape != x.shape[:1]:
        raise DataError(
            f"y must be of shape {tuple(x.shape[:1])}, a response for each row; got {tuple(response.shape)}"
        )
    names = names or tuple(f"x{j}" for j in range(x.shape[1]))
    means = x.mean(0)
    centred = x - means
    spread = centred.abs().amax(0)
    for j, name in enumerate(names):
        if spread[j] <= _CONSTANT * x[:, j].abs().max():
            raise DataError(f"X: column {name!r} is constant; leave it out, the intercept is there anyway")
    return RegressionData(centred, response - response.mean(), means, float(response.mean()), names)


def _floats(name: str, values: Any) -> Tensor:
    try:
        array = np.array(values.detach().cpu().numpy() if isinstance(values, Tensor) else values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise DataError(f"{name} must hold numbers only: {error}. Encode categories first") from error
    if not np.isfinite(array).all():
        where = tuple(int(i) for i in np.argwhere(~np.isfinite(array))[0])
        raise DataError(f"{name} must be finite; {array[where]} at {where}. Remove those rows or impute them")
    return torch.as_tensor(array)
