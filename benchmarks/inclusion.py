"""Inclusion probabilities of spike-and-slab regression by each method, against enumeration of all models.

20 simulated sets of 100 rows and 10 predictors each, independent and with pairwise correlation 0.9, 5 seeds a set, and
scikit-learn's diabetes data (standardised, noise variance 0.49, slab variance 0.25). ``mean-field``, which trains a
hard concrete guide by SVI, is run with one seed a set.
"""

import argparse
import warnings
from typing import Any

import numpy as np
from record import record
from sklearn.datasets import load_diabetes

from l0bayes.inference import infer_inclusion
from l0bayes.models import SpikeSlabRegression, exact_posterior

SETS, ROWS, PREDICTORS = 20, 100, 10
METHODS = ("mean-field", "binary", "mixture", "importance")
OFF = 0.2  # an error that must not go without a warning

Problem = tuple[SpikeSlabRegression, np.ndarray]  # the model, and the truth


def simulated(correlation: float, seed: int) -> Problem:
    """A set with unit noise and slab; four predictors have an effect."""
    rng = np.random.default_rng(seed)
    shared = rng.normal(size=(ROWS, 1))
    x = np.sqrt(1 - correlation) * rng.normal(size=(ROWS, PREDICTORS)) + np.sqrt(correlation) * shared
    y = x[:, :4] @ [1.0, 0.6, 0.3, 0.2] + rng.normal(size=ROWS)
    model = SpikeSlabRegression(x, y, noise_scale=1.0, slab_scale=1.0)
    return model, exact_posterior(x, y, 1.0, 1.0).inclusion


def diabetes() -> Problem:
    """Ten predictors of the progression of a disease in 442 patients, some of them highly correlated."""
    x, y = load_diabetes(return_X_y=True)
    x, y = x / x.std(0), (y - y.mean()) / y.std()
    return SpikeSlabRegression(x, y, noise_scale=0.7, slab_scale=0.5), exact_posterior(x, y, 0.7, 0.5).inclusion


def row(problems: list[Problem], method: Any, seeds: int) -> dict[str, Any]:
    """Largest errors of a method over problems and seeds, and whether it knew."""
    errors, warned, found = [], [], []
    for model, truth in problems:
        for seed in range(1 if method == "mean-field" else seeds):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                it = infer_inclusion(model, method, seed=seed)
            errors.append(float(np.abs(it.inclusion - truth).max()))
            warned.append(bool(it.diagnostics))
            found.append(it)
    off = [error > OFF for error in errors]
    return {
        "runs": len(errors),
        "largest_error": round(max(errors), 4),
        "mean_of_largest_errors": round(float(np.mean(errors)), 4),
        "off_by_more_than_0.2": sum(off),
        "of_these_warned_of": sum(w for w, o in zip(warned, off, strict=True) if o),
        "warned_of": sum(warned),
        "median_seconds": round(float(np.median([it.seconds for it in found])), 3),
        "median_evaluations": float(np.median([it.evaluations for it in found])),
    }


def table(results: dict[str, dict[str, Any]]) -> str:
    """As Markdown."""
    lines = [
        "| data | method | largest error | mean | off by > 0.2 | of these with a warning | seconds |",
        "|---" * 7 + "|",
    ]
    for data, methods in results.items():
        for method, it in methods.items():
            off = f"{it['off_by_more_than_0.2']} of {it['runs']} | {it['of_these_warned_of']}"
            errors = f"{it['largest_error']:.3f} | {it['mean_of_largest_errors']:.3f}"
            lines.append(f"| {data} | {method} | {errors} | {off} | {it['median_seconds']:.2f} |")
    return "\n".join(lines)


def main() -> None:
    """Runs all methods on all data."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--seeds", type=int, default=5)
    options = parser.parse_args()
    data = {
        "independent": [simulated(0.0, seed) for seed in range(SETS)],
        "correlation 0.9": [simulated(0.9, seed) for seed in range(SETS)],
        "diabetes": [diabetes()],
    }
    results = {
        name: {method: row(problems, method, options.seeds) for method in options.methods}
        for name, problems in data.items()
    }
    record("inclusion", 0, results, table(results))


if __name__ == "__main__":
    main()
