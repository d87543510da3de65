"""Sets of gates, one for each chain, and what flipping any gate would do to each: rank-one updates by sweeps.

For the columns γ of the open gates, with A = Z_γᵀZ_γ + λ, the state has A⁻¹, the coefficients A⁻¹Z_γᵀy, and for *every*
gate G what its columns would be if they were the last to enter: S_G = Z_GᵀZ_G + λ − Z_GᵀZ_γA⁻¹Z_γᵀZ_G, their Schur
complement, and r_G = Z_Gᵀ(y − Z_γb), their residual moments. To take a column in or out costs its residual
correlation with all others, a sum over k rows of the Gram matrix, and updates of rank one (Smith and Kohn 1996, Journal
of Econometrics 75; the sweep operator: Goodnight 1979). Columns of one gate follow each other.
"""

from dataclasses import dataclass

import numpy as np

from l0bayes.models.column_products import ColumnProducts
from l0bayes.models.gate_members import GateMembers
from l0bayes.models.unknown_scales import UnknownScales

Arr = np.ndarray

_ROOM = 8  # slots by which a set grows


@dataclass(frozen=True)
class Entries:
    """What each gate would do if it were the last to enter, of some chains.

    Attributes:
        log_det: log |S_G|, of shape ``(chains, gates + 1)``.
        explained: r_GᵀS_G⁻¹r_G, by which the residual sum of squares falls.
        value: S_G⁻¹r_G, the coefficients, of shape ``(chains, gates + 1, width)``.
        variance: the diagonal of S_G⁻¹.
    """

    log_det: Arr
    explained: Arr
    value: Arr
    variance: Arr


def entries_of(schur: Arr, moment: Arr) -> Entries:
    """Determinants and solutions of blocks, of shapes ``(m, gates + 1, width, width)`` and ``(m, gates + 1, width)``.

    What pads a block has 1 on its diagonal, and no moment.
    """
    if schur.shape[-1] == 1:
        pivot = schur[..., 0]
        value = moment / pivot
        return Entries(np.log(pivot[..., 0]), (moment * value)[..., 0], value, 1 / pivot)
    log_det = 2 * np.log(np.einsum("mgaa->mga", np.linalg.cholesky(schur))).sum(-1)
    inverse = np.linalg.inv(schur)
    value = (inverse @ moment[..., None])[..., 0]
    return Entries(log_det, (moment * value).sum(-1), value, np.einsum("mgaa->mga", inverse))


