"""Everything that the zoo measures of one model."""

import re
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from zoo_models import SEED, build, images, set_statistics

from l0bayes import SparseModule, sparsify
from l0bayes.inference.system.timing import interleaved
from l0bayes.posterior.cost import cost
from l0bayes.structure import GateGroup, Slice
from l0bayes.subnetwork.compacted import compact_network
from l0bayes.subnetwork.masked import masked_forward

_ROUNDS = 3
_BATCH = 4
_REASON = 90
_PLAIN = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)

Gates = dict[str, Tensor]


def random_gates(sparse: SparseModule) -> Gates:
    """Gates as hard concrete draws are: about half 0, some 1, the rest between; which ones is irregular."""
    generator = torch.Generator().manual_seed(SEED)
    gates = {}
    for group in sparse.groups:
        u, v = torch.rand(2, group.size, generator=generator, dtype=torch.float64)
        share = 0.2 + 0.6 * torch.rand((), generator=generator, dtype=torch.float64)  # each group's own
        value = (1.3 * v).clamp(0.05, 1.0) * (u < share)
        if not value.any():
            value[int(u.argmin())] = 0.5
        gates[group.name] = value
    return gates


def difference(found: Tensor, expected: Tensor) -> float:
    """The largest difference, relative to the largest output."""
    return float((found - expected).abs().max() / expected.abs().max())


# -- the reference: what a plain layer is given is multiplied by gates ----------------------------------------------


def _plain(net: nn.Module, part: Slice) -> bool:
    """Whether a slice lies along the input features of an ordinary layer that is called with them."""
    path, _, name = part.tensor.rpartition(".")
    layer = net.get_submodule(path)
    if name != "weight" or type(layer) not in _PLAIN:
        return False
    return getattr(layer, "groups", 1) == 1 and part.dim == 1


def plain_groups(sparse: SparseModule) -> list[GateGroup]:
    """The groups all of whose readers are plain layers."""
    return [g for g in sparse.groups if all(_plain(sparse.net, part) for part in g.slices if part.consumes)]


def hooked(sparse: SparseModule, groups: list[GateGroup], gates: Mapping[str, Tensor], x: Tensor) -> Tensor:
    """The network at full size; hooks multiply the inputs of plain layers by gates."""
    factors: dict[str, Tensor] = {}
    for group in groups:
        for part in (part for part in group.slices if part.consumes):
            layer = part.tensor.rpartition(".")[0]
            padded = torch.cat((gates[group.name], torch.ones(1, dtype=x.dtype)))  # position −1 has no gate
            factors[layer] = factors.get(layer, 1.0) * padded[part.gates]
    with ExitStack() as hooks:
        for name, factor in factors.items():
            module = sparse.net.get_submodule(name)
            behind = 0 if isinstance(module, nn.Linear) else module.weight.dim() - 2
            value = factor.reshape(-1, *(1,) * behind)

            def multiply(_module: Any, args: Any, value: Tensor = value) -> Any:
                return (args[0] * value, *args[1:])

            hooks.callback(module.register_forward_pre_hook(multiply).remove)
        output: Tensor = sparse.net(x)
    return output


# -- measuring ----------------------------------------------------------------------------------------------------


def _shown(reason: str) -> str:
    """A reason without the names in it."""
    return re.sub(r"'[^']*'", "…", reason)[:_REASON]


def _agreement(sparse: SparseModule, gates: Gates, x: Tensor) -> dict[str, Any]:
    """Differences in float64, of a module that is in float64."""
    net, plain = sparse.net, plain_groups(sparse)
    expected = masked_forward(net, sparse.groups, gates, x)
    some = {name: gate if name in {g.name for g in plain} else torch.ones_like(gate) for name, gate in gates.items()}
    return {
        "largest_output": float(expected.abs().max()),
        "effect_of_inputs": difference(expected[0], expected[1]),
        "run": difference(sparse.run(gates, x), expected),
        "compact": difference(compact_network(net, sparse.groups, gates)(x), expected),
        "compact_to_hooks": difference(compact_network(net, sparse.groups, some)(x), hooked(sparse, plain, gates, x)),
        "groups_with_hooks": len(plain),
    }


def _speed(sparse: SparseModule, gates: Gates, x: Tensor) -> dict[str, Any]:
    """Cost and time, in float32, of dense and finished networks."""
    net = sparse.net
    small = compact_network(net, sparse.groups, {name: gate.float() for name, gate in gates.items()})
    dense_cost, small_cost = cost(net, x[:1]), cost(small, x[:1])
    timing = interleaved({"dense": lambda: net(x), "compact": lambda: small(x)}, rounds=_ROUNDS)
    return {
        "parameters": {"dense": dense_cost.parameters, "compact": small_cost.parameters},
        "macs": {"dense": dense_cost.macs, "compact": small_cost.macs},
        "forward_seconds": {name: round(value, 4) for name, value in timing.seconds.items()},
        "forward_ratio": round(timing.ratio["compact"], 4),
    }


@torch.no_grad()
def measure(name: str) -> dict[str, Any]:
    """Puts gates on a model, and compares all ways to run it."""
    net, x = build(name), images(name, _BATCH)
    start = time.perf_counter()
    sparse = sparsify(net, x[:2])
    seconds = time.perf_counter() - start
    gates = random_gates(sparse)
    set_statistics(net, lambda: masked_forward(net, sparse.groups, gates, x))
    speed = _speed(sparse, gates, x)
    sparse.double()
    dense = Counter(_shown(reason) for reason in sparse.structure.dense.values())
    return {
        "sparsify_seconds": round(seconds, 2),
        "groups": len(sparse.groups),
        "gates": sum(group.size for group in sparse.groups),
        "dense_layers": len(sparse.structure.dense),
        "dense_reasons": dict(dense.most_common()),
        "difference": _agreement(sparse, gates, x[:2].double()),
        **speed,
    }


def by_torch_pruning(name: str) -> dict[str, Any]:
    """What torch-pruning takes for the same search; nothing where it is not installed."""
    try:
        import torch_pruning  # noqa: PLC0415 (optional, and slow to import)
    except ImportError:
        return {"error": "not installed"}
    net, x = build(name), images(name, 2)
    start = time.perf_counter()
    graph = torch_pruning.DependencyGraph().build_dependency(net, example_inputs=x)
    built = time.perf_counter() - start
    groups = sum(1 for _ in graph.get_all_groups())
    return {"build_seconds": round(built, 2), "seconds": round(time.perf_counter() - start, 2), "groups": groups}
