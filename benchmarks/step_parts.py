"""Where the time of one training step goes.

Pieces that build on each other (select; select and run; select, run, loss and backward) are timed interleaved with
the optimizer alone and with the whole step. What one adds to the one before is the time of its last part, and what the
whole step takes beyond them is that of drawing gates, Pyro, and the KL with its gradients.
"""

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F  # noqa: N812 (its usual name)
from networks import NUM_DATA, Gated, Network, Openness, Step, adam, dense_step, elbo_step, gated, synchronised
from torch import Tensor

from l0bayes.inference.system.timing import interleaved
from l0bayes.subnetwork.running import run_subnetwork

_SECONDS = 0.05


def _pieces(forward: Callable[[], Tensor], y: Tensor, leaves: list[Tensor], whole: Step) -> dict[str, Step]:
    """Forward, with the loss and backward too, the optimizer, and the whole step."""
    copies = [leaf.detach().clone() for leaf in leaves]
    for copy in copies:
        copy.grad = torch.zeros_like(copy)

    def backward() -> None:
        for leaf in leaves:
            leaf.grad = None
        (NUM_DATA * F.cross_entropy(forward(), y)).backward()

    return {"forward": forward, "backward": backward, "optimizer": adam(copies).step, "whole": whole}


def _gated_pieces(it: Gated, x: Tensor, y: Tensor) -> dict[str, Step]:
    net = it.sparse.child("net")
    gates = {name: gate.sample().requires_grad_() for name, gate in it.guide.gates().items()}

    def select() -> object:
        return it.sparse._select(net, gates)  # noqa: SLF001 (the piece to time)

    def forward() -> Tensor:
        output: Tensor = run_subnetwork(net, it.sparse._select(net, gates), x)  # noqa: SLF001
        return output

    pieces = _pieces(forward, y, [*net.parameters(), *gates.values()], elbo_step(it, x, y))
    return {"select": select, **pieces}


def _milliseconds(seconds: Mapping[str, float], name: str) -> dict[str, float]:
    """The time of each part, from what the pieces of one way to run take."""
    own = {key.partition(" ")[2]: value for key, value in seconds.items() if key.partition(" ")[0] == name}
    select = own.get("select", 0.0)
    found = {
        "narrowing": select,
        "forward": own["forward"] - select,
        "loss and backward": own["backward"] - own["forward"],
        "optimizer": own["optimizer"],
        "draws, Pyro and KL": own["whole"] - own["backward"] - own["optimizer"],
        "whole step": own["whole"],
    }
    return {key: round(1e3 * value, 3) for key, value in found.items()}


def parts(network: Network, openness: Openness, rounds: int, device: str) -> dict[str, dict[str, float]]:
    """Milliseconds of each part of a dense step, a masked one and one of the subnetwork."""
    x, y = (value.to(device) for value in network.data())
    dense = network.seeded().to(device)
    pieces = {
        "dense": _pieces(lambda: dense(x), y, list(dense.parameters()), dense_step(dense, x, y)),
        "masked": _gated_pieces(gated(network, openness, masked=True, device=device), x, y),
        "subnetwork": _gated_pieces(gated(network, openness, device=device), x, y),
    }
    steps = {f"{name} {key}": step for name, own in pieces.items() for key, step in own.items()}
    timing = interleaved(synchronised(steps, device), rounds=rounds, seconds=_SECONDS)
    first = timing.seconds[next(iter(steps))]
    seconds = {key: ratio * first for key, ratio in timing.ratio.items()}  # ratios of a round have the same weather
    return {name: _milliseconds(seconds, name) for name in pieces}
