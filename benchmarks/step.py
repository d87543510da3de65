"""One training step, forward, backward and Adam: dense, masked, and only the subnetwork.

``dense`` is the plain network in plain torch. ``masked`` and ``subnetwork`` are the same gates on the same weights
under ClosedFormKL_ELBO: the first leaves closed features in as zeros, the second, the library's way, takes them out.
Gates are open or closed for certain, so that each step of a row does the same work. ``finished`` is the compacted
network trained in plain torch: what no way to run the subnetwork can be faster than.
"""

import argparse
from collections.abc import Sequence
from typing import Any

import torch
from networks import NETWORKS, SEED, Gated, Network, Openness, dense_step, elbo_step, gated, synchronised
from record import record
from step_parts import parts
from torch import Tensor

from l0bayes import compact
from l0bayes.inference.system.timing import interleaved
from l0bayes.posterior.cost import cost

SHARES = (1.0, 0.7, 0.5, 0.25)
PARTS_OF = {"lenet": "20-25-45-462", "mlp": "219-214-100", "wrn": "0.5"}
_SECONDS = 0.05


def difference(masked: Gated, subnetwork: Gated, x: Tensor) -> float:
    """Between the outputs of both, relative to the largest."""
    gates = masked.guide.point()
    with torch.no_grad():
        expected, found = (it.sparse.run(gates, x) for it in (masked, subnetwork))
    return float((found - expected).abs().max() / expected.abs().max())


def row(network: Network, openness: Openness, rounds: int, device: str) -> dict[str, Any]:
    """Times the four steps, interleaved, at one openness."""
    x, y = (value.to(device) for value in network.data())
    dense = network.seeded().to(device)
    masked, subnetwork = (gated(network, openness, masked=masked, device=device) for masked in (True, False))
    error = difference(masked, subnetwork, x)
    finished = compact(subnetwork.model, subnetwork.guide).train()
    macs = cost(finished, x[:1]).macs / cost(dense, x[:1]).macs
    steps = {
        "dense": dense_step(dense, x, y),
        "masked": elbo_step(masked, x, y),
        "subnetwork": elbo_step(subnetwork, x, y),
        "finished": dense_step(finished, x, y),
    }
    timing = interleaved(synchronised(steps, device), rounds=rounds, seconds=_SECONDS)
    return {
        "milliseconds": {name: round(1e3 * value, 3) for name, value in timing.seconds.items()},
        "ratio_to_dense": {name: round(value, 3) for name, value in timing.ratio.items()},
        "macs_ratio": round(macs, 4),
        "difference_of_outputs": float(f"{error:.1e}"),
    }


def table(results: dict[str, Any]) -> str:
    """The ratios as a Markdown table."""
    heads = "network", "open", "dense, ms", "masked / dense", "subnetwork / dense", "finished / dense", "MACs"
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for name, rows in results.items():
        for open_, numbers in rows.items():
            ratio = numbers["ratio_to_dense"]
            lines.append(
                f"| {name} | {open_} | {numbers['milliseconds']['dense']} | {ratio['masked']} | {ratio['subnetwork']} "
                f"| {ratio['finished']} | {numbers['macs_ratio']} |"
            )
    return "\n".join(lines)


def arguments(default_models: Sequence[str], rounds: int) -> argparse.ArgumentParser:
    """The options that all of these benchmarks have."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--models", nargs="+", choices=NETWORKS, default=list(default_models))
    parser.add_argument("--rounds", type=int, default=rounds, help="how often each is timed")
    parser.add_argument("--device", default="cpu")
    return parser


def main() -> None:
    """Times every network at every openness, and where the time of one row goes."""
    options = arguments(("lenet", "mlp", "wrn"), 15).parse_args()
    results: dict[str, Any] = {}
    pieces: dict[str, Any] = {}
    for name in options.models:
        network, slow = NETWORKS[name], name.startswith("wrn")
        rounds = min(options.rounds, 5) if slow else options.rounds
        openness = network.openness(SHARES)
        results[name] = {key: row(network, value, rounds, options.device) for key, value in openness.items()}
        if (key := PARTS_OF.get(name, "")) in openness and not slow:
            pieces[f"{name} {key}"] = parts(network, openness[key], rounds, options.device)
    record("step", SEED, {"steps": results, "milliseconds_by_part": pieces}, table(results))


if __name__ == "__main__":
    main()
