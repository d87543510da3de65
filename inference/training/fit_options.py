"""How a network is trained: one typed set of options for ``fit``, the command line and configuration files."""

import math
import warnings
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, Self, get_args

import numpy as np

from l0bayes.arguments import check_argument, check_fields

OptimizerName = Literal["adam", "sgd"]
Schedule = Literal["constant", "cosine", "late_cosine", "steps"]
Selection = Literal["evidence", "svi"]

_NUMBERS: dict[str, tuple[str, Any]] = {
    "lr": ("> 0", lambda v: v > 0),
    "gate_lr": ("> 0", lambda v: v > 0),
    "weight_decay": (">= 0", lambda v: v >= 0),
    "momentum": ("in [0, 1)", lambda v: 0 <= v < 1),
    "kl_warmup": (">= 0", lambda v: v >= 0),
    "clip_norm": ("> 0, or none", lambda v: v > 0),
    "ema": ("in (0, 1), or none", lambda v: 0 < v < 1),
    "teacher_weight": ("in (0, 1]", lambda v: 0 < v <= 1),
    "temperature": ("> 0", lambda v: v > 0),
    "shrink_below": ("in [0, 1), or none", lambda v: 0 <= v < 1),
}
_OF_DRAWN_GATES = ("gate_lr", "kl_warmup", "num_particles", "antithetic", "independent_draws", "shrink_below")
_COUNTS = {"epochs": 1, "fine_tune": 0, "num_particles": 1, "accumulate": 1, "patience": 1, "round_to": 1}


