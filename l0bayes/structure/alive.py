"""Which gates must stay open so that what is kept is alive: on a way from the network's inputs to its outputs.

A unit may be kept whose only reader is closed, and an input whose only maker is: each group then has as many as it
should, and the network is constant. Where no way leads through what is open, the most probable one is opened.
"""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from l0bayes.structure.groups import GateGroup, Structure
from l0bayes.structure.ways import CLOSED, Floats, Graph, Through

_LEAST = -1e9  # log P(z ≠ 0) of any gate: one that is never open can still be opened
_ROUNDS = 4  # over a group, each of which opens all that it lacks at once

_Bools = npt.NDArray[np.bool_]


class Alive:
    """Opens gates until what a network keeps is alive.

    Args:
        structure: its gate groups, and how information goes through it.
        whole: whether the outputs must depend on the network's inputs too, whatever ``min_units`` says; for each layer
            that makes some, one of them. Those that do not with all gates open are left out of account.
    """

    def __init__(self, structure: Structure, *, whole: bool = True) -> None:
        self._groups = structure.groups
        self._graph = graph = Graph(structure)
        self._seen: _Bools | None = None  # open gates that were found to lack nothing
        self._by_count = all(group.removable and group.selects is None for group in self._groups)
        everything = graph.ways(np.zeros(graph.gates + 1)).score
        self._targets = [nodes for nodes in graph.ends if whole and (everything[nodes] > CLOSED).any()]

    def leads_through(self, opened: Mapping[str, Tensor]) -> bool:
        """Whether the outputs depend on the network's inputs, as far as they do with all gates open.

        Args:
            opened: group name to which gates are open, ``(size,)`` booleans.
        """
        if self._enough(opened):
            return True
        reached = self._graph.ways(np.where(self._state(opened), 0.0, CLOSED)).score
        return all((reached[nodes] > CLOSED).any() for nodes in self._targets)

    def complete(self, opened: Mapping[str, Tensor], log_odds: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Opens the most probable gates that are lacking.

        Args:
            opened: group name to which gates are open, ``(size,)`` booleans.
            log_odds: group name to the log-odds of P(z ≠ 0).

        Returns:
            Group name to which gates are open, those that were among them. In each group ``min_units`` of them are
            alive, as far as there is a way through them at all.
        """
        if self._enough(opened):
            return dict(opened)
        names = [group.name for group in self._groups]
        state = self._state(opened)
        if self._seen is not None and np.array_equal(state, self._seen):
            return dict(opened)
        odds = torch.cat([log_odds[name].detach().double().cpu() for name in names])
        score = np.append(logsigmoid(odds).clamp(min=_LEAST).numpy(), 0.0)
        given = state.copy()
        self._reach_targets(state, score)
        for group in self._groups:
            if group.min_units:
                self._fill(group, state, score)
        if np.array_equal(state, given):
            self._seen = given  # from step to step of a run little changes
            return dict(opened)
        parts = torch.from_numpy(state[:-1]).split([group.size for group in self._groups])
        return {**opened, **{name: part.to(opened[name].device) for name, part in zip(names, parts, strict=True)}}

    def _state(self, opened: Mapping[str, Tensor]) -> _Bools:
        """Open gates by their numbers; what stands for no gate is open."""
        return np.append(torch.cat([opened[group.name].detach().cpu() for group in self._groups]).numpy(), True)

    def _enough(self, opened: Mapping[str, Tensor]) -> bool:
        """Whether counting tells: an open unit in each group makes a way, where none has gates over single readers."""
        return self._by_count and all(int(opened[g.name].sum()) >= max(g.min_units, 1) for g in self._groups)

    def _reach_targets(self, state: _Bools, score: Floats) -> None:
        """Opens ways to the outputs, in place."""
        reached = self._graph.ways(np.where(state, 0.0, CLOSED)).score
        for nodes in self._targets:
            if (reached[nodes] == CLOSED).all():
                gates = np.where(state, 0.0, score)
                ways = self._graph.ways(gates)
                state[self._graph.trace(ways, int(nodes[ways.score[nodes].argmax()]), gates)] = True
                reached = self._graph.ways(np.where(state, 0.0, CLOSED)).score

    def _fill(self, group: GateGroup, state: _Bools, score: Floats) -> None:
        """Opens gates of a group, in place, with the ways through them, until enough are alive."""
        own = self._graph.own(group)
        for _ in range(_ROUNDS):
            alive = Through(self._graph, np.where(state, 0.0, CLOSED)).of(group) > CLOSED
            lacking = group.min_units - int(alive.sum())
            if lacking <= 0:
                return
            through = Through(self._graph, np.where(state, 0.0, score))
            value = np.where(alive, CLOSED, through.of(group))
            for gate in np.argsort(-value, kind="stable")[:lacking].tolist():
                if value[gate] > CLOSED:
                    state[through.way(group, gate)] = True
        lacking = group.min_units - int(state[own].sum())
        if lacking > 0:  # no way is known to lead through them
            closed = np.where(state[own], CLOSED, score[own])
            state[own.start + np.argsort(-closed, kind="stable")[:lacking]] = True
