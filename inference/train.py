"""The whole job on images: a dense network, a spike-and-slab one, what it kept, and how much faster it is."""

import json
import platform
from dataclasses import asdict, dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

import pandas as pd
import pyro
import torch
from torch import Tensor, nn

from l0bayes.errors import FileFormatError
from l0bayes.evaluating import evaluating
from l0bayes.inference.augment import shifted
from l0bayes.inference.batches import TensorBatches
from l0bayes.inference.data import DataName, ImageData, Split, load_data
from l0bayes.inference.evaluate import evaluate
from l0bayes.inference.files import write_bytes
from l0bayes.inference.fit import fit
from l0bayes.inference.fit_options import FitOptions
from l0bayes.inference.hard_concrete_guide import HardConcreteGuide
from l0bayes.inference.processes import Processes, join_processes
from l0bayes.inference.report import write_report
from l0bayes.inference.storage import save
from l0bayes.inference.target import Target, TargetOf
from l0bayes.inference.timing import interleaved
from l0bayes.models import MLP, Classifier, LeNet5
from l0bayes.posterior import cost, gate_table
from l0bayes.sparsify import compact, sparsify

NetworkName = Literal["mlp", "lenet5"]
GatesName = Literal["unit", "input", "paper"]
CostName = Literal["parameters", "macs", "paper"]

# Options that a resumed run may have otherwise.
_MAY_CHANGE = {"data_dir", "download", "out", "epochs", "device", "progress", "tensorboard"}
_CODE_COST = 0.03  # chosen on the validation part of the digits
_PAPER_GATES: dict[str, Any] = {"mlp": "input", "lenet5": {"conv*": "unit", "fc*": "input"}}


@dataclass(frozen=True)
class TrainOptions(FitOptions):
    """Options of ``l0bayes train``; those of :class:`~l0bayes.inference.FitOptions`, and these.

    Attributes:
        data: ``digits`` (bundled with scikit-learn) or ``mnist``.
        data_dir: folder that holds ``MNIST/raw``.
        download: whether MNIST may be downloaded.
        out: folder for the results; an interrupted run in it is resumed.
        network: ``mlp``, or ``lenet5`` (for 28 × 28 images).
        hidden: units of the hidden layers of an MLP.
        gates: ``unit``, ``input``, or as in the ``paper``: filters of convolutions, inputs of linear layers.
        code_cost: λ, nats per parameter, or per what ``cost`` says; ``aic`` or ``bic``. None: 0.03, or 0 with a target.
        cost: what is paid for: ``parameters`` or ``macs`` that are alive, or, as in the ``paper``, each gate its own.
        target: share of ``target_of`` to keep; the code cost then follows from it, on top of the one given.
        target_of: ``parameters``, ``macs``, or measured ``latency``.
        inclusion: prior probability of an open gate; none is the paper's objective.
        slab_scale: standard deviation of a normal prior of the weights that are there.
        init_open: P(z ≠ 0) at the start.
        epochs: passes over the data.
        lr: learning rate of the weights.
        batch_size: images a step.
        shift: in training, each image is moved by up to so many pixels, at random.
        flip: in training, every other image is mirrored, at random.
        seed: of weights, order of data and gates.
        device: where to train, such as ``cpu`` or ``cuda``.
        progress: whether to show progress bars.
        tensorboard: whether to write the history for TensorBoard too, to ``out/events``; needs the extra.
    """

    data: DataName = "digits"
    data_dir: str = "data"
    download: bool = False
    out: str = "out/train"
    network: NetworkName = "mlp"
    hidden: list[int] = field(default_factory=lambda: [300, 100])
    gates: GatesName = "paper"
    code_cost: float | str | None = None
    cost: CostName = "parameters"
    target: float | None = None
    target_of: TargetOf = "parameters"
    inclusion: float | None = None
    slab_scale: float | None = None
    init_open: float = 0.8
    epochs: int = 300
    lr: float = 3e-3
    batch_size: int = 64
    shift: int = 0
    flip: bool = False
    seed: int = 0
    device: str = "cpu"
    progress: bool = True
    tensorboard: bool = False

    def fit_options(self, *, gated: bool) -> FitOptions:
        """How the gated network is trained; or the dense one, for as many epochs in the same way."""
        options = FitOptions(**{known.name: getattr(self, known.name) for known in fields(FitOptions)})
        if gated:
            return options
        epochs = self.epochs + self.fine_tune
        return options.changed(epochs=epochs, fine_tune=0, shrink_below=None, num_particles=1, antithetic=False)


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
    if options.network == "lenet5":
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
    wanted = {name: value for name, value in asdict(options).items() if name not in _MAY_CHANGE}
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
        height, width = data.image_shape
        lenet = o.network == "lenet5"
        net: nn.Module = LeNet5(data.classes) if lenet else MLP(height * width, *o.hidden, data.classes)
        if gated:
            net = sparsify(
                net,
                data.train.x[:2],
                _CODE_COST if o.code_cost is None and o.target is None else (o.code_cost or 0.0),
                _PAPER_GATES[o.network] if o.gates == "paper" else o.gates,
                cost=o.cost,
                inclusion=o.inclusion,
                slab_scale=o.slab_scale,
                num_data=len(data.train),
            )
        model = Classifier(net, num_data=len(data.train)).to(_device(o.device))
        return model, HardConcreteGuide(model, init_open=o.init_open)

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
            target=Target(o.target, o.target_of) if gated and o.target is not None else (),
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
    """Forward time of the compacted network over that of the dense one, at batch 1 and 1024."""
    ratios = {}
    with evaluating(full), evaluating(small):
        for batch in (1, 1024):
            inputs = x[torch.arange(batch) % len(x)]
            timing = interleaved({"dense": partial(full, inputs), "compacted": partial(small, inputs)})
            ratios[f"batch_{batch}"] = timing.ratio["compacted"]
    return ratios
