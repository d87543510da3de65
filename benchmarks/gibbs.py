"""Inclusion probabilities with noise and slab unknown: the sampler, a plain NumPy Gibbs at equal CPU time, importance.

Five designs, six effects from 1 to 0.3, unit noise, slab by Zellner and Siow. The truth: with 12 columns enumeration;
with more, the mean of two other and longer runs of the sampler. ``plain`` redraws one indicator after the other from
its full conditional by dense algebra over the set, with three swaps a sweep, from the empty set. ``importance`` takes
the noise that mean field finds for known.
"""

import argparse
import resource
import time
import warnings
from typing import Any

import numpy as np
from record import record

from l0bayes.inference import infer_inclusion
from l0bayes.models import SpikeSlabRegression, exact_posterior

DESIGNS = ("independent", "AR .8", "equicorrelated .9", "blocks .95", "pairs .999")
SIZES = {12: 25, 100: 100, 1000: 300}  # columns: rows
WIDE = {4088: 71, 10_000: 200}
IMPORTANCE = 12  # columns up to which importance sampling is run
EXPECTED = 6
EFFECTS = np.array([1.0, -0.8, 0.6, 0.5, -0.4, 0.3])
OFF = 0.1

Arr = np.ndarray


def columns_of(design: str, rows: int, p: int, rng: np.random.Generator) -> Arr:
    """Columns of variance 1."""
    x = rng.normal(size=(rows, p))
    if design == "AR .8":
        for j in range(1, p):
            x[:, j] = 0.8 * x[:, j - 1] + 0.6 * x[:, j]
    close = {"equicorrelated .9": (p, 0.9), "blocks .95": (5, 0.95), "pairs .999": (2, 0.999)}
    if design in close:
        size, share = close[design]
        common = np.repeat(rng.normal(size=(rows, -(-p // size))), size, 1)[:, :p]
        x = np.sqrt(1 - share) * x + np.sqrt(share) * common
    return x


def problem(design: str, rows: int, p: int, seed: int) -> tuple[Arr, Arr]:
    """Columns and responses."""
    rng = np.random.default_rng(seed)
    x, effects = columns_of(design, rows, p, rng), np.zeros(p)
    effects[np.linspace(0, p - 1, len(EFFECTS)).astype(int)] = EFFECTS
    return x, x @ effects + rng.normal(size=rows)


def plain(x: Arr, y: Arr, share: float, seconds: float, seed: int) -> Arr:
    """A collapsed Gibbs sampler as anybody would write it, for so many CPU seconds, half of them warm-up."""
    rng, p = np.random.default_rng(seed), x.shape[1]
    x, y = (x - x.mean(0)) / x.std(0), y - y.mean()
    gram, moment, total = x.T @ x, x.T @ y, float(y @ y)
    inside, log_v, count, kept = np.zeros(p, dtype=bool), 0.0, np.zeros(p), 0

    def log_joint(inside: Arr, log_v: float) -> float:
        at = inside.nonzero()[0]
        matrix = gram[np.ix_(at, at)] + np.exp(-log_v) * np.eye(len(at))
        rss = total - moment[at] @ np.linalg.solve(matrix, moment[at])
        log_det = np.linalg.slogdet(matrix)[1] + len(at) * log_v
        prior = len(at) * np.log(share / (1 - share)) - 0.5 * log_v - 0.5 * np.exp(-log_v)
        return float(-0.5 * log_det - 0.5 * (len(y) - 1) * np.log(rss) + prior)

    current, begin = log_joint(inside, log_v), time.process_time()
    while (spent := time.process_time() - begin) < seconds or not kept:
        for column in rng.permutation(p):
            other = inside.copy()
            other[column] ^= True
            theirs = log_joint(other, log_v)
            if np.log(rng.uniform()) < -np.logaddexp(0, current - theirs):
                inside, current = other, theirs
            if time.process_time() - begin > seconds and kept:
                break
        for _ in range(3 if 0 < inside.sum() < p else 0):
            other = inside.copy()
            other[[rng.choice(inside.nonzero()[0]), rng.choice((~inside).nonzero()[0])]] ^= True
            theirs = log_joint(other, log_v)
            if np.log(rng.uniform()) < theirs - current:
                inside, current = other, theirs
        proposed = log_v + rng.normal()
        theirs = log_joint(inside, proposed)
        if np.log(rng.uniform()) < theirs - current:
            log_v, current = proposed, theirs
        if spent > seconds / 2 or not kept:
            count, kept = count + inside, kept + 1
    return count / kept


def timed(model: SpikeSlabRegression, method: Any, **options: Any) -> tuple[Any, float]:
    """What a method finds, and its CPU seconds."""
    begin = time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = infer_inclusion(model, method, **options)
    return found, time.process_time() - begin


def rows_of(p: int, rows: int, designs: list[str], draws: int, *, importance: bool) -> dict[str, Any]:
    """Errors, CPU seconds and warnings of each method on each design."""
    results: dict[str, Any] = {}
    for design in designs:
        x, y = problem(design, rows, p, 1)
        share = EXPECTED / p if p > EXPECTED * 2 else 0.3
        model = SpikeSlabRegression(x, y, inclusion=share)
        found, seconds = timed(model, "gibbs", draws=draws)
        if p <= IMPORTANCE:
            truth = exact_posterior(x, y, inclusion=share).inclusion
        else:
            others = [timed(model, "gibbs", draws=2 * draws, seed=seed)[0].inclusion for seed in (11, 12)]
            truth = np.mean(others, 0)
        result = {"gibbs": entry(found.inclusion, truth, seconds, bool(found.diagnostics))}
        result["gibbs"] |= {"largest_mcse": round(float(found.table["mcse"].max()), 4)}
        result["plain"] = entry(plain(x, y, share, seconds, 1), truth, seconds, warned=False)
        if importance and p <= IMPORTANCE:
            by_weights, spent = timed(model, "importance")
            result["importance"] = entry(by_weights.inclusion, truth, spent, bool(by_weights.diagnostics))
        results[design] = result
        print(p, design, result, flush=True)
    return results


def entry(inclusion: Arr, truth: Arr, seconds: float, warned: bool) -> dict[str, Any]:  # noqa: FBT001 (a column)
    """One cell of the table."""
    error = float(np.abs(inclusion - truth).max())
    return {"largest_error": round(error, 4), "cpu_seconds": round(seconds, 2), "warned": warned}


def wide(p: int, rows: int, draws: int) -> dict[str, Any]:
    """Two seeds where columns are many more than rows."""
    rng = np.random.default_rng(p)
    factors = rng.normal(size=(rows, 10)) @ rng.normal(size=(10, p))
    x = 0.5 * factors + rng.normal(size=(rows, p))
    y = x[:, :5] @ [1.5, -1.0, 1.0, 0.8, 0.6] + rng.normal(size=rows)
    model = SpikeSlabRegression(x, y, expected_open=EXPECTED)
    (one, seconds), (other, _) = (timed(model, "gibbs", draws=draws, seed=seed) for seed in (1, 2))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    gap = float(np.abs(one.inclusion - other.inclusion).max())
    found = {"difference_of_two_seeds": round(gap, 4), "largest_mcse": round(float(one.table["mcse"].max()), 4)}
    found |= {"cpu_seconds": round(seconds, 2), "peak_gigabytes": round(peak, 2), "warned": bool(one.diagnostics)}
    print(p, found, flush=True)
    return found


def table(results: dict[str, Any]) -> str:
    """As Markdown."""
    lines = ["| columns | rows | design | method | largest error | CPU s | warned |", "|---" * 7 + "|"]
    for p, designs in results["designs"].items():
        for design, methods in designs.items():
            for method, it in methods.items():
                said = "yes" if it["warned"] else "–" if method == "plain" else "no"
                numbers = f"{it['largest_error']:.3f} | {it['cpu_seconds']:.1f} | {said}"
                lines.append(f"| {p} | {SIZES[int(p)]} | {design} | {method} | {numbers} |")
    lines += ["", "| columns | rows | two seeds differ by | CPU s | peak memory, GB |", "|---" * 5 + "|"]
    for p, it in results["wide"].items():
        numbers = f"{it['difference_of_two_seeds']:.3f} | {it['cpu_seconds']:.1f} | {it['peak_gigabytes']:.2f}"
        lines.append(f"| {p} | {WIDE[int(p)]} | {numbers} |")
    return "\n".join(lines)


def main() -> None:
    """Runs all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--designs", nargs="+", choices=DESIGNS, default=list(DESIGNS))
    parser.add_argument("--sizes", nargs="+", type=int, choices=[*SIZES, *WIDE], default=[*SIZES, *WIDE])
    parser.add_argument("--draws", type=int, default=3000)
    parser.add_argument("--without-importance", action="store_true")
    options = parser.parse_args()
    results = {
        "designs": {
            str(p): rows_of(p, rows, options.designs, options.draws, importance=not options.without_importance)
            for p, rows in SIZES.items()
            if p in options.sizes
        },
        "wide": {str(p): wide(p, rows, min(options.draws, 1000)) for p, rows in WIDE.items() if p in options.sizes},
    }
    record("gibbs", 1, results, table(results))


if __name__ == "__main__":
    main()
