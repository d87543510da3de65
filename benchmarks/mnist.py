"""LeNet-5 and the MLP of the paper's Table 1 on MNIST: train, keep the finished networks, evaluate them again.

Each file in ``configs/`` is a configuration of ``l0bayes train``, chosen on the validation part. A run writes the
compacted network and its summary (last-epoch test errors, seconds, options, versions) to ``results/mnist/``; the
working folder holds the checkpoints from which an interrupted run goes on. ``--check`` evaluates what is stored.
"""

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

import torch
import yaml
from record import RESULTS, facts

from l0bayes.inference import load
from l0bayes.inference.data import load_data
from l0bayes.inference.train import train
from l0bayes.inference.train_options import TrainOptions
from l0bayes.models import MLP, LeNet5
from l0bayes.posterior.cost import cost

CONFIGS = Path(__file__).parent / "configs"
STORE = RESULTS / "mnist"
SEEDS = (0, 1, 2)


def run(name: str, seed: int, data_dir: str, out: str) -> None:
    """Trains one configuration with one seed and stores what came of it."""
    chosen = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())
    folder = Path(out) / f"{name}-{seed}"
    summary = train(TrainOptions(**chosen, seed=seed, data_dir=data_dir, out=str(folder), progress=False))
    for given in ("out", "data_dir"):
        summary["options"].pop(given)
    STORE.mkdir(parents=True, exist_ok=True)
    shutil.copy(folder / "compacted.safetensors", STORE / f"{name}-{seed}.safetensors")
    (STORE / f"{name}-{seed}.json").write_text(json.dumps({**facts(seed), "results": summary}, indent=2) + "\n")


def check(data_dir: str) -> None:
    """Evaluates every stored network and compares with its summary."""
    test = load_data("mnist", data_dir).test
    for path in sorted(STORE.glob("*.json")):
        stored = json.loads(path.read_text())["results"]
        lenet = stored["options"]["network"] == "lenet5"
        full = LeNet5() if lenet else MLP(784, *stored["options"]["hidden"], 10)
        small = load(path.with_suffix(".safetensors"), full)
        x = test.x.unsqueeze(1) if lenet else test.x
        with torch.no_grad():
            error = float((small(x).argmax(-1) != test.y).double().mean())
        found = cost(small, x[:1])
        same = (
            found.parameters == stored["parameters"]["after"]
            and round(error - stored["test_error"]["compacted"], 6) == 0
        )
        verdict = "as stored" if same else "NOT AS STORED"
        print(f"{path.stem}: {error:.2%}, {found.parameters:,} parameters, {found.macs:,} MACs: {verdict}")


def table() -> str:
    """All stored runs as a Markdown table."""
    lines = [
        "| run | dense error | compacted | architecture | parameters | MACs | seconds, gated / dense |",
        "|---" * 7 + "|",
    ]
    for path in sorted(STORE.glob("*.json")):
        it: dict[str, Any] = json.loads(path.read_text())["results"]
        errors, seconds = it["test_error"], it["seconds"]
        shares = [f"{it[what]['after'] / it[what]['before']:.2%}" for what in ("parameters", "macs")]
        lines.append(
            f"| {path.stem} | {errors['dense']:.2%} | {errors['compacted']:.2%} | {it['architecture']['after']} "
            f"| {it['parameters']['after']:,} ({shares[0]}) | {shares[1]} | {seconds['gated'] / seconds['dense']:.2f} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Runs configurations, or checks what is stored."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--configs", nargs="+", default=sorted(path.stem for path in CONFIGS.glob("*.yaml")))
    parser.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS))
    parser.add_argument("--data-dir", default="data", help="folder that holds MNIST/raw")
    parser.add_argument("--out", default="out/mnist", help="working folder, with checkpoints")
    parser.add_argument("--check", action="store_true", help="evaluate the stored networks instead")
    options = parser.parse_args()
    if options.check:
        check(options.data_dir)
    else:
        for name in options.configs:
            for seed in options.seeds:
                run(name, seed, options.data_dir, options.out)
    print(table())


if __name__ == "__main__":
    main()