@dataclass(frozen=True)
class FitOptions:
    """Options of :func:`~l0bayes.inference.fit`.

    Attributes:
        epochs: passes over the data, at least 1; with ``selection="svi"`` those with gates drawn anew in each step.
        fine_tune: further passes with the gates fixed at their test-time values: only what is left is trained.
        lr: learning rate of weights and of ``loc`` and ``log_scale``. With ``"sgd"`` it is that of the mean loss.
        gate_lr: learning rate of the gates, of Adam; no schedule touches it.
        optimizer: ``"adam"``, or ``"sgd"`` with Nesterov momentum for everything but gates.
        momentum: of ``"sgd"``.
        weight_decay: L2 penalty on weights alone, of the mean loss. A slab prior, see :func:`~l0bayes.sparsify`, is the
            principled form.
        schedule: of ``lr``: ``"constant"``, ``"cosine"`` down to nothing over all epochs, ``"late_cosine"``, which
            begins at 3/8 of ``epochs``, or ``"steps"``, a fifth of it after 30, 60 and 80 % of
            them. ``None``: the late cosine with evidence, constant otherwise.
        kl_warmup: epochs over which the weight of the KL rises from 0 to 1.
        num_particles: draws of the gates a step.
        antithetic: draw them in pairs (u, 1 − u); ``num_particles`` is then even.
        accumulate: batches whose gradients make one step.
        clip_norm: the largest norm of the gradient of the mean loss (of the ELBO divided by the number of data).
        ema: decay of a moving average of all parameters but gates, which takes their place when they are validated, and
            at the end.
        patience: stop after so many epochs without a better validation error; with ``fine_tune``, gates are fixed
            then, and fine-tuning stops in its turn.
        independent_draws: with several processes, whether each draws gates of its own, which averages over more of
            them, or all the same, as one process on the joint batch would.
        shrink_below: after each epoch, units with P(z ≠ 0) below this are removed for good, see
            :func:`~l0bayes.inference.shrink`.
        bf16: run the network in bfloat16 autocast; gates, KLs and parameters stay float32.
        compile: run the network through ``torch.compile`` while it keeps its shape: in fine-tuning, or without gates.
        channels_last: keep images and convolutions in that layout.
        round_to: while gates are drawn or closing, and in what is left of the network, each group keeps a multiple of
            this many units, or all it has, those besides the open ones multiplied by 0: 8 suits the matrix units of
            GPUs. What is computed is the same.
        masked: while gates are drawn or closing, all units are computed, and closed ones multiplied by 0: shapes stay,
            and the device is never asked which gates are open. For devices on which small shapes are no faster.
        selection: how gates are moved. ``"evidence"``: all are open at first; then those close for which the data say
            least, against what they cost; for most of the run the network that is left is trained by itself, see
            :mod:`l0bayes.inference.training.gates_by_evidence`. ``"svi"``: gates are drawn in each step and follow
            their gradients, the paper's way. ``None``: evidence for networks made by ``sparsify`` with point weights,
            unless an option is given that only drawn gates have (``gate_lr``, ``kl_warmup``, ``num_particles``,
            ``antithetic``, ``independent_draws``, ``shrink_below``); svi for everything else.
        teacher_weight: share of the log-likelihood that a ``teacher`` takes, in (0, 1].
        temperature: by which its logits, and those of the network, are divided.
        draws_apart: what ``independent_draws`` was called before; deprecated.
    """

    epochs: int = 100
    fine_tune: int = 0
    lr: float = 1e-3
    gate_lr: float = 1e-2
    optimizer: OptimizerName = "adam"
    momentum: float = 0.9
    weight_decay: float = 0.0
    schedule: Schedule | None = None
    kl_warmup: float = 0.0
    num_particles: int = 1
    antithetic: bool = False
    accumulate: int = 1
    clip_norm: float | None = None
    ema: float | None = None
    patience: int | None = None
    independent_draws: bool = False
    shrink_below: float | None = None
    bf16: bool = False
    compile: bool = False
    channels_last: bool = False
    round_to: int = 1
    masked: bool = False
    selection: Selection | None = None
    teacher_weight: float = 0.9
    temperature: float = 4.0
    draws_apart: bool | None = None

    def __post_init__(self) -> None:
        self._take_old_names()
        self._check_numbers()
        for name, kind in (("optimizer", OptimizerName), ("schedule", Schedule), ("selection", Selection)):
            if getattr(self, name) not in (*get_args(kind), *((None,) if name != "optimizer" else ())):
                raise ValueError(f"{name} must be one of {', '.join(get_args(kind))}; got {getattr(self, name)!r}")
        check_fields(self)
        if self.selection == "evidence" and (drawn := self.of_drawn_gates):
            raise ValueError(f"{drawn[0]} is an option of drawn gates; leave it out, or choose selection='svi'")
        if self.masked and self.round_to > 1:
            raise ValueError(f"round_to={self.round_to} is for subnetworks; with masked=True all units are computed")
        if self.kl_warmup > self.epochs:
            raise ValueError(f"kl_warmup must be at most epochs, {self.epochs}; got {self.kl_warmup}")
        if self.antithetic and self.num_particles % 2:
            raise ValueError(f"num_particles must be even with antithetic=True; got {self.num_particles}")

    def _take_old_names(self) -> None:
        if self.draws_apart is not None:
            check_argument("draws_apart", self.draws_apart, bool)
            warnings.warn("draws_apart is called independent_draws now", DeprecationWarning, stacklevel=4)
            object.__setattr__(self, "independent_draws", self.draws_apart)
            object.__setattr__(self, "draws_apart", None)  # said once, and not again of copies

    def _check_numbers(self) -> None:
        for name, (must, check) in _NUMBERS.items():
            value = getattr(self, name)
            if value is None and "none" in must:
                continue
            if not isinstance(value, int | float) or not math.isfinite(value) or not check(value):
                raise ValueError(f"{name} must be {must}; got {value!r}")
        for name, least in _COUNTS.items():
            value = getattr(self, name)
            if value is None and name == "patience":
                continue
            if isinstance(value, int | np.integer) and not isinstance(value, bool) and value >= least:
                continue
            raise ValueError(f"{name} must be an integer of at least {least}; got {value!r}")

    def changed(self, **options: Any) -> Self:
        """The same options with others in their place.

        Raises:
            TypeError: if there is no such option.
            ValueError: if a value is out of range.
        """
        known = [field.name for field in fields(self)]
        if unknown := sorted(set(options) - set(known)):
            raise TypeError(f"fit has no option {unknown[0]!r}; its options are {', '.join(known)}")
        return replace(self, **options)

    @property
    def of_drawn_gates(self) -> tuple[str, ...]:
        """Options that were given and that only gates drawn in each step have."""
        usual = {field.name: field.default for field in fields(self)}
        return tuple(name for name in _OF_DRAWN_GATES if getattr(self, name) != usual[name])