class ActiveSets:
    """One set of gates for each chain.

    Args:
        scales: the regression.
        products: of its columns.
        members: which columns hang on which gate.
        inside: which gates each chain starts with, of shape ``(chains, gates)``.
        level: the number of the λ each starts with, of shape ``(chains,)``.

    Attributes:
        inside: of shape ``(chains, gates + 1)``, the last one ``False``.
        slots: the columns in each set, of shape ``(chains, slots)``; p where a slot is empty.
        count: how many gates are open in each.
        schur, moment: S and r of the module's docstring, of shapes ``(chains, gates + 1, width, width)`` and ``(chains,
            gates + 1, width)``.
        rss: penalised residual sums of squares, of shape ``(chains,)``.
        level, penalty: number and value of λ.
    """

    def __init__(
        self, scales: UnknownScales, products: ColumnProducts, members: GateMembers, inside: Arr, level: Arr
    ) -> None:
        chains, p = len(inside), members.p
        self.scales, self.products, self.members = scales, products, members
        self.inside = np.concatenate([inside, np.zeros((chains, 1), dtype=bool)], 1)
        self.count = inside.sum(1)
        self.level = level.copy()
        self.penalty = scales.levels[level]
        slots = members.slots_of(inside)
        size = -(-(slots.shape[1] + 1) // _ROOM) * _ROOM
        self.slots = np.pad(slots, ((0, 0), (0, size - slots.shape[1])), constant_values=p)
        self._at = np.zeros((chains, p + 1), dtype=np.int64)  # the slot of each column that is there
        np.put_along_axis(self._at, self.slots, np.arange(size)[None], axis=1)
        self._inverse = np.zeros((chains, size, size))
        self._beta = np.zeros((chains, size))
        blocks = (members.gates + 1, members.width)
        self.schur = np.ones((chains, *blocks, members.width))
        self.moment = np.zeros((chains, *blocks))
        self.rss = np.zeros(chains)
        # Where a block is no block but padding, and its diagonal 1.
        self._there = members.columns < p
        self._padding = ~self._there[:, :, None] * np.eye(members.width)
        self._own = members.in_blocks(products.square[None])[0]
        self._within = products.within(members.columns) if members.width > 1 else None
        self.rebuild(np.arange(chains))

    def entries(self, chains: Arr) -> Entries:
        """What each gate would do if it were the last to enter."""
        return entries_of(self.schur[chains], self.moment[chains])

    # -- all anew -----------------------------------------------------------------------------------------------

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
            self.schur[chain] = self._blocks(rows, solved, penalty[at])
            self.moment[chain] = self.members.in_blocks((products.moment - beta[at, inside] @ rows)[None])[0]
        self._settle(chains)

    def _blocks(self, rows: Arr, solved: Arr, penalty: float) -> Arr:
        """Schur complements of all gates, given the products of what is in the set with all columns."""
        if self._within is None:
            explained = self.members.in_blocks((rows * solved).sum(0)[None])[0]
            blocks: Arr = (self._own - explained + penalty)[..., None]
        else:
            columns = self.members.columns
            explained = np.einsum("kga,kgb->gab", rows[:, columns], solved[:, columns])
            blocks = self._within - explained + penalty * (self._there[:, :, None] * np.eye(self.members.width))
        blocks += self._padding
        blocks[-1] = np.eye(self.members.width)
        return blocks

    def _settle(self, chains: Arr) -> None:
        """For gates inside, what they would be if they entered last; and bounds that rounding may cross."""
        members, rows = self.members, chains[:, None]
        gates = members.gate_of[self.slots[chains]]
        if members.width == 1:
            variance = np.einsum("mkk->mk", self._inverse[chains])
            variance = np.where(gates < members.gates, variance, 1.0)
            self.schur[rows, gates, 0, 0] = 1 / variance
            self.moment[rows, gates, 0] = self._beta[chains] / variance
            self.schur[chains] = np.maximum(self.schur[chains], self.penalty[chains, None, None, None])
            return
        there = self._there[gates]
        at = self._at[rows[..., None], members.columns[gates]]
        inverse = self._inverse[rows[..., None, None], at[..., :, None], at[..., None, :]]
        both = there[..., :, None] & there[..., None, :]
        eye = np.eye(members.width)
        schur = np.linalg.inv(np.where(both, inverse, eye))
        beta = np.where(there, self._beta[rows[..., None], at], 0.0)
        self.schur[rows, gates] = schur
        self.moment[rows, gates] = (schur @ beta[..., None])[..., 0]

    # -- flips --------------------------------------------------------------------------------------------------

    def flip(self, chains: Arr, gates: Arr) -> None:
        """Opens one gate in each of some sets, or closes it.

        Args:
            chains: which sets, each once.
            gates: for each, which gate.
        """
        adding = ~self.inside[chains, gates]
        # Whether a gate is in or out, what it would be if it entered last is the same.
        own = self.schur[chains, gates].copy(), self.moment[chains, gates].copy()
        for columns in self.members.columns[gates].T:
            live = columns < self.products.p
            self._sweep(chains[live], columns[live], adding[live])
        self.schur[chains, gates], self.moment[chains, gates] = own
        self.inside[chains, gates] = adding
        self.count[chains] += np.where(adding, 1, -1)
        self._settle(chains)

    def _sweep(self, chains: Arr, columns: Arr, adding: Arr) -> None:
        """Takes one column into each of some sets, or out of it."""
        members, empty = self.members, self.products.p
        filled = (self.slots[chains[adding]] < empty).all(1)
        if filled.any():
            self._grow()
        slots, rows = self.slots[chains], np.arange(len(chains))
        at = np.where(adding, (slots == empty).argmax(1), self._at[chains, columns])
        inverse = self._inverse[chains]
        regression = (inverse @ self.products.between(columns, slots)[..., None])[..., 0]
        column = np.where(adding[:, None], regression, inverse[rows, at])
        column[rows[adding], at[adding]] = -1.0
        slots[rows[adding], at[adding]] = columns[adding]
        sign = np.where(adding, -1.0, 1.0)
        residual = members.in_blocks(self.products.combined(sign[:, None] * column, slots))
        gate, place = members.gate_of[columns], members.place[columns]
        pivot = np.where(adding, self.schur[chains, gate, place, place], -inverse[rows, at, at])
        slope = np.where(adding, self.moment[chains, gate, place], -self._beta[chains, at]) / pivot
        if members.width == 1:
            self.schur[..., 0, 0][chains] -= residual[..., 0] ** 2 / pivot[:, None]
        else:
            self.schur[chains] -= residual[..., :, None] * (residual / pivot[:, None, None])[..., None, :]
        self.moment[chains] -= (np.where(adding, 1.0, -1.0) * slope)[:, None, None] * residual
        self.rss[chains] -= slope**2 * pivot
        self._inverse[chains] = inverse + column[:, :, None] * (column / pivot[:, None])[:, None, :]
        self._beta[chains] -= slope[:, None] * column
        self._empty(chains[~adding], at[~adding])
        slots[rows[~adding], at[~adding]] = empty
        self._at[chains[adding], columns[adding]] = at[adding]
        self.slots[chains] = slots

    def _empty(self, chains: Arr, at: Arr) -> None:
        self._inverse[chains, at, :] = 0.0
        self._inverse[chains, :, at] = 0.0
        self._beta[chains, at] = 0.0

    def _grow(self) -> None:
        self.slots = np.pad(self.slots, ((0, 0), (0, _ROOM)), constant_values=self.products.p)
        self._inverse = np.pad(self._inverse, ((0, 0), (0, _ROOM), (0, _ROOM)))
        self._beta = np.pad(self._beta, ((0, 0), (0, _ROOM)))
