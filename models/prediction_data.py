"""New rows of predictors for a regression that was fitted: read, checked, and in the order of its columns."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from l0bayes.errors import DataError
from l0bayes.models.regression_data import read_numbers


def read_new_rows(X_new: Any, names: Sequence[str]) -> tuple[np.ndarray, pd.Index | None]:  # noqa: N803
    """Reads new rows.

    Args:
        X_new: of shape ``(rows, p)``; the columns of a data frame are found by their names, in any order.
        names: of the columns of the regression.

    Returns:
        The rows, and their index, if they have one.

    Raises:
        DataError: if columns are missing, or they are not finite numbers.
    """
    index = None
    if isinstance(X_new, pd.DataFrame):
        known = X_new.set_axis([str(name) for name in X_new.columns], axis=1)
        if missing := [name for name in names if name not in known.columns]:
            raise DataError(f"X_new lacks column {missing[0]!r}; it needs {', '.join(names)}")
        X_new, index = known[list(names)], X_new.index  # noqa: N806
    x = read_numbers("X_new", X_new)
    if x.dim() != 2 or x.shape[1] != len(names):  # noqa: PLR2004
        raise DataError(f"X_new must be of shape (rows, {len(names)}); got {tuple(x.shape)}")
    return x.numpy(), index
