"""The whole job on images: a dense network, a spike-and-slab one, what it kept, and how much faster it is."""

import json
import platform
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, get_args

import pandas as pd
import pyro
import torch
from torch import Tensor, nn

from l0bayes.errors import FileFormatError
from l0bayes.evaluating import evaluating
from l0bayes.inference.augment import shifted
from l0bayes.inference.batches import TensorBatches
from l0bayes.inference.data import ImageData, Split, load_data
from l0bayes.inference.evaluate import evaluate
from l0bayes.inference.files import write_bytes
from l0bayes.inference.fit import fit
from l0bayes.inference.hard_concrete_guide import HardConcreteGuide
from l0bayes.inference.processes import Processes, join_processes
from l0bayes.inference.report import write_report
from l0bayes.inference.storage import save
from l0bayes.inference.timing import interleaved
from l0bayes.inference.train_options import MAY_CHANGE, GatesName, NetworkName, TrainOptions
from l0bayes.models import MLP, Classifier, LeNet5, WideResNet
from l0bayes.posterior import cost, gate_table
from l0bayes.sparsify import compact, sparsify

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
    """
    out = Path(options.out)
    join_processes(options.device)
    processes = Processes()
    for name, kind in (("network", NetworkName), ("gates", GatesName)):
        if getattr(options, name) not in get_args(kind):
            raise ValueError(f"{name} must be one of {', '.join(get_args(kind))}; got {getattr(options, name)!r}")
    data = load_data(options.data, options.data_dir, download=options.download)
    if options.network == "wrn" and data.train.x[0].dim() != 3:  # noqa: PLR2004
        raise ValueError(f"network: wrn takes coloured images; {options.data} are grey. Use lenet5 or mlp")
    if options.network != "mlp":
        data = data.with_channels()
    job = _Job(options, data, out, processes)
    dense, dense_guide = job.build(gated=False)
    model, guide = job.build(gated=True)
    if processes.first:
        _claim(out, options)
    processes.wait()
    dense_error, dense_history = job.train("dense", dense, dense_guide)
    gated_error, history = job.train("gated", model, guide)
    if not processes.first:
        return {}
    small = compact(model, guide).cpu()
    with evaluating(small):
        compacted_error = float(model.error(small(data.test.x), data.test.y).double().mean())
    full = dense.child("net").cpu()
    speed = _speed(full, small, data.test.x)
    before, after = cost(full, data.test.x[:1]), cost(small, data.test.x[:1])
    summary = {
        "test_error": {"dense": dense_error, "gated": gated_error, "compacted": compacted_error},
        "architecture": {"before": layer_sizes(full), "after": layer_sizes(small)},
        "parameters": {"before": before.parameters, "after": after.parameters},
        "macs": {"before": before.macs, "after": after.macs},
        "validation_error": {
            name: float(rows["validation_error"].iloc[-1])
            for name, rows in (("dense", dense_history), ("gated", history))
        },
        "seconds": {"dense": float(dense_history["seconds"].sum()), "gated": float(history["seconds"].sum())},
        "forward_time_ratio": speed,
        "options": asdict(options),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "pyro": pyro.__version__,
        },
    }
    write_bytes(out / "summary.json", (json.dumps(summary, indent=2) + "\n").encode())
    save(small, out / "compacted.safetensors", provenance=summary)
    save(guide, out / "guide.safetensors", provenance=summary)
    table = gate_table(guide)
    write_report(out, table, history, data.image_shape)
    return summary


def _claim(out: Path, options: TrainOptions) -> None:
    """Notes the options in the folder; refuses one whose checkpoints were made with others."""
    path = out / "options.json"
    wanted = {name: value for name, value in asdict(options).items() if name not in MAY_CHANGE}
    if path.is_file() and any(out.glob("*.checkpoint")):
        try:
            found = dict(json.loads(path.read_text()))
        except (ValueError, TypeError) as error:
            raise FileFormatError(f"out: {path} is damaged ({error}). Remove {out} to start afresh") from error
        changed = [
            f"{name} was {found.get(name)}, is {wanted[name]}" for name in wanted if found.get(name) != wanted[name]
        ]
        if changed:
            raise ValueError(
                f"out: {out} holds a run with other options ({'; '.join(changed)}). Give another folder, or remove it"
            )
    write_bytes(path, (json.dumps(wanted, indent=2) + "\n").encode())


class _Job:
    """Builds and trains the dense and the gated network in the same way."""

    def __init__(self, options: TrainOptions, data: ImageData, out: Path, processes: Processes) -> None:
        self._options = options
        self._data = data
        self._out = out
        self._processes = processes

    def build(self, *, gated: bool) -> tuple[Classifier, HardConcreteGuide]:
        """A new network with its likelihood, and its guide; both kinds start from the same weights."""
        o, data = self._options, self._data
        torch.manual_seed(o.seed)
        net = self._network()
        if gated:
            net = sparsify(
                net,
                data.train.x[:2],
                o.asked_code_cost,
                o.asked_gates,
                cost=o.cost,
                inclusion=o.inclusion,
                slab_scale=o.slab_scale,
                num_data=len(data.train),
            )
        model = Classifier(net, num_data=len(data.train)).to(_device(o.device))
        return model, HardConcreteGuide(model, init_open=o.init_open)

    def _network(self) -> nn.Module:
        o, data = self._options, self._data
        if o.network == "wrn":
            return WideResNet(o.depth, o.width, data.classes, o.dropout)
        channels = data.train.x.shape[1] if o.network == "lenet5" else 1
        return LeNet5(data.classes, channels) if o.network == "lenet5" else MLP(data.features, *o.hidden, data.classes)

    def train(self, name: str, model: Classifier, guide: HardConcreteGuide) -> tuple[float, pd.DataFrame]:
        """Trains, resuming where a checkpoint is; the last test error, and the history."""
        o, data = self._options, self._data
        torch.manual_seed(o.seed)
        gated = name == "gated"
        checkpoint = self._out / f"{name}.checkpoint"
        goes_on = f", going on from {checkpoint}" if checkpoint.exists() else ""
        epochs = o.epochs + o.fine_tune
        if self._processes.first:
            print(f"training the {name} network: {layer_sizes(model)}, {epochs} epochs{goes_on}", flush=True)  # noqa: T201
        result = fit(
            model,
            guide,
            self._batches(data.train, o.batch_size, shuffle=True),
            validation_loader=self._batches(data.validation),
            checkpoint=checkpoint,
            tensorboard=self._out / "events" / name if o.tensorboard else None,
            target=o.targets if gated else (),
            progress=o.progress,
            options=o.fit_options(gated=gated),
        )
        return evaluate(model, guide, self._batches(data.test)), result.history

    def _batches(self, split: Split, batch_size: int = 4096, *, shuffle: bool = False) -> TensorBatches:
        device = self._options.device
        x, y = split.x.to(device), split.y.to(device)
        if not shuffle:
            return TensorBatches(x, y, batch_size)
        o, shard = self._options, (self._processes.rank, self._processes.size)
        augment = partial(shifted, pixels=o.shift, flip=o.flip) if o.shift or o.flip else None
        return TensorBatches(x, y, batch_size, shuffle=True, augment=augment, shard=shard)


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
        torch.zeros((), device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device: {name!r} is not to be had here ({str(error).splitlines()[0]}). Use cpu") from error
    return device


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
