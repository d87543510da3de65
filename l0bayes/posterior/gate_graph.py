"""A network with its gate groups as a graph, in text that Mermaid or Graphviz draw."""

from collections.abc import Iterator
from typing import Literal, get_args

from l0bayes.arguments import checked
from l0bayes.sparse_module import SparseModule
from l0bayes.structure import GateGroup
from l0bayes.structure.names import layer_of

GraphFormat = Literal["mermaid", "graphviz"]
_REASON = 60  # characters of a reason, before it is cut


@checked
def gate_graph(sparse: SparseModule, format: GraphFormat = "mermaid") -> str:  # noqa: A002 (what writers call it)
    """Which layers share gates, and what is dense and why.

    A box is a layer, an ellipse a gate group. An arrow goes from a layer to the group whose features it makes, and from
    the group to the layers that read them. Dense layers have a dashed border and the reason.

    Args:
        sparse: a network made by :func:`~l0bayes.sparsify`.
        format: ``"mermaid"``, which GitHub and Jupyter draw, or ``"graphviz"``.

    Returns:
        The text of the graph.

    Raises:
        ValueError: if the format is another.
    """
    if format not in get_args(GraphFormat):
        raise ValueError(f"format must be one of {', '.join(get_args(GraphFormat))}; got {format!r}")
    dense = dict(sparse.structure.dense)
    layers = dict.fromkeys([*(layer for group in sparse.groups for layer in _layers(group)), *dense])
    boxes = {layer: f"layer{number}" for number, layer in enumerate(layers)}
    lines = []
    for layer, box in boxes.items():
        said = [layer or "the network itself", *([f"dense: {_cut(dense[layer])}"] if layer in dense else [])]
        lines.append(_box(box, said, format, dense=layer in dense))
    for number, group in enumerate(sparse.groups):
        gate = f"gates{number}"
        lines.append(_ellipse(gate, [group.name, f"{group.size:,} gates"], format))
        lines += [_arrow(*ends, format) for ends in dict.fromkeys(_ends(group, gate, boxes))]
    if format == "mermaid":
        return "\n".join(["flowchart LR", *(f"    {line}" for line in lines)])
    return "\n".join(["digraph gates {", '    rankdir="LR"', *(f"    {line}" for line in lines), "}"])


def _layers(group: GateGroup) -> list[str]:
    return [layer_of(part.tensor) for part in group.slices]


def _ends(group: GateGroup, gate: str, boxes: dict[str, str]) -> Iterator[tuple[str, str]]:
    for part in group.slices:
        layer = boxes[layer_of(part.tensor)]
        yield (gate, layer) if part.consumes else (layer, gate)


def _cut(reason: str) -> str:
    return reason if len(reason) <= _REASON else f"{reason[: _REASON - 1]}…"


def _text(said: list[str], line: str) -> str:
    return '"' + line.join(one.replace('"', "'") for one in said) + '"'


def _box(name: str, said: list[str], format: GraphFormat, *, dense: bool) -> str:  # noqa: A002
    if format == "mermaid":
        style = f"\n    style {name} stroke-dasharray: 4" if dense else ""
        return f"{name}[{_text(said, '<br>')}]{style}"
    return f"{name} [shape=box, label={_text(said, chr(92) + 'n')}{', style=dashed' if dense else ''}]"


def _ellipse(name: str, said: list[str], format: GraphFormat) -> str:  # noqa: A002
    if format == "mermaid":
        return f"{name}([{_text(said, '<br>')}])"
    return f"{name} [shape=ellipse, label={_text(said, chr(92) + 'n')}]"


def _arrow(start: str, end: str, format: GraphFormat) -> str:  # noqa: A002
    return f"{start} {'-->' if format == 'mermaid' else '->'} {end}"
