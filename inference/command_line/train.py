"""The whole job on images: a dense network, a spike-and-slab one, what it kept, and how much faster it is."""

import json
import platform
from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pyro
import torch
from torch import Tensor, nn

from l0bayes.errors import FileFormatError
from l0bayes.evaluating import evaluating
from l0bayes.inference.command_line.job import Job
from l0bayes.inference.command_line.report import write_report
from l0bayes.inference.command_line.thin import thin_network
from l0bayes.inference.command_line.train_options import MAY_CHANGE, TrainOptions
from l0bayes.inference.data.batches import TensorBatches
from l0bayes.inference.guide.hard_concrete_guide import HardConcreteGuide
from l0bayes.inference.prediction.evaluate import evaluate
from l0bayes.inference.storage.files import write_bytes
from l0bayes.inference.storage.lock import claimed
from l0bayes.inference.storage.save_load import save
from l0bayes.inference.system.processes import Processes, join_processes
from l0bayes.inference.system.timing import interleaved
from l0bayes.inference.training.fit import fit
from l0bayes.models import Classifier
from l0bayes.posterior import cost, gate_table
from l0bayes.sparsify import compact

_OPTIONS = "options.json"
_ROWS = 1000  # images run at a time
_LARGE = 1000  # numbers an image


def train(options: TrainOptions) -> dict[str, Any]:
    """Trains, compacts, measures, and writes everything to ``options.out``.

    Args:
        options: what to train and how.

    Returns:
        The summary that is also written to ``summary.json``; nothing from any but the first of several processes.

    Raises:
        DataError: if the data are missing or corrupt.
        ValueError: if an option is out of range.
        FileInUseError: if another run is writing to the folder.
    """
    out = Path(options.out)
    join_processes(options.device)
    job = Job(options)
    networks = {name: job.build(gated=name == "gated") for name in ("dense", "gated")}
    with claimed(out=out / _OPTIONS):
        return _train(job, networks, out)


def _train(job: Job, networks: Mapping[str, tuple[Classifier, HardConcreteGuide]], out: Path) -> dict[str, Any]:
    processes, options, data = Processes(), job.options, job.data
    (dense, dense_guide), (model, guide) = networks["dense"], networks["gated"]
    if processes.first:
        _note(out, options)
    processes.wait()
    runs = {"dense": train_one(job, "dense", dense, dense_guide, out)} if options.compare else {}
    teacher = dense.child("net") if options.teacher else None
    runs["gated"] = train_one(job, "gated", model, guide, out, teacher=teacher)
    small = compact(model, guide).cpu()
    if options.thin:
        runs["thin"] = train_one(job, "thin", *job.classifier(thin_network(job, _size(small))), out)
    if not processes.first:
        return {}
    with evaluating(small):
        errors = [model.error(small(x), y) for x, y in TensorBatches(data.test.x, data.test.y, _ROWS)]
        compacted_error = float(torch.cat(errors).double().mean())
    full = dense.child("net").cpu()
    speed = _speed(full, small, data.test.x)
    before, after = cost(full, data.test.x[:1]), cost(small, data.test.x[:1])
    histories = {name: history for name, (_, history) in runs.items()}
    summary = {
        "test_error": {name: error for name, (error, _) in runs.items()} | {"compacted": compacted_error},
        "architecture": {"before": layer_sizes(full), "after": layer_sizes(small)},
        "parameters": {"before": before.parameters, "after": after.parameters},
        "macs": {"before": before.macs, "after": after.macs},
        "validation_error": {name: float(rows["validation_error"].iloc[-1]) for name, rows in histories.items()},
        "seconds": {name: float(rows["seconds"].sum()) for name, rows in histories.items()},
        "forward_time_ratio": speed,
        "input_shape": list(data.train.x.shape[1:]),
        "classes": data.classes,
        "options": asdict(options),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "pyro": pyro.__version__,
        },
    }
    write_bytes(out / "summary.json", (json.dumps(summary, indent=2) + "\n").encode())
    # What is passed on says nothing of one's own disk.
    shared = {name: value for name, value in asdict(options).items() if name not in ("data_dir", "out")}
    finished: dict[str, nn.Module] = {"compacted": small, "model": model, "guide": guide}
    for name, module in (finished | ({"dense": full} if options.compare else {})).items():
        save(module, out / f"{name}.safetensors", provenance=summary | {"options": shared})
    table = gate_table(guide)
    write_report(out, table, histories["gated"], data.image_shape)
    return summary


