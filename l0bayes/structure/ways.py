"""The best ways through a network, taken as a graph: its features are the nodes, its weights the edges.

The score of a way is the sum over the gates on it; with log-probabilities the best one is the most probable, found by
the recursion of Viterbi, forwards from the network's inputs and backwards from its outputs.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from l0bayes.structure.groups import GateGroup, Slice, Structure
from l0bayes.structure.links import Link

Floats = npt.NDArray[np.float64]
_Ints = npt.NDArray[np.int64]

CLOSED = -np.inf


@dataclass(frozen=True)
class _Edges:
    """A weight between nodes.

    Attributes:
        makes: nodes that it makes, by position.
        reads: nodes that it reads, by position.
        selects: gates of its own over the positions that it reads, one table a group.
        single: gates of its own elements, ``(made, read, elements)``, if each has one.
    """

    makes: _Ints
    reads: _Ints
    selects: tuple[_Ints, ...]
    single: _Ints | None

    def entering(self, gates: Floats) -> Floats:
        """Scores of the gates over the positions that it reads, ``(1, read)``."""
        total = np.zeros((1, len(self.reads)))
        for table in self.selects:
            total = total + gates[table]
        return total

    def scores(self, gates: Floats) -> Floats:
        """The same and those of its elements, the best at each position: ``(made, read)``, or ``(1, read)``."""
        entering = self.entering(gates)
        return entering if self.single is None else entering + gates[self.single].max(-1)

    def table_of(self, own: slice) -> _Ints:
        """The table of the group that has given numbers."""
        tables = [*self.selects, *([] if self.single is None else [self.single])]
        return next(table for table in tables if own.start <= table.flat[0] < own.stop)

    def best_at(self, gate: int, behind: Floats, gates: Floats) -> tuple[int, int]:
        """The position that it makes, and the one that it reads, where a gate of its own is on the best way."""
        if self.single is not None and len(at := np.argwhere(self.single == gate)):
            return int(at[0, 0]), int(at[0, 1])
        read = next(int(np.flatnonzero(table == gate)[0]) for table in self.selects if gate in table)
        return int((behind[self.makes] + self.scores(gates)[:, read]).argmax()), read

    def gates_at(self, made: int, read: int, gates: Floats, instead: int = -1) -> list[int]:
        """The gates on the way from a position that is read to one that is made: the best of several elements.

        Args:
            made: the one.
            read: the other.
            gates: scores of the gates.
            instead: a gate of an element that takes the place of the best one there.
        """
        found = [int(table[read]) for table in self.selects]
        if self.single is not None:
            elements = self.single[made, read]
            found.append(instead if instead in elements else int(elements[gates[elements].argmax()]))
        return found


class Ways:
    """The best way to each node.

    Args:
        score: of the nodes that ways start from; ``CLOSED`` elsewhere.

    Attributes:
        score: of the best way to each node, its own gate among those that count.
        edge: number of the last weight on it, −1 where it starts.
        made: position that this weight makes, on the way.
        read: position that it reads.
    """

    def __init__(self, score: Floats) -> None:
        self.score = score
        self.edge = np.full(len(score), -1)
        self.made = np.zeros(len(score), dtype=np.int64)
        self.read = np.zeros(len(score), dtype=np.int64)

    def improve(self, nodes: _Ints, scores: Floats, edge: int, made: _Ints, read: _Ints) -> bool:
        """Takes note of ways along an edge, where they are better than those that are known."""
        better = np.flatnonzero(scores > self.score[nodes])
        if not len(better):
            return False
        better = better[np.argsort(-scores[better], kind="stable")]
        chosen, first = np.unique(nodes[better], return_index=True)
        best = better[first]
        self.score[chosen], self.edge[chosen] = scores[best], edge
        self.made[chosen], self.read[chosen] = made[best], read[best]
        return True


class Graph:
    """A network as a graph.

    Args:
        structure: its gate groups, and how information goes through it.

    Attributes:
        gates: their number. This is also the number that stands for no gate, whose score is 0.
        gate: node to gate.
        ends: nodes where ways end, by the weight that makes them, in the order of a run.
        edges: the weights.
        places: group to the numbers of the weights that it has gates on besides those of nodes.
    """

    def __init__(self, structure: Structure) -> None:
        self.gates = sum(group.size for group in structure.groups)
        starts = np.cumsum([0, *(group.size for group in structure.groups)]).tolist()
        self._start = {group.name: start for group, start in zip(structure.groups, starts, strict=False)}
        links = structure.links.weights
        ends = [end for link in links for end in (link.makes, link.reads)]
        numbers = torch.cat(ends).unique() if ends else torch.zeros(0, dtype=torch.int64)
        self.gate = np.full(len(numbers), self.gates)
        self.places: dict[str, list[int]] = {}
        self.edges: list[_Edges] = []
        for link in links:
            makes, reads = (torch.searchsorted(numbers, end).numpy() for end in (link.makes, link.reads))
            self.edges.append(self._edges_of(link, makes, reads, structure))
        made, read = np.zeros((2, len(numbers)), dtype=bool)
        for edges in self.edges:
            made[edges.makes], read[edges.reads] = True, True
        sources, sinks = (
            torch.isin(numbers, torch.tensor(sorted(some), dtype=torch.int64)).numpy()
            for some in (structure.links.sources, structure.links.sinks)
        )
        self._sources, self._sinks = sources | ~made, (sinks | ~read) & (self.gate == self.gates)
        self.ends = [found for edges in self.edges if len(found := edges.makes[self._sinks[edges.makes]])]

    def own(self, group: GateGroup) -> slice:
        """The numbers of a group's gates."""
        start = self._start[group.name]
        return slice(start, start + group.size)

    def _edges_of(self, link: Link, makes: _Ints, reads: _Ints, structure: Structure) -> _Edges:
        selects: list[_Ints] = []
        single = None
        for group in structure.groups:
            for part in (part for part in group.slices if part.tensor == link.tensor):
                table = self._table(group, part)
                if part.dim is None:
                    shape = structure.shapes[link.tensor]
                    dims = [link.makes_dim, link.reads_dim]
                    dims += [dim for dim in range(len(shape)) if dim not in dims]
                    single = table.reshape(shape).transpose(dims).reshape(len(makes), len(reads), -1)
                elif group.selects is not None:
                    selects.append(table)
                else:
                    nodes = makes if part.dim == link.makes_dim else reads
                    self.gate[nodes[table < self.gates]] = table[table < self.gates]
                    continue
                self.places.setdefault(group.name, []).append(len(self.edges))
        return _Edges(makes, reads, tuple(selects), single)

    def _table(self, group: GateGroup, part: Slice) -> _Ints:
        table = part.gates.numpy()
        return np.where(table < 0, self.gates, table + self._start[group.name])

    def ways(self, gates: Floats, *, back: bool = False) -> Ways:
        """The best ways to each node.

        Args:
            gates: scores of the gates, ``(gates + 1,)``, at most 0; the last is that of no gate.
            back: whether they come back from where ways end, not from the network's inputs.
        """
        own = gates[self.gate]
        ways = Ways(np.where(self._sinks if back else self._sources, own, CLOSED))
        order = range(len(self.edges))
        scores = [edges.scores(gates) for edges in self.edges]
        for _ in range(len(self.edges) + 1):  # one round is enough, but for weights that are used again
            moved = False
            for k in order[::-1] if back else order:
                follow = self._backwards if back else self._forwards
                moved |= follow(ways, k, scores[k], own)
            if not moved:
                break
        return ways

    def _forwards(self, ways: Ways, k: int, scores: Floats, own: Floats) -> bool:
        edges = self.edges[k]
        through = ways.score[edges.reads] + scores
        made = np.arange(len(edges.makes))
        read = np.broadcast_to(through.argmax(1), made.shape)
        total = np.broadcast_to(through.max(1), made.shape)
        return ways.improve(edges.makes, total + own[edges.makes], k, made, read)

    def _backwards(self, ways: Ways, k: int, scores: Floats, own: Floats) -> bool:
        edges = self.edges[k]
        leaving = ways.score[edges.makes]
        read = np.arange(len(edges.reads))
        if len(scores) == 1:  # the same for all that it makes
            made = np.full(len(read), int(leaving.argmax()))
            total = leaving.max() + scores[0]
        else:
            through = leaving[:, None] + scores
            made, total = through.argmax(0), through.max(0)
        return ways.improve(edges.reads, total + own[edges.reads], k, made, read)

    def trace(self, ways: Ways, node: int, gates: Floats, *, back: bool = False) -> list[int]:
        """The gates on the best way to a node, its own among them; arguments as for :meth:`ways`."""
        found = [int(self.gate[node])]
        while ways.edge[node] >= 0:
            edges, made, read = self.edges[ways.edge[node]], int(ways.made[node]), int(ways.read[node])
            found += edges.gates_at(made, read, gates)
            node = int(edges.makes[made] if back else edges.reads[read])
            found.append(int(self.gate[node]))
        return found


