"""Predictors and responses of a regression: read from whatever they come in, checked, and centred."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.distributions import Beta

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
        offset: what is known of the linear predictor of each row, of shape ``(n,)``; ``None`` if nothing is. Of
            Gaussian responses it was taken off them.
    """

    x: Tensor
    y: Tensor
    x_mean: Tensor
    y_mean: float
    names: tuple[str, ...]
    offset: Tensor | None = None

    @property
    def observed(self) -> tuple[np.ndarray, np.ndarray]:
        """Predictors and responses, but for an offset taken off, as they were given."""
        return (self.x + self.x_mean).numpy(), (self.y + self.y_mean).numpy()


@dataclass(frozen=True)
class Parts:
    """What a regression consists of inside, in float64.

    Attributes:
        x: centred and scaled columns, of shape ``(n, p)``.
        y: responses as given.
        x_mean: means of the columns.
        spread: their standard deviations.
        gate_of: for each column the number of its gate.
        inclusion: prior probabilities of the gates, or the Beta prior of the one that all share.
        offset: known parts of the linear predictors, of shape ``(n,)``.
    """

    x: Tensor
    y: Tensor
    x_mean: Tensor
    spread: Tensor
    gate_of: Tensor
    inclusion: Tensor | Beta
    offset: Tensor


def read_regression_data(X: Any, y: Any) -> RegressionData:  # noqa: N803
    """Reads and checks data.

    Args:
        X: predictors, of shape ``(n, p)``: an array, a tensor, a sparse matrix of SciPy's, or a data frame, whose
            columns have names.
        y: responses, of shape ``(n,)``. A series beside a data frame goes by its index, in whatever order it is.

    Returns:
        The data, centred.

    Raises:
        DataError: if they are not numbers, not finite, of shapes that do not go together, or a column is constant; or
            if the indices of ``X`` and ``y`` differ.
    """
    y = aligned("y", X, y)
    names = tuple(map(str, X.columns)) if isinstance(X, pd.DataFrame) else None
    x, response = read_numbers("X", X), read_numbers("y", y)
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


def read_offset(X: Any, offset: Any, exposure: Any, rows: int) -> Tensor | None:  # noqa: N803
    """Known parts of linear predictors: an offset, and the logarithm of an exposure.

    Args:
        X: predictors; values with an index go by theirs.
        offset: of each row, or ``None``.
        exposure: of each row, > 0, or ``None``.
        rows: how many there must be.

    Raises:
        DataError: if they are not finite numbers, of another shape, or an exposure is not positive.
    """
    total = None
    for name, values in (("offset", offset), ("exposure", exposure)):
        if values is None:
            continue
        read = read_numbers(name, aligned(name, X, values))
        if read.shape != (rows,):
            raise DataError(f"{name} must be of shape ({rows},), a number for each row; got {tuple(read.shape)}")
        if name == "exposure":
            if float(read.min()) <= 0:
                raise DataError(f"exposure must be > 0; got {float(read.min())}. Leave out rows that were not exposed")
            read = read.log()
        total = read if total is None else total + read
    return total


def aligned(name: str, x: Any, values: Any) -> Any:
    """Values in the order of the rows, where both have an index."""
    indexed = isinstance(x, pd.DataFrame) and isinstance(values, pd.Series)
    if not indexed or len(x) != len(values) or x.index.equals(values.index):
        return values
    by_position = f"To go by position, pass {name}.to_numpy()"
    if not (x.index.is_unique and values.index.is_unique):
        raise DataError(f"{name}: its index differs from that of X, and labels occur more than once. {by_position}")
    if len(missing := x.index.difference(values.index)):
        raise DataError(
            f"{name}: its index lacks {missing[0]!r}, a row of X. Align them, as by {name}.loc[X.index]. {by_position}"
        )
    return values.loc[x.index]


def read_numbers(name: str, values: Any) -> Tensor:
    """Finite numbers in float64 from whatever they come in.

    Args:
        name: of the argument.
        values: an array, a tensor, a data frame.

    Raises:
        DataError: if they are none.
    """
    if hasattr(values, "toarray"):  # a sparse matrix: centred columns are dense anyway
        values = values.toarray()
    try:
        array = np.array(values.detach().cpu().numpy() if isinstance(values, Tensor) else values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise DataError(
            f"{name} must hold numbers only: {error}. Encode categories first, as read_formula does"
        ) from error
    if not np.isfinite(array).all():
        where = tuple(int(i) for i in np.argwhere(~np.isfinite(array))[0])
        raise DataError(f"{name} must be finite; {array[where]} at {where}. Remove those rows or impute them")
    return torch.as_tensor(array)


def check_response(data: RegressionData, likelihood: str) -> None:
    """Raises :class:`~l0bayes.errors.DataError` unless the responses suit the likelihood."""
    y = data.y + data.y_mean
    rounded = y.round()
    whole = bool(((y - rounded).abs() < 1e-9).all())  # noqa: PLR2004 (they were centred)
    if likelihood == "gaussian" and float(data.y.abs().max()) == 0:
        raise DataError("y is constant; there is nothing to explain")
    if likelihood == "bernoulli" and not (whole and set(rounded.tolist()) == {0.0, 1.0}):
        raise DataError("y must hold 0 and 1, and both, for likelihood='bernoulli'. Code two classes so")
    if likelihood == "poisson" and not (whole and float(rounded.min()) >= 0 and float(rounded.max()) > 0):
        raise DataError("y must hold counts, 0, 1, 2, … and not only 0, for likelihood='poisson'")


def read_groups(names: Sequence[str], groups: Sequence[Any] | None) -> tuple[tuple[str, ...], Tensor]:
    """Names of the groups, and for each column the number of its group."""
    if groups is None:
        return tuple(names), torch.arange(len(names))
    if isinstance(groups, Mapping | str) or len(groups) != len(names):
        raise ValueError(f"groups must name a group for each of the {len(names)} columns; got {groups!r}")
    known = tuple(dict.fromkeys(map(str, groups)))
    return known, torch.tensor([known.index(str(group)) for group in groups])
