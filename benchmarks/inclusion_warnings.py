"""How often the sampler of inclusion probabilities is wrong without saying so, and how often it warns for nothing.

Data sets of five designs with noise and slab unknown, the default call of ``method="gibbs"`` on each. The truth: up to
15 columns enumeration, beyond that a run with other starts and other chance. Wrong is an error above 0.1 in any
probability; a warning is for nothing where no error is above 0.05. Logistic regressions beside them.
"""

import argparse
import time
import warnings
from typing import Any

import numpy as np
from gibbs import DESIGNS, EFFECTS, columns_of
from record import record
from torch.distributions import Beta

from l0bayes.inference import infer_inclusion
from l0bayes.models import SpikeSlabRegression

Arr = np.ndarray

COLUMNS = {10: 25, 15: 30, 30: 50, 60: 80}  # and rows
MOST_EXACT = 15
WRONG, NOTHING = 0.1, 0.05
PRIORS = {"0.3 or 6 / p": lambda p: min(0.3, 6 / p), "Beta(1, 1)": lambda p: Beta(1.0, 1.0)}  # noqa: ARG005
LIKELIHOODS = ("gaussian", "bernoulli")


def problem(design: str, p: int, seed: int, likelihood: str) -> tuple[Arr, Arr]:
    """Columns and responses; effects of random size, sign and place."""
    rng = np.random.default_rng([seed, p, DESIGNS.index(design)])
    rows = COLUMNS[p] * (1 if likelihood == "gaussian" else 3)
    x, effects = columns_of(design, rows, p, rng), np.zeros(p)
    number = int(rng.integers(0, len(EFFECTS) + 1))
    effects[rng.choice(p, number, replace=False)] = EFFECTS[:number] * rng.choice([-1, 1], number)
    output = x @ effects
    if likelihood == "gaussian":
        return x, output + rng.normal(size=rows)
    return x, (rng.uniform(size=rows) < 1 / (1 + np.exp(-output))).astype(float)


def one(design: str, p: int, seed: int, prior: str, likelihood: Any) -> dict[str, Any]:
    """A data set: the error, what was said, and how long it took."""
    x, y = problem(design, p, seed, likelihood)
    if len(set(y)) == 1:
        y[0] = 1 - y[0]
    model = SpikeSlabRegression(x, y, likelihood=likelihood, inclusion=PRIORS[prior](p))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        begin = time.process_time()
        found = infer_inclusion(model, "gibbs", seed=seed)
        seconds = time.process_time() - begin
        if p <= MOST_EXACT:
            truth = infer_inclusion(model, "exact")
        else:
            truth = infer_inclusion(model, "gibbs", draws=4000, seed=10_000 + seed)
    return {
        "error": float(np.abs(found.inclusion - truth.inclusion).max()),
        "mcse": float(found.table["mcse"].max()),
        "error_of_truth": float(truth.table["mcse"].max()),
        "warned": bool(found.diagnostics),
        "cpu_seconds": seconds,
    }


def summed(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """A row of the table."""
    error, warned = np.array([run["error"] for run in runs]), np.array([run["warned"] for run in runs])
    return {
        "data_sets": len(runs),
        "largest_error": round(float(error.max()), 3),
        "mean_of_largest_errors": round(float(error.mean()), 4),
        "wrong": int((error > WRONG).sum()),
        "wrong_without_warning": int((~warned & (error > WRONG)).sum()),
        "warnings": int(warned.sum()),
        "warnings_for_nothing": int((warned & (error < NOTHING)).sum()),
        "largest_mcse_of_the_truth": round(max(run["error_of_truth"] for run in runs), 3),
        "median_cpu_seconds": round(float(np.median([run["cpu_seconds"] for run in runs])), 2),
        "largest_cpu_seconds": round(max(run["cpu_seconds"] for run in runs), 2),
    }


def table(results: dict[str, Any]) -> str:
    """As Markdown."""
    heads = ["responses", "columns", "prior", "data sets", "largest error", "mean", "> .1", "of these silent"]
    heads += ["warnings", "for nothing", "CPU s"]
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for likelihood, sizes in results.items():
        for p, priors in sizes.items():
            for prior, it in priors.items():
                cells = [likelihood, p, prior, it["data_sets"], it["largest_error"], it["mean_of_largest_errors"]]
                cells += [it["wrong"], it["wrong_without_warning"], it["warnings"], it["warnings_for_nothing"]]
                lines.append("| " + " | ".join(map(str, [*cells, it["median_cpu_seconds"]])) + " |")
    return "\n".join(lines)


def main() -> None:
    """Runs all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sets", type=int, default=8, help="data sets of each design")
    parser.add_argument("--columns", nargs="+", type=int, choices=list(COLUMNS), default=list(COLUMNS))
    parser.add_argument("--likelihoods", nargs="+", choices=LIKELIHOODS, default=list(LIKELIHOODS))
    options = parser.parse_args()
    results: dict[str, Any] = {}
    for likelihood in options.likelihoods:
        results[likelihood] = {}
        for p in options.columns:
            results[likelihood][str(p)] = {}
            for prior in PRIORS if likelihood == "gaussian" else list(PRIORS)[:1]:
                runs = [one(design, p, seed, prior, likelihood) for design in DESIGNS for seed in range(options.sets)]
                results[likelihood][str(p)][prior] = summed(runs)
                print(likelihood, p, prior, results[likelihood][str(p)][prior], flush=True)
                record("inclusion_warnings", 0, results, table(results))  # a run that is stopped leaves what it has


if __name__ == "__main__":
    main()
