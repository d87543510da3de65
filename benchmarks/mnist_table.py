"""What is stored in ``results/mnist/`` as Markdown tables: sizes and errors, means over seeds, scores by rule."""

import argparse
import json
from collections import defaultdict
from typing import Any

import numpy as np
from record import RESULTS

STORE = RESULTS / "mnist"


def stored() -> dict[str, dict[int, dict[str, Any]]]:
    """Name of a configuration to seed to results."""
    runs: dict[str, dict[int, dict[str, Any]]] = defaultdict(dict)
    for path in sorted(STORE.glob("*.json")):
        name, _, seed = path.stem.rpartition("-")
        runs[name][int(seed)] = json.loads(path.read_text())["results"]
    return dict(runs)


def _row(name: str, seed: int, it: dict[str, Any]) -> str:
    errors, seconds = it["test_error"], it["seconds"]
    if "gated" not in errors:
        return f"| {name} | {seed} | | {errors['dense']:.2%} | | {it['parameters']['after']:,} | 100 % | |"
    share = {what: it[what]["after"] / it[what]["before"] for what in ("parameters", "macs")}
    ratio = f"{seconds['gated'] / seconds['dense']:.2f}" if "dense" in seconds else ""
    dense = f"{errors['dense']:.2%}" if "dense" in errors else ""
    return (
        f"| {name} | {seed} | {errors['compacted']:.2%} | {dense} | {it['architecture']['after']} "
        f"| {it['parameters']['after']:,} ({share['parameters']:.2%}) | {share['macs']:.2%} | {ratio} |"
    )


def _mean(name: str, runs: dict[int, dict[str, Any]]) -> str:
    def mean(*keys: str) -> float:
        values = [run[keys[0]][keys[1]] for run in runs.values() if keys[1] in run[keys[0]]]
        return float(np.mean(values)) if values else np.nan

    kept, dense = mean("test_error", "compacted"), mean("test_error", "dense")
    cells = ["" if np.isnan(error) else f"**{error:.2%}**" for error in (kept, dense)]
    return f"| {name} | mean | {cells[0]} | {cells[1]} | | {mean('parameters', 'after'):,.0f} | | |"


def table() -> str:
    """All stored runs."""
    heads = "configuration", "seed", "test error", "dense", "architecture", "parameters", "MACs", "seconds / dense"
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for name, runs in stored().items():
        lines += [_row(name, seed, it) for seed, it in sorted(runs.items())]
        if len(runs) > 1:
            lines.append(_mean(name, runs))
    return "\n".join(lines) + "\n\n" + score_table()


def score_table() -> str:
    """Error, NLL and ECE by kind of prediction, means over seeds."""
    lines = ["| configuration | prediction | error | NLL, nats | ECE |", "|---" * 5 + "|"]
    for name, runs in stored().items():
        for kind in dict.fromkeys(kind for run in runs.values() for kind in run["scores"]):
            of_kind = [run["scores"][kind] for run in runs.values() if kind in run["scores"]]
            means = [np.mean([scores[what] for scores in of_kind]) for what in ("error", "nll", "ece")]
            lines.append(f"| {name} | {kind.replace('_', ' ')} | {means[0]:.2%} | {means[1]:.4f} | {means[2]:.4f} |")
    return "\n".join(lines)


def main() -> None:
    """Prints the tables of what is stored."""
    argparse.ArgumentParser(description=__doc__).parse_args()  # no options: only --help
    print(table())


if __name__ == "__main__":
    main()
