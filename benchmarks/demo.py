"""The job of ``make demo`` for three seeds: what the README reports of it."""

import argparse
import statistics
import tempfile
from pathlib import Path

from record import record

from l0bayes.inference.command_line.train import train
from l0bayes.inference.command_line.train_options import TrainOptions

SEEDS = (0, 1, 2)


def main() -> None:
    """Trains, compacts and measures; last-epoch test errors, each seed and the mean."""
    argparse.ArgumentParser(description=__doc__).parse_args()  # no options: only --help
    runs = {}
    for seed in SEEDS:
        with tempfile.TemporaryDirectory() as folder:
            summary = train(TrainOptions(seed=seed, out=str(Path(folder)), thin=True, progress=False))
        summary["options"].pop("out")
        runs[f"seed_{seed}"] = summary
    mean = {
        name: statistics.mean(run["test_error"][name] for run in runs.values())
        for name in ("dense", "thin", "gated", "compacted")
    }
    record("demo", SEEDS[0], {"mean_test_error": mean, **runs})


if __name__ == "__main__":
    main()
