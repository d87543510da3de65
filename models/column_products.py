"""Inner products of the columns of a regression, without more memory than they need."""

import numpy as np

from l0bayes.models.unknown_scales import UnknownScales

Arr = np.ndarray

_SMALL = 256  # columns up to which a dense product costs less than looking for what is not zero
_MOST_FOR_GRAM = 2000  # columns up to which there is a Gram matrix, however few the rows


class ColumnProducts:
    """Inner products of columns: from their Gram matrix, or where columns are many and rows are few, from the data.

    Number p stands for no column: its products are 0.
    """

    def __init__(self, scales: UnknownScales) -> None:
        z, p = scales.z, scales.z.shape[1]
        self.p = p
        self.moment = np.append(z.T @ scales.y, 0.0)
        self.square = np.append((z**2).sum(0), 1.0)
        self._rows: Arr | None = None
        self._gram: Arr | None = None
        if p <= max(_MOST_FOR_GRAM, len(z)):
            self._gram = np.zeros((p + 1, p + 1))
            self._gram[:p, :p] = z.T @ z
        else:
            self._rows = np.zeros((p + 1, len(z)))
            self._rows[:p] = z.T

    def between(self, first: Arr, second: Arr) -> Arr:
        """Products of columns ``first``, of shape ``(m,)``, with ``second``, of shape ``(m, k)``."""
        if self._gram is not None:
            return np.asarray(self._gram[first[:, None], second])
        assert self._rows is not None  # noqa: S101 (one of the two is there)
        return np.asarray(np.einsum("mn,mkn->mk", self._rows[first], self._rows[second]))

    def within(self, columns: Arr) -> Arr:
        """Gram matrices of sets of columns, of shape ``(m, k)``: ``(m, k, k)``."""
        if self._gram is not None:
            return np.asarray(self._gram[columns[:, :, None], columns[:, None, :]])
        assert self._rows is not None  # noqa: S101
        rows = self._rows[columns]
        return np.asarray(rows @ rows.transpose(0, 2, 1))

    def with_all(self, columns: Arr) -> Arr:
        """Products of some columns, of shape ``(k,)``, with all: ``(k, p + 1)``."""
        if self._gram is not None:
            return np.asarray(self._gram[columns])
        assert self._rows is not None  # noqa: S101
        return np.asarray(self._rows[columns] @ self._rows.T)

    def combined(self, weights: Arr, columns: Arr) -> Arr:
        """Products of Σ_k w_k z_k with all columns, for ``(m, k)`` weights and columns: ``(m, p + 1)``."""
        number, size = columns.shape
        if self._gram is not None and self.p <= _SMALL:
            dense = np.zeros((number, self.p + 1))
            dense[np.arange(number)[:, None], columns] = weights
            product: Arr = dense @ self._gram
            return product
        from scipy.sparse import csr_matrix  # noqa: PLC0415 (it changes the warning filters of who imports it)

        ends = np.arange(0, number * size + 1, size)
        sparse = csr_matrix((weights.ravel(), columns.ravel(), ends), shape=(number, self.p + 1))
        if self._gram is not None:
            return np.asarray(sparse @ self._gram)
        assert self._rows is not None  # noqa: S101
        return np.asarray((sparse @ self._rows) @ self._rows.T)


def log_levels(scales: UnknownScales, products: ColumnProducts, slots: Arr) -> Arr:
    """Log p(y, λ | set) for every λ but for a constant.

    Args:
        scales: the regression.
        products: of its columns.
        slots: columns of each set, padded with p, of shape ``(sets, slots)``.

    Returns:
        Of shape ``(sets, levels)``.
    """
    eigenvalues, basis = np.linalg.eigh(products.within(slots))
    moments = (basis.transpose(0, 2, 1) @ products.moment[slots][..., None])[..., 0]
    return scales.by_level(np.maximum(eigenvalues, 0), moments)[0]
