"""Forward passes of finished networks: does time fall as multiply-accumulates do?

``compact`` is the library's finished network, ``channels_last`` the same with images in that layout, and
``round_to_8`` one that keeps a multiple of 8 of each group. Times are divided by those of the dense network, which for
``channels_last`` has that layout too. ``quotient`` is the time ratio over the ratio of MACs, 1 being ideal.
"""

from typing import Any

import torch
from networks import NETWORKS, SEED, Gated, Network, Openness, Step, gated, synchronised
from record import record
from step import arguments
from torch import Tensor, nn

from l0bayes import compact
from l0bayes.inference.system.timing import interleaved
from l0bayes.posterior.cost import cost

SHARES = (0.7, 0.5, 0.25)
BATCHES = (1, 64, 1024)
TARGET = 1.3
_SECONDS = 0.02
_MIN_BATCH = 64


def finished(it: Gated) -> dict[str, nn.Module]:
    """The finished networks that are compared."""
    return {
        "compact": compact(it.model, it.guide),
        "channels_last": compact(it.model, it.guide).to(memory_format=torch.channels_last),
        "round_to_8": compact(it.model, it.guide, round_to=8),
    }


def _laid_out(x: Tensor, name: str) -> Tensor:
    return x.to(memory_format=torch.channels_last) if "channels_last" in name else x


def _call(net: nn.Module, x: Tensor) -> Step:
    return lambda: net(x)


def measure(nets: dict[str, nn.Module], x: Tensor, rounds: int, device: str) -> dict[str, Any]:
    """Times all networks on one batch, interleaved; the first of ``nets`` is the dense one."""
    calls = {name: _call(net, _laid_out(x, name)) for name, net in nets.items()}
    timing = interleaved(synchronised(calls, device), rounds=rounds, seconds=_SECONDS)
    macs = {name: cost(net, x[:1]).macs for name, net in nets.items()}
    found: dict[str, Any] = {
        "milliseconds": {name: round(1e3 * value, 3) for name, value in timing.seconds.items()},
    }
    for name in nets:
        if not name.startswith("dense"):
            reference = timing.ratio.get(f"dense_{name}", 1.0)
            time, work = timing.ratio[name] / reference, macs[name] / macs["dense"]
            found[name] = {"time": round(time, 4), "macs": round(work, 4), "quotient": round(time / work, 3)}
    return found


@torch.no_grad()
def row(network: Network, openness: Openness, batches: list[int], rounds: int, device: str) -> dict[str, Any]:
    """Every batch size at one openness."""
    dense = network.seeded().eval().to(device)
    nets = {"dense": dense, **finished(gated(network, openness, device=device))}
    nets["dense_channels_last"] = network.seeded().eval().to(device, memory_format=torch.channels_last)
    if len(network.rows) == 1:  # no images, no layout of theirs
        del nets["channels_last"], nets["dense_channels_last"]
    return {str(batch): measure(nets, network.data(batch)[0].to(device), rounds, device) for batch in batches}


def table(results: dict[str, Any]) -> str:
    """Time ratios, MAC ratios and their quotients as a Markdown table."""
    lines = ["| network | open | batch | variant | dense, ms | ms | time | MACs | quotient |", "|---" * 9 + "|"]
    for name, rows in results.items():
        for open_, batches in rows.items():
            for batch, numbers in batches.items():
                taken = numbers["milliseconds"]
                for variant in (key for key in numbers if key != "milliseconds"):
                    ratio = numbers[variant]
                    missed = int(batch) >= _MIN_BATCH and ratio["quotient"] > TARGET
                    lines.append(
                        f"| {name} | {open_} | {batch} | {variant} | {taken['dense']} | {taken[variant]} | "
                        f"{ratio['time']} | {ratio['macs']} | {ratio['quotient']}{' (missed)' if missed else ''} |"
                    )
    return "\n".join(lines)


def main() -> None:
    """Times every network at every openness and batch size."""
    parser = arguments(("lenet", "wrn", "wrn-1"), 15)
    parser.add_argument("--batches", nargs="+", type=int, default=list(BATCHES))
    options = parser.parse_args()
    results: dict[str, Any] = {}
    for name in options.models:
        network, rounds = NETWORKS[name], min(options.rounds, 5) if name.startswith("wrn") else options.rounds
        results[name] = {
            key: row(network, value, options.batches, rounds, options.device)
            for key, value in network.openness(SHARES).items()
        }
    record("forward", SEED, results, table(results))


if __name__ == "__main__":
    main()
