"""A contract for networks of one's own: what is gated is run, trained and handed over exactly.

The library tests its mechanism by three ways to run a network with given gates, which must agree: masked, at full size
with closed features multiplied by zero, which is the definition; the subnetwork, as training and prediction run it; and
the compacted module.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from l0bayes.arguments import checked_but
from l0bayes.compat import tree_leaves
from l0bayes.copying import copied
from l0bayes.evaluating import evaluating
from l0bayes.inputs import Inputs
from l0bayes.posterior.cost import cost
from l0bayes.sparse_module import SparseModule
from l0bayes.sparsify import sparsify
from l0bayes.subnetwork.compacted import compact_network
from l0bayes.subnetwork.comparing import weighted_sum
from l0bayes.subnetwork.masked import masked_forward

_SHARES = (1.0, 0.7, 0.3, 0.05)  # of the gates that are open
_COUNTED = 1e-9  # relative, of parameters and multiply-accumulates

Gates = dict[str, Tensor]


@checked_but("net", "gates")
def check_sparsify(
    net: nn.Module,
    example_input: Any,
    gates: str | Mapping[str, Any] = "unit",
    *,
    seed: int = 0,
    tolerance: float = 1e-9,
    **options: Any,
) -> SparseModule:
    """Asserts that a network, once gated, is run and compacted exactly.

    Works on a copy in float64 and in evaluation mode, under gates drawn at random, from all open to nearly all closed.
    Masked network, subnetwork and compacted network are to have the same outputs, the first two the same gradients in
    the parameters and in the open gates; and what the gates are said to leave is to be what the compacted network has,
    in parameters and in multiply-accumulates, where closing a gate takes something out.

    Args:
        net: a network.
        example_input: an input that it accepts, a tuple of positional or a mapping of keyword inputs, with a batch
            dimension.
        gates: as for :func:`~l0bayes.sparsify`.
        seed: of the gates that are drawn; random numbers elsewhere are left as they are.
        tolerance: of outputs and gradients, relative to the largest; networks that compute in float32 whatever they
            are given need about 1e-4.
        options: further arguments of :func:`~l0bayes.sparsify`.

    Returns:
        The gated copy; ``print`` it to see what has gates, and what stays dense and why.

    Raises:
        AssertionError: if something differs; it says what, and under which share of open gates.
        StructureError: if nothing in the network can be gated.
    """
    inputs = Inputs.of(example_input).map(lambda x: x.double() if x.is_floating_point() else x)
    sparse = sparsify(copied(net).double(), inputs, gates=gates, **options)
    generator = torch.Generator().manual_seed(seed)
    with evaluating(sparse):
        for share in _SHARES:
            _check(sparse, _draw(sparse, share, generator), inputs, tolerance, f"{share:.0%} of the gates open")
    return sparse


def _draw(sparse: SparseModule, share: float, generator: torch.Generator) -> Gates:
    """Gates of which about a share is open, half of those fully, and at least one in each group."""
    gates = {}
    for group in sparse.groups:
        first, second = torch.rand(2, group.size, generator=generator, dtype=torch.float64)
        opened = first <= max(share, float(first.min()))
        gates[group.name] = torch.where(opened, (0.5 + second).clamp(max=1.0), 0.0)
    return gates


def _check(sparse: SparseModule, gates: Gates, inputs: Inputs, tolerance: float, when: str) -> None:
    leaves = {name: gate.clone().requires_grad_() for name, gate in gates.items()}
    parameters = [p for p in sparse.net.parameters() if p.requires_grad]
    with torch.enable_grad():
        wanted = masked_forward(sparse.net, sparse.groups, leaves, *inputs.args, **inputs.kwargs)
        found = sparse.run(leaves, *inputs.args, **inputs.kwargs)
        slopes = [_slopes(output, [*parameters, *leaves.values()]) for output in (wanted, found)]
    _same(found, wanted, tolerance, f"{when}: outputs of the subnetwork and of the masked network")
    names = [name for name, p in sparse.net.named_parameters() if p.requires_grad]
    there = [None] * len(names) + [gate != 0 for gate in gates.values()]  # closed gates have no gradient in a draw
    largest = _largest(slopes[0])
    for name, where, one, other in zip([*names, *leaves], there, slopes[1], slopes[0], strict=True):
        pair = (one, other) if where is None else (one[where], other[where])
        _close(*pair, tolerance * largest, f"{when}: gradients in {name!r}")
    small = compact_network(sparse.net, sparse.groups, gates)
    with evaluating(small):
        _same(inputs.call(small), wanted, tolerance, f"{when}: outputs of the compacted network and of the masked one")
    _check_cost(sparse, gates, small, inputs, when)


def _check_cost(sparse: SparseModule, gates: Gates, small: nn.Module, inputs: Inputs, when: str) -> None:
    """Where every gate takes out what it decides over, which those of single weights, say, do not."""
    if not all(group.removable and group.selects is None for group in sparse.groups):
        return
    opened = {name: (gate != 0).double() for name, gate in gates.items()}
    kept = cost(small, inputs)
    counts = {"parameters": float(kept.parameters), "macs": float(kept.macs)}
    for of, number in counts.items():
        said = float(sparse.live_cost(of).amount(opened))  # type: ignore[arg-type]
        assert abs(said - number) <= max(_COUNTED * number, 0.5), (  # noqa: S101 (it is what the function is for)
            f"{when}: the compacted network has {number:.0f} {of}, and its gates are said to leave {said:.1f}"
        )


def _tensors(outputs: Any) -> Iterator[Tensor]:
    return (value for value in tree_leaves(outputs) if isinstance(value, Tensor))


def _slopes(outputs: Any, leaves: list[Tensor]) -> list[Tensor]:
    """Gradients of a sum of all outputs, each with a weight of its own."""
    total = weighted_sum(outputs)
    if total is None:
        return [torch.zeros_like(leaf) for leaf in leaves]
    return list(torch.autograd.grad(total, leaves, materialize_grads=True))


def _largest(tensors: list[Tensor]) -> float:
    return max((float(tensor.abs().max()) for tensor in tensors if tensor.numel()), default=0.0)


def _same(found: Any, wanted: Any, tolerance: float, what: str) -> None:
    for one, other in zip(_tensors(found), _tensors(wanted), strict=True):
        _close(one, other, tolerance * _largest([other.double()]), what)


def _close(found: Tensor, wanted: Tensor, atol: float, what: str) -> None:
    assert found.shape == wanted.shape, f"{what} differ in shape: {tuple(found.shape)}, {tuple(wanted.shape)}"  # noqa: S101
    difference = _largest([(found.detach() - wanted.detach()).double()])
    assert difference <= atol, f"{what} differ by {difference:.1e}, more than {atol:.1e}"  # noqa: S101