def _size(net: nn.Module) -> int:
    return sum(parameter.numel() for parameter in net.parameters())


def _note(out: Path, options: TrainOptions) -> None:
    """Notes the options in the folder; refuses one whose checkpoints were made with others."""
    path = out / _OPTIONS
    wanted = {name: value for name, value in asdict(options).items() if name not in MAY_CHANGE}
    if path.is_file() and any(out.glob("*.checkpoint")):
        try:
            found = asdict(TrainOptions()) | dict(json.loads(path.read_text()))  # it may be from an earlier version
        except (ValueError, TypeError) as error:
            raise FileFormatError(f"out: {path} is damaged ({error}). Remove {out} to start afresh") from error
        changed = [f"{name} was {found[name]}, is {wanted[name]}" for name in wanted if found[name] != wanted[name]]
        if changed:
            raise ValueError(
                f"out: {out} holds a run with other options ({'; '.join(changed)}). Give another folder, or remove it"
            )
    write_bytes(path, (json.dumps(wanted, indent=2) + "\n").encode())


def train_one(
    job: Job, name: str, model: Classifier, guide: HardConcreteGuide, out: Path, *, teacher: nn.Module | None = None
) -> tuple[float, pd.DataFrame]:
    """Trains the ``dense``, the ``gated`` or the ``thin`` network of a job, resuming where a checkpoint is.

    Args:
        job: what to train, and how.
        name: which of them, and the name of its checkpoint.
        model: the network with its likelihood, as ``job`` built it.
        guide: its guide.
        out: folder of the checkpoint.
        teacher: a trained network that teaches it.

    Returns:
        The last test error, and the history.
    """
    o = job.options
    torch.manual_seed(o.seed)
    gated = name == "gated"
    checkpoint = out / f"{name}.checkpoint"
    resuming = f", resuming from {checkpoint}" if checkpoint.exists() else ""
    epochs = o.epochs + o.fine_tune
    if Processes().first:
        print(f"training the {name} network: {layer_sizes(model)}, {epochs} epochs{resuming}", flush=True)  # noqa: T201
    result = fit(
        model,
        guide,
        job.batches(job.data.train, o.batch_size, shuffle=True),
        validation_loader=job.batches(job.data.validation),
        checkpoint=checkpoint,
        history=out / history_file(name),
        tensorboard=out / "events" / name if o.tensorboard else None,
        target=o.targets if gated else (),
        teacher=teacher,
        progress=o.progress,
        options=o.fit_options(gated=gated),
    )
    return evaluate(model, guide, job.batches(job.data.test)), result.history


def history_file(name: str) -> str:
    """Name of the file with the history of the ``dense``, the ``gated`` or the ``thin`` network."""
    return "history.csv" if name == "gated" else f"{name}_history.csv"


def layer_sizes(net: nn.Module) -> str:
    """The features that a chain of layers reads, and produces at the end, such as ``784-300-100-10``."""
    layers = [module for module in net.modules() if isinstance(module, nn.Linear | nn.Conv2d)]
    reads = [layer.in_features if isinstance(layer, nn.Linear) else layer.in_channels for layer in layers]
    last = layers[-1]
    return "-".join(map(str, [*reads, last.out_features if isinstance(last, nn.Linear) else last.out_channels]))


def _speed(full: nn.Module, small: nn.Module, x: Tensor) -> dict[str, float]:
    """Forward time of the compacted network over that of the dense one, at batch 1 and 1024, 64 for large images."""
    ratios = {}
    with evaluating(full), evaluating(small):
        for batch in (1, 1024 if x[0].numel() < _LARGE else 64):
            inputs = x[torch.arange(batch) % len(x)]
            timing = interleaved({"dense": partial(full, inputs), "compacted": partial(small, inputs)})
            ratios[f"batch_{batch}"] = timing.ratio["compacted"]
    return ratios
