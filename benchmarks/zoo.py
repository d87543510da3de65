"""Networks of torchvision, as they come: can they be gated, and do all ways to run them agree?

Every model runs in a process of its own with a time limit, so that none can hold up the others, and what fails is
recorded with its error. ``difference`` is relative to the largest output, in float64: of ``run`` and of the ``compact``
network from the masked one, and of the compact network from a reference of this benchmark's own, hooks that multiply
what plain layers are given by gates (``compact_to_hooks``; other groups' gates are 1 there).
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from record import record
from zoo_measure import by_torch_pruning, measure
from zoo_models import MODELS, SEED

_LIMIT = 300.0
_PRUNING_LIMIT = 100.0


def in_process(name: str, limit: float, *flags: str) -> dict[str, Any]:
    """Measures one model in a process of its own.

    Args:
        name: the model.
        limit: seconds after which it is given up.
        flags: further arguments of this script.

    Returns:
        What it found, or ``{"error": …}``.
    """
    command = [sys.executable, str(Path(__file__)), "--model", name, *flags]
    start = time.perf_counter()
    try:
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=limit)  # noqa: S603 (itself)
    except subprocess.TimeoutExpired:
        return {"error": "time limit", "wall_seconds": round(limit, 1)}
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        return {"error": lines[-1]}
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return {**found, "wall_seconds": round(time.perf_counter() - start, 1)}


def _pruning(found: dict[str, Any]) -> str:
    return found["error"].partition(":")[0] if "error" in found else f"{found['seconds']}"


def table(results: dict[str, Any]) -> str:
    """All models as a Markdown table."""
    heads = "model", "sparsify, s", "groups", "gates", "left dense", "run", "compact", "compact to hooks (groups)"
    heads += "parameters", "MACs", "forward, s", "torch-pruning, s"
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for name, found in results.items():
        last = _pruning(found["torch_pruning"])
        if "error" in found:
            lines.append(f"| {name} | {found['error']} " + "| " * 9 + f"| {last} |")
            continue
        error, taken = found["difference"], found["forward_seconds"]
        share = {key: found[key]["compact"] / found[key]["dense"] for key in ("parameters", "macs")}
        lines.append(
            f"| {name} | {found['sparsify_seconds']} | {found['groups']} | {found['gates']} | {found['dense_layers']} "
            f"| {error['run']:.0e} | {error['compact']:.0e} | {error['compact_to_hooks']:.0e} "
            f"({error['groups_with_hooks']}) | {share['parameters']:.2f} | {share['macs']:.2f} | {taken['dense']:.2f} "
            f"→ {taken['compact']:.2f} | {last} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Measures one model, or all of them one after the other."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", choices=MODELS, help="measure this one here and print what is found as JSON")
    parser.add_argument("--pruning", action="store_true", help="with --model: torch-pruning's search instead")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    options = parser.parse_args()
    if options.model:
        print(json.dumps((by_torch_pruning if options.pruning else measure)(options.model)))
        return
    results = {
        name: {
            **in_process(name, _LIMIT),
            "torch_pruning": in_process(name, _PRUNING_LIMIT, "--pruning"),
        }
        for name in options.models
    }
    record("zoo", SEED, results, table(results))


if __name__ == "__main__":
    main()
