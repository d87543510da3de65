"""Formulas, such as ``y ~ a * b + C(c)``: columns, responses, and one gate for each term."""

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pandas as pd

from l0bayes.arguments import checked
from l0bayes.errors import DataError


@dataclass(frozen=True)
class Formula:
    """What a formula says of data.

    Attributes:
        X: columns without the intercept, named, of shape ``(n, p)``.
        y: responses.
        groups: for each column its term: all columns of a category have one gate, and so have those of an interaction.
        parents: for each interaction the terms of the formula that are part of it, for heredity.
    """

    X: pd.DataFrame
    y: pd.Series
    groups: list[str]
    parents: dict[str, list[str]]
    _spec: Any

    def rows(self, data: pd.DataFrame) -> pd.DataFrame:
        """The columns of new data, with the categories and transformations of the old, for ``predict``.

        Raises:
            DataError: if a variable is missing or has missing values, or a category was not there before.
        """
        with _as_data_errors("data does not suit the formula"):
            matrix = self._spec.get_model_matrix(data, na_action="raise")
        return pd.DataFrame(matrix).drop(columns="Intercept")


@checked
def read_formula(formula: str, data: pd.DataFrame, context: Mapping[str, Any] | None = None) -> Formula:
    """Reads a formula by formulaic, ``pip install formulaic``.

    An intercept is always there, and not among the columns; categories have a column for each level but the first.

    Args:
        formula: with responses on its left, such as ``"y ~ a * b + C(c) + poly(d, 2)"``.
        data: a frame with the variables.
        context: functions and values that the formula names, beside those that formulaic knows.

    Returns:
        Columns, responses and groups, as ``SpikeSlabRegression(it.X, it.y, groups=it.groups)`` takes them; with
        ``parents=it.parents`` interactions need what they consist of.

    Raises:
        ImportError: if formulaic is not installed.
        DataError: if the formula cannot be read, or variables are missing or have missing values.
    """
    try:
        import formulaic  # noqa: PLC0415 (an extra, and import l0bayes must do without)
    except ImportError as error:
        raise ImportError("read_formula needs formulaic: pip install 'l0bayes[formula]'") from error
    if "~" not in formula:
        raise DataError(f"formula must have responses on its left, as in 'y ~ a + b'; got {formula!r}")
    with _as_data_errors(f"formula: {formula!r} does not suit data"):
        matrices = formulaic.model_matrix(formula, data, context=dict(context or {}), na_action="raise")
    left, right = matrices.lhs, matrices.rhs
    if left.shape[1] != 1:
        raise DataError(f"formula must have one response; {formula!r} has {left.shape[1]} columns on its left")
    spec = right.model_spec
    names = spec.column_names
    groups = {names[at]: str(term) for term, indices in spec.term_indices.items() for at in indices}
    if "Intercept" not in names:
        raise DataError(f"formula: a regression has an intercept; leave out '- 1' or '+ 0' in {formula!r}")
    x = pd.DataFrame(right).drop(columns="Intercept")
    if not x.shape[1]:
        raise DataError(f"formula: {formula!r} has no predictors")
    factors = {str(term): {str(factor) for factor in term.factors} for term in spec.terms if str(term) != "1"}
    parents = {name: [other for other in factors if factors[other] < own] for name, own in factors.items()}
    parents = {name: others for name, others in parents.items() if others}
    return Formula(x, pd.DataFrame(left).iloc[:, 0], [groups[name] for name in x.columns], parents, spec)


@contextmanager
def _as_data_errors(what: str) -> Iterator[None]:
    """What formulaic says against data, as an error of ours; a category that was not there before is one too."""
    from formulaic.errors import DataMismatchWarning, FormulaicError  # noqa: PLC0415 (it was imported before)

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", DataMismatchWarning)
            yield
    except (ValueError, FormulaicError, DataMismatchWarning) as error:
        raise DataError(f"{what}: {error}") from error