class Through:
    """The best ways through each gate, from the network's inputs to where ways end.

    Args:
        graph: the network.
        gates: as for :meth:`Graph.ways`.
    """

    def __init__(self, graph: Graph, gates: Floats) -> None:
        self._graph, self._gates = graph, gates
        self._ahead, self._behind = graph.ways(gates), graph.ways(gates, back=True)

    def of(self, group: GateGroup) -> Floats:
        """The score of the best way through each gate of a group; its own where it is nowhere on the graph."""
        graph, own = self._graph, self._graph.own(group)
        if places := graph.places.get(group.name):
            value = np.full(group.size, CLOSED)
            for k in places:
                edges = graph.edges[k]
                scores = edges.scores(self._gates) if group.removable else edges.entering(self._gates)
                total = self._ahead.score[edges.reads] + scores + self._behind.score[edges.makes][:, None]
                table = edges.table_of(own)
                if group.removable:
                    np.maximum.at(value, table - own.start, total.max(0))
                else:
                    value[table - own.start] = total[:, :, None] + self._gates[table]
            return value
        value = self._gates[own].copy()
        nodes = np.flatnonzero((graph.gate >= own.start) & (graph.gate < own.stop))
        ahead, behind = self._ahead.score[nodes], self._behind.score[nodes]
        gates = graph.gate[nodes]
        there = (ahead > CLOSED) & (behind > CLOSED)  # each has the gate's own score in it
        value[gates - own.start] = np.where(there, ahead + behind - np.where(there, self._gates[gates], 0.0), CLOSED)
        return value

    def way(self, group: GateGroup, gate: int) -> list[int]:
        """All gates on the best way through a gate of a group."""
        graph, number = self._graph, self._graph.own(group).start + gate
        if places := graph.places.get(group.name):
            edges = graph.edges[places[0]]
            made, read = edges.best_at(number, self._behind.score, self._gates)
            middle = [number, *edges.gates_at(made, read, self._gates, instead=number)]
            first, last = int(edges.reads[read]), int(edges.makes[made])
        else:
            nodes = np.flatnonzero(graph.gate == number)
            if not len(nodes):
                return [number]
            middle, first, last = [number], int(nodes[0]), int(nodes[0])
        ahead = graph.trace(self._ahead, first, self._gates)
        return [*ahead, *middle, *graph.trace(self._behind, last, self._gates, back=True)]
