"""Which columns of a regression hang on which gate, as arrays over all gates."""

from functools import cached_property

import numpy as np

Arr = np.ndarray


class GateMembers:
    """Gates and their columns.

    Number p stands for no column, and number ``gates`` for no gate.

    Args:
        gate_of: for each column the number of its gate, of shape ``(p,)``.

    Attributes:
        gate_of: as given, with ``gates`` at its end.
        gates: how many there are.
        width: columns of the largest gate.
        columns: of each gate, padded with p, of shape ``(gates + 1, width)``.
        place: of each column among those of its gate, of shape ``(p,)``.
    """

    def __init__(self, gate_of: Arr) -> None:
        self.p = len(gate_of)
        self.gates = int(gate_of.max()) + 1
        sizes = np.bincount(gate_of, minlength=self.gates)
        self.width = int(sizes.max())
        self.gate_of = np.append(gate_of, self.gates)
        order = np.argsort(gate_of, kind="stable")
        self.place = np.empty(self.p, dtype=np.int64)
        self.place[order] = np.arange(self.p) - np.repeat(sizes.cumsum() - sizes, sizes)
        self.columns = np.full((self.gates + 1, self.width), self.p)
        self.columns[gate_of, self.place] = np.arange(self.p)

    @cached_property
    def single(self) -> bool:
        """Whether gate number g has column g alone."""
        return self.width == 1 and bool((self.gate_of[:-1] == np.arange(self.p)).all())

    @cached_property
    def sizes(self) -> Arr:
        """Columns of each gate, of shape ``(gates + 1,)``."""
        return np.asarray((self.columns < self.p).sum(1))

    def in_blocks(self, values: Arr) -> Arr:
        """Values of columns, of shape ``(m, p + 1)``, as those of gates, of shape ``(m, gates + 1, width)``."""
        return np.asarray(values[..., None] if self.single else values[:, self.columns])

    def by_column(self, blocks: Arr) -> Arr:
        """Values of gates, of shape ``(m, gates + 1, width)``, as those of columns, of shape ``(m, p)``."""
        if self.single:
            return np.asarray(blocks[:, :-1, 0])
        return np.asarray(blocks[:, self.gate_of[:-1], self.place])

    def slots_of(self, gates: Arr) -> Arr:
        """Columns of sets of gates: of 0/1 ``gates``, of shape ``(sets, gates)``, ``(sets, slots)`` padded with p."""
        inside = gates[:, self.gate_of[:-1]] > 0
        slots = np.sort(np.where(inside, np.arange(self.p), self.p), axis=1)
        return np.asarray(slots[:, : max(int(inside.sum(1).max(initial=0)), 1)])
