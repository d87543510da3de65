"""Peak memory of one training step: dense, masked, and only the subnetwork.

On a CPU torch's profiler reports each allocation and release of a tensor's memory (``[memory]`` events of
``profile_memory=True``). Their running sum over one step, from its start on, has a maximum: the *peak* that the step
adds to what was held before it, parameters, their optimizer's state and the batch. Gradients are made in the step and
count. What libraries allocate by themselves, such as the scratch space of oneDNN, is not seen. On a GPU the same is
``torch.cuda.max_memory_allocated`` over what was allocated before. The second step is measured, the first one having
made the state of the optimizer.
"""

import gc
import os
from typing import Any

import torch
from networks import NETWORKS, SEED, Network, Openness, Step, adam, gated
from record import record
from step import SHARES, arguments
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from l0bayes.inference import ClosedFormKL_ELBO

_MIB = 2**20


def _cpu_peak(step: Step) -> int:
    """The largest sum of bytes allocated and not released since the start of the step."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        step()
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak


def _gpu_peak(step: Step) -> int:
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    step()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def peak(module: nn.Module, loss: Any, device: str) -> dict[str, float]:
    """MiB that a training step adds, and those that are held before it in parameters, buffers and optimizer."""
    optimizer = adam(module.parameters())

    def step() -> None:
        loss().backward()
        optimizer.step()

    step()
    optimizer.zero_grad()
    gc.collect()
    held = [*module.parameters(), *module.buffers()]
    held += [value for state in optimizer.state.values() for value in state.values() if isinstance(value, Tensor)]
    added = _cpu_peak(step) if device == "cpu" else _gpu_peak(step)
    before = sum(value.numel() * value.element_size() for value in held)
    return {"peak_MiB": round(added / _MIB, 3), "held_before_MiB": round(before / _MIB, 3)}


def row(network: Network, openness: Openness, device: str) -> dict[str, Any]:
    """The three steps at one openness."""
    x, y = (value.to(device) for value in network.data())
    dense = network.seeded().to(device)
    found = {"dense": peak(dense, lambda: torch.nn.functional.cross_entropy(dense(x), y), device)}
    for name in ("masked", "subnetwork"):
        it = gated(network, openness, masked=name == "masked", device=device)
        elbo = ClosedFormKL_ELBO()(it.model, it.guide)
        found[name] = peak(elbo, lambda elbo=elbo: elbo(x, y), device)
        found[name]["ratio_to_dense"] = round(found[name]["peak_MiB"] / found["dense"]["peak_MiB"], 3)
    return found


def table(results: dict[str, Any]) -> str:
    """The peaks as a Markdown table."""
    lines = ["| network | open | dense, MiB | masked, MiB | subnetwork, MiB | masked | subnetwork |", "|---" * 7 + "|"]
    for name, rows in results.items():
        for open_, found in rows.items():
            peaks = " | ".join(str(numbers["peak_MiB"]) for numbers in found.values())
            ratios = " | ".join(str(found[key]["ratio_to_dense"]) for key in ("masked", "subnetwork"))
            lines.append(f"| {name} | {open_} | {peaks} | {ratios} |")
    return "\n".join(lines)


def main() -> None:
    """Measures every network at every openness."""
    options = arguments(("lenet", "mlp", "wrn"), 1).parse_args()
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler says when it starts and stops
    results = {
        name: {
            key: row(NETWORKS[name], value, options.device) for key, value in NETWORKS[name].openness(SHARES).items()
        }
        for name in options.models
    }
    record("memory", SEED, results, table(results))


if __name__ == "__main__":
    main()
