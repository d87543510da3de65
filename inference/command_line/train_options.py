"""Options of ``l0bayes train``: what is trained, on what, and how."""

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_args

from torch.distributions import Beta

from l0bayes.arguments import check_file
from l0bayes.checks import check_dropout
from l0bayes.gate_options import GateOptions, named_costs
from l0bayes.inference.data.datasets import DataName
from l0bayes.inference.size.target import Target, TargetOf
from l0bayes.inference.training.fit_options import FitOptions
from l0bayes.sparse_module import SlabName
from l0bayes.sparsify import check_slab

NetworkName = Literal["mlp", "lenet5", "wrn"]
GatesName = Literal["unit", "input", "paper"]
CostName = Literal["parameters", "macs", "paper"]

# Options that a resumed run may have otherwise.
MAY_CHANGE = {"data_dir", "download", "out", "epochs", "device", "progress", "tensorboard", "thin", "draws_apart"}
_CODE_COST = 0.03  # chosen on the validation part of the digits
_PAPER_GATES: dict[str, Any] = {
    "mlp": "input",
    "lenet5": {"conv*": "unit", "fc*": "input"},
    "wrn": {"stage*.conv1": "unit"},
}


@dataclass(frozen=True)
class TrainOptions(FitOptions):
    """Options of ``l0bayes train``; those of :class:`~l0bayes.inference.FitOptions`, and these.

    Attributes:
        data: ``digits`` (bundled with scikit-learn), ``mnist``, ``cifar10``, ``cifar100``, or a ``folder`` of images.
        data_dir: folder that holds ``MNIST/raw``, or what torchvision keeps of CIFAR, or ``train`` and ``test``.
        download: whether data may be downloaded.
        out: folder for the results; an interrupted run in it is resumed.
        network: ``mlp``, ``lenet5`` (for 28 × 28 images), or ``wrn``, a Wide ResNet (for coloured ones).
        depth: layers of a Wide ResNet, 6n + 4.
        width: its width factor.
        dropout: of hidden features, of the inputs of LeNet-5's last layer, or within the blocks of a Wide ResNet.
        hidden: units of the hidden layers of an MLP.
        compare: whether to train the dense network too, in the same way.
        thin: whether to train one of the finished network's size too, the same share of each layer, from scratch.
        teacher: whether the dense network then teaches the gated one, see ``teacher_weight``.
        gates: ``unit``, ``input``, or as in the ``paper``: filters of convolutions, inputs of linear layers; of a Wide
            ResNet the first convolution of each block. Or, layer by layer, a mapping from patterns of layers to
            granularities or options, as :func:`~l0bayes.sparsify` takes it.
        code_cost: λ, nats per parameter, or per what ``cost`` says; ``aic`` or ``bic``. None: 0.03, or 0 with a target
            or normal weights.
        cost: what is paid for: ``parameters`` or ``macs`` that are alive, or, as in the ``paper``, each gate its own.
        target_parameters: keep ratio of the parameters; the code cost then follows from it, on top of the one given.
        target_macs: keep ratio of the multiply-accumulates; likewise.
        target_latency: keep ratio of the measured time of a forward pass; likewise.
        inclusion: prior probability of an open gate, or two numbers a and b for one with a Beta(a, b) prior, of each
            layer its own; none is the paper's objective.
        expected_open: that probability, given as the number of gates of each layer that are open on average.
        slab: ``point`` weights, or ``normal`` ones: the full spike-and-slab posterior.
        slab_scale: standard deviation of a normal prior of the weights that are there; learned if they are normal and
            none is given.
        init_open: P(z ≠ 0) at the start; 0.8, or what ``gates`` says.
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
    depth: int = 16
    width: int = 1
    dropout: float = 0.0
    compare: bool = True
    thin: bool = False
    teacher: bool = False
    gates: GatesName | dict[str, Any] = "paper"
    code_cost: float | str | None = None
    cost: CostName = "parameters"
    target_parameters: float | None = None
    target_macs: float | None = None
    target_latency: float | None = None
    inclusion: float | list[float] | None = None
    expected_open: float | None = None
    slab: SlabName = "point"
    slab_scale: float | None = None
    init_open: float | None = None
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
        by_evidence = self.selection != "svi" and not self.of_drawn_gates
        schedule = self.schedule or ("late_cosine" if by_evidence else "constant")
        of_gates = {"shrink_below": None, "num_particles": 1, "antithetic": False, "selection": None} | {
            "round_to": 1,
            "masked": False,
        }
        return options.changed(epochs=epochs, fine_tune=0, schedule=schedule, **of_gates)

    @property
    def asked_gates(self) -> Any:
        """The gates as ``sparsify`` takes them."""
        return _PAPER_GATES[self.network] if self.gates == "paper" else self.gates

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_training()
        self._check_gates()

    def _check_training(self) -> None:
        for name in ("batch_size", "depth", "width"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be an integer of at least 1; got {getattr(self, name)}")
        if not self.hidden or min(self.hidden) < 1:
            raise ValueError(f"hidden must be positive integers, such as [300, 100]; got {self.hidden}")
        check_dropout(self.dropout)
        check_file("out", Path(self.out, "options.json"))
        if self.teacher and not self.compare:
            raise ValueError("teacher: it is the dense network of compare; leave compare on")
        if self.shift < 0:
            raise ValueError(f"shift must be at least 0; got {self.shift}")

    def _check_gates(self) -> None:
        """As ``sparsify`` does, before data are loaded and another network trained."""
        if isinstance(self.inclusion, list) and (len(self.inclusion) != 2 or not min(self.inclusion) > 0):  # noqa: PLR2004
            raise ValueError(f"inclusion: a Beta prior takes two numbers > 0; got {self.inclusion}")
        if isinstance(self.gates, str) and self.gates not in get_args(GatesName):
            raise ValueError(f"gates must be one of {', '.join(get_args(GatesName))}; got {self.gates!r}")
        check_slab(self.slab, self.slab_scale, self.cost)
        for of in get_args(TargetOf):
            share = getattr(self, f"target_{of}")
            if share is not None and not 0 < share <= 1:
                raise ValueError(f"target_{of} must be in (0, 1], or none; got {share}")
        price, _ = named_costs(self.asked_code_cost, "unit", self.cost, num_data=2)
        start = 0.5 if self.init_open is None else self.init_open
        GateOptions("unit", price, self.asked_inclusion, start, None, self.expected_open).checked("every layer")

    @property
    def asked_inclusion(self) -> float | Beta | None:
        """The prior probability of an open gate as ``sparsify`` takes it."""
        if isinstance(self.inclusion, list):
            a, b = self.inclusion
            return Beta(a, b)
        return self.inclusion

    @property
    def asked_code_cost(self) -> float | str:
        """The code cost, with its default."""
        if self.code_cost is not None:
            return self.code_cost
        return 0.0 if self.targets or self.slab == "normal" else _CODE_COST

    @property
    def targets(self) -> tuple[Target, ...]:
        """What is to be left of the network."""
        return tuple(
            Target(share, of) for of in get_args(TargetOf) if (share := getattr(self, f"target_{of}")) is not None
        )
