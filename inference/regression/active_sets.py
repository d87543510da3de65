"""Sets of columns, one for each chain, and what flipping any column would do to each: rank-one updates by sweeps.

For a set γ with A = Z_γᵀZ_γ + λ the state has A⁻¹, the coefficients A⁻¹Z_γᵀy, and for *every* column j what it would be
if it were the last one to enter: s_j = z_jᵀz_j + λ − z_jᵀZ_γA⁻¹Z_γᵀz_j, its Schur complement, and r_j = z_jᵀ(y − Z_γb),
its residual moment. To flip a column costs its residual correlation with all others, a sum over k rows of the Gram
matrix, and updates of rank one (Smith and Kohn 1996, Journal of Econometrics 75; the sweep operator: Goodnight 1979).
"""

import numpy as np

from l0bayes.models.column_products import ColumnProducts
from l0bayes.models.unknown_scales import UnknownScales

Arr = np.ndarray

_ROOM = 8  # slots by which a set grows


class ActiveSets:
    """One set of columns for each chain.

    Args:
        scales: the regression.
        products: of its columns.
        inside: which columns each chain starts with, of shape ``(chains, p)``.
        level: the number of the λ each starts with, of shape ``(chains,)``.

    Attributes:
        inside: of shape ``(chains, p + 1)``, the last one ``False``.
        slots: the columns in each set, of shape ``(chains, slots)``; p where a slot is empty.
        count: how many each has.
        schur, moment: s and r of the module's docstring, of shape ``(chains, p + 1)``.
        rss: penalised residual sums of squares, of shape ``(chains,)``.
        level, penalty: number and value of λ.
    """

    def __init__(self, scales: UnknownScales, products: ColumnProducts, inside: Arr, level: Arr) -> None:
        chains, p = inside.shape
        self.scales, self.products = scales, products
        self.inside = np.concatenate([inside, np.zeros((chains, 1), dtype=bool)], 1)
        self.count = inside.sum(1)
        self.level = level.copy()
        self.penalty = scales.levels[level]
        size = int(-(-(self.count.max() + 1) // _ROOM)) * _ROOM
        self.slots = np.full((chains, size), p)
        for slots, row in zip(self.slots, inside, strict=True):
            columns = row.nonzero()[0]
            slots[: len(columns)] = columns
        self._inverse = np.zeros((chains, size, size))
        self._beta = np.zeros((chains, size))
        self.schur = np.ones((chains, p + 1))
        self.moment = np.zeros((chains, p + 1))
        self.rss = np.zeros(chains)
        self.rebuild(np.arange(chains))

    def rebuild(self, chains: Arr) -> None:
        """Computes all anew, so that rounding does not add up, or for another λ."""
        products, empty = self.products, self.products.p
        slots, penalty = self.slots[chains], self.penalty[chains]
        there = slots < empty
        ridge = np.where(there, penalty[:, None], 1.0)
        matrix = products.within(slots) + ridge[:, :, None] * np.eye(slots.shape[1])
        inverse = np.linalg.inv(matrix) * (there[:, :, None] & there[:, None, :])
        self._inverse[chains] = inverse
        target = products.moment[slots]
        beta = (inverse @ target[..., None])[..., 0]
        self._beta[chains] = beta
        total = float(self.scales.y @ self.scales.y)
        self.rss[chains] = np.maximum(total - (target * beta).sum(1), 1e-12 * total)
        for at, chain in enumerate(chains):
            inside = there[at]
            rows = products.with_all(slots[at, inside])
            solved = inverse[at][np.ix_(inside, inside)] @ rows
            self.schur[chain] = products.square + penalty[at] - (solved * rows).sum(0)
            self.moment[chain] = products.moment - beta[at, inside] @ rows
        self._settle(chains)

    def _settle(self, chains: Arr) -> None:
        """For columns inside, what they would be if they entered last; and bounds that rounding may cross."""
        slots = self.slots[chains]
        variance = np.einsum("mkk->mk", self._inverse[chains])
        variance = np.where(slots < self.products.p, variance, 1.0)
        self.schur[chains[:, None], slots] = 1 / variance
        self.moment[chains[:, None], slots] = self._beta[chains] / variance
        self.schur[chains] = np.maximum(self.schur[chains], self.penalty[chains, None])

    def flip(self, chains: Arr, columns: Arr) -> None:
        """Takes one column into each of some sets, or out of it.

        Args:
            chains: which sets, each once.
            columns: for each, which column.
        """
        adding = ~self.inside[chains, columns]
        if (self.count[chains[adding]] == self.slots.shape[1]).any():
            self._grow()
        slots, rows = self.slots[chains], np.arange(len(chains))
        at = np.where(adding, (slots == self.products.p).argmax(1), (slots == columns[:, None]).argmax(1))
        inverse = self._inverse[chains]
        regression = (inverse @ self.products.between(columns, slots)[..., None])[..., 0]
        column = np.where(adding[:, None], regression, inverse[rows, at])
        column[rows[adding], at[adding]] = -1.0
        slots[rows[adding], at[adding]] = columns[adding]
        sign = np.where(adding, -1.0, 1.0)
        residual = self.products.combined(sign[:, None] * column, slots)
        pivot = np.where(adding, self.schur[chains, columns], -inverse[rows, at, at])
        slope = np.where(adding, self.moment[chains, columns], -self._beta[chains, at]) / pivot
        own = np.where(adding, 0.0, -1 / pivot), np.where(adding, 0.0, slope)
        self.schur[chains] -= residual**2 / pivot[:, None]
        self.moment[chains] -= slope[:, None] * np.where(adding, 1.0, -1.0)[:, None] * residual
        self.rss[chains] -= slope**2 * pivot
        self._inverse[chains] = inverse + column[:, :, None] * (column / pivot[:, None])[:, None, :]
        self._beta[chains] -= slope[:, None] * column
        gone, left = chains[~adding], columns[~adding]
        self.schur[gone, left], self.moment[gone, left] = own[0][~adding], own[1][~adding]
        self._empty(gone, at[~adding])
        slots[rows[~adding], at[~adding]] = self.products.p
        self.slots[chains] = slots
        self.inside[chains, columns] = adding
        self.count[chains] += np.where(adding, 1, -1)
        self._settle(chains)

    def _empty(self, chains: Arr, at: Arr) -> None:
        self._inverse[chains, at, :] = 0.0
        self._inverse[chains, :, at] = 0.0
        self._beta[chains, at] = 0.0

    def _grow(self) -> None:
        self.slots = np.pad(self.slots, ((0, 0), (0, _ROOM)), constant_values=self.products.p)
        self._inverse = np.pad(self._inverse, ((0, 0), (0, _ROOM), (0, _ROOM)))
        self._beta = np.pad(self._beta, ((0, 0), (0, _ROOM)))
