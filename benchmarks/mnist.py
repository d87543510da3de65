"""LeNet-5 and the MLP of the paper's Table 1 on MNIST: train, keep the finished networks, evaluate them again.

Each file in ``configs/`` is a configuration of ``l0bayes train``, chosen on the validation part; those called
``dropout-…`` have no gates. A run writes its summary (last-epoch test errors, scores by test-time rule, seconds,
options, versions) to ``results/mnist/``, with the finished network, if it has gates; the working folder holds the
checkpoints from which an interrupted run resumes. ``--check`` evaluates what is stored.
"""

import argparse
import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import yaml
from mnist_table import STORE, table
from record import facts
from scores import dense_scores, gated_scores

from l0bayes.inference import load
from l0bayes.inference.command_line.job import Job
from l0bayes.inference.command_line.train import train, train_one
from l0bayes.inference.command_line.train_options import TrainOptions
from l0bayes.inference.data.datasets import load_data
from l0bayes.models import MLP, LeNet5
from l0bayes.posterior.cost import cost

CONFIGS = Path(__file__).parent / "configs"
SEEDS = (0, 1, 2)


def run(
    name: str, seed: int, data_dir: str, out: str, *, dense: bool = True, changes: dict[str, Any] | None = None
) -> None:
    """Trains one configuration, perhaps changed, with one seed and stores what came of it.

    Args:
        name: of the file in ``configs/``.
        seed: of everything.
        data_dir: folder that holds ``MNIST/raw``.
        out: folder of the checkpoints.
        dense: whether to train the dense network too, where the configuration compares with it.
        changes: options to change; they become a part of the name under which the result is stored.
    """
    chosen = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text()) | (changes or {})
    stem = "-".join([name, *(f"{key}={value}" for key, value in (changes or {}).items()), str(seed)])
    folder = Path(out) / stem
    chosen["compare"] = chosen.get("compare", True) and dense
    options = TrainOptions(**chosen, seed=seed, data_dir=data_dir, out=str(folder), progress=False)
    STORE.mkdir(parents=True, exist_ok=True)
    if name.startswith("dropout"):
        summary = _baseline(options)
    else:
        summary = train(options)
        shutil.copy(folder / "compacted.safetensors", STORE / f"{stem}.safetensors")
        summary["scores"] = _scores(options)
    for given in ("out", "data_dir"):
        summary["options"].pop(given)
    (STORE / f"{stem}.json").write_text(json.dumps({**facts(seed), "results": summary}, indent=2) + "\n")


def _baseline(options: TrainOptions) -> dict[str, Any]:
    """Trains a network without gates; it is too large to keep."""
    job = Job(options)
    model, guide = job.build(gated=False)
    error, history = train_one(job, "dense", model, guide, Path(options.out))
    net = model.child("net").eval()
    size = cost(net, job.data.test.x[:1])
    return {
        "test_error": {"dense": error},
        "parameters": {"after": size.parameters},
        "macs": {"after": size.macs},
        "validation_error": {"dense": float(history["validation_error"].iloc[-1])},
        "seconds": {"dense": float(history["seconds"].sum())},
        "scores": {"dense": dense_scores(net, job.data.test)},
        "options": asdict(options),
    }


def _scores(options: TrainOptions) -> dict[str, dict[str, float]]:
    """How well each kind of prediction does on the test part."""
    job = Job(options)
    out = Path(options.out)
    model, guide = job.build(gated=True)
    scores = gated_scores(load(out / "model.safetensors", model), load(out / "guide.safetensors", guide), job.data.test)
    if options.compare:
        dense = load(out / "dense.safetensors", job.build(gated=False)[0].child("net"))
        scores["dense"] = dense_scores(dense, job.data.test)
    return scores


def check(data_dir: str) -> None:
    """Evaluates every stored network and compares with its summary."""
    test = load_data("mnist", data_dir).test
    for path in sorted(STORE.glob("*.safetensors")):
        stored = json.loads(path.with_suffix(".json").read_text())["results"]
        lenet = stored["options"]["network"] == "lenet5"
        small = load(
            path.with_suffix(".safetensors"), LeNet5() if lenet else MLP(784, *stored["options"]["hidden"], 10)
        )
        x = test.x.unsqueeze(1) if lenet else test.x
        with torch.no_grad():
            error = float((small(x).argmax(-1) != test.y).double().mean())
        found = cost(small, x[:1])
        same = found.parameters == stored["parameters"]["after"]
        same &= round(error - stored["test_error"]["compacted"], 6) == 0
        verdict = "as stored" if same else "NOT AS STORED"
        print(f"{path.stem}: {error:.2%}, {found.parameters:,} parameters, {found.macs:,} MACs: {verdict}")


def main() -> None:
    """Runs configurations, or checks what is stored."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--configs", nargs="+", default=sorted(path.stem for path in CONFIGS.glob("*.yaml")))
    parser.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS))
    parser.add_argument("--dense-seeds", nargs="*", type=int, default=list(SEEDS), help="seeds of dense networks")
    parser.add_argument("--set", nargs="+", default=[], metavar="OPTION=VALUE", help="changes to the configurations")
    parser.add_argument("--data-dir", default="data", help="folder that holds MNIST/raw")
    parser.add_argument("--download", action="store_true", help="fetch what is missing there")
    parser.add_argument("--out", default="out/mnist", help="working folder, with checkpoints")
    parser.add_argument("--check", action="store_true", help="evaluate the stored networks instead")
    options = parser.parse_args()
    changes = {key: yaml.safe_load(value) for key, _, value in (change.partition("=") for change in options.set)}
    if options.download:
        load_data("mnist", options.data_dir, download=True)
    if options.check:
        check(options.data_dir)
    else:
        for name in options.configs:
            for seed in options.seeds:
                dense = seed in options.dense_seeds
                run(name, seed, options.data_dir, options.out, dense=dense, changes=changes)
    print(table())


if __name__ == "__main__":
    main()
