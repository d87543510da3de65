"""Writes a benchmark's numbers to benchmarks/results/, with everything needed to run it again."""

import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyro
import torch

RESULTS = Path(__file__).parent / "results"
_PLACES = ("--data-dir", "--out", "--mnist", "--cifar", "--checkpoints")
_CODE = (":(top)", ":(top,exclude)benchmarks/results")  # results stored anew do not change what made them


def _git(*command: str) -> str:
    return subprocess.run(  # noqa: S603 (fixed commands)
        ["git", *command],  # noqa: S607
        cwd=RESULTS.parent,
        check=False,
        capture_output=True,
        text=True,
    ).stdout.strip()


def _command() -> str:
    """The command line, without the places on one's own disk."""
    words = [f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]]
    placed = {at for at, word in enumerate(words) if word in _PLACES}
    return " ".join(["python", *(word for at, word in enumerate(words) if not {at, at - 1} & placed)])


def facts(seed: int) -> dict[str, Any]:
    """What is needed to run a benchmark again."""
    return {
        "command": _command(),
        "seed": seed,
        "commit": _git("rev-parse", "HEAD")
        + ("+changes" if _git("status", "--porcelain", "-uno", "--", *_CODE) else ""),
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "pyro": pyro.__version__},
        "machine": {"cores": os.cpu_count(), "threads": torch.get_num_threads(), "arch": platform.machine()},
    }


def record(name: str, seed: int, numbers: dict[str, Any], table: str | None = None) -> None:
    """Prints the numbers and stores them as ``results/<name>.json``, and their table, if any, as ``<name>.md``."""
    stored = {**facts(seed), "results": numbers}
    print(table or json.dumps(numbers, indent=2))
    (RESULTS / name).parent.mkdir(parents=True, exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(stored, indent=2) + "\n")
    if table is not None:
        title = f"`{stored['command']}`, torch {torch.__version__}, {stored['machine']['threads']} threads"
        (RESULTS / f"{name}.md").write_text(f"{title}\n\n{table}\n")
