"""Every public function, with every argument wrong in turn: the error names the argument."""

import collections.abc
import inspect
import itertools
import re
import types
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import numpy as np
import pandas as pd
import pytest
import torch
from pyro.infer import Trace_ELBO
from torch import nn

import l0bayes
from l0bayes import HardConcrete, L0Prior, SparseModule, compact, inference, models, sparsify
from l0bayes.arguments import check_argument, checked
from l0bayes.errors import ArgumentError, DataError, StructureError
from l0bayes.inference import FitOptions, HardConcreteGuide, TensorBatches, evaluate, fit, predict, save
from l0bayes.inference.command_line.train_options import TrainOptions
from l0bayes.models import MLP, Classifier

X, Y = torch.randn(20, 6), torch.arange(20) % 3
SPARSE = sparsify(MLP(6, 4, 3), X[:2])
MODEL = Classifier(SPARSE, 20)
GUIDE = HardConcreteGuide(MODEL)
BATCHES = TensorBatches(X, Y, 10)
REGRESSION = models.SpikeSlabRegression(X, X[:, 0] + 0.1 * torch.randn(20))

# What each is called with; the others have defaults. Results of the library, which nobody constructs, are left out.
VALID: dict[Any, dict[str, Any]] = {
    l0bayes.HardConcrete: {"log_alpha": 0.0},
    l0bayes.L0Prior: {"code_cost": 1.0},
    l0bayes.SpikeAndSlabPrior: {"inclusion": 0.5},
    l0bayes.SparseModule: {
        "net": SPARSE.child("net"),
        "structure": SPARSE.structure,
        "options": SPARSE._options,
        "default": SPARSE._default,
    },
    l0bayes.sparsify: {"net": MLP(6, 3), "example_input": X[:2]},
    l0bayes.compact: {"model": MODEL, "guide": GUIDE},
    l0bayes.gate_table: {"guide": GUIDE},
    l0bayes.to_arviz: {"guide": GUIDE},
    models.MLP: {"sizes": 3},
    models.LeNet5: {},
    models.WideResNet: {"depth": 10},
    models.Classifier: {"net": MLP(6, 3), "num_data": 20},
    models.LossLikelihood: {"net": MLP(6, 3), "num_data": 20},
    models.Regressor: {"net": MLP(6, 3), "num_data": 20},
    models.SpikeSlabRegression: {"X": X, "y": X[:, 0]},
    models.exact_inclusion: {"X": X, "y": X[:, 0], "noise_scale": 1.0, "slab_scale": 1.0},
    models.exact_posterior: {"X": X, "y": X[:, 0], "noise_scale": 1.0, "slab_scale": 1.0},
    models.read_formula: {"formula": "y ~ a", "data": pd.DataFrame({"y": [0.0, 1.0, 3.0], "a": [1.0, 2.0, 4.0]})},
    inference.ClosedFormKL_ELBO: {},
    inference.FitOptions: {},
    inference.LiveFigure: {},
    inference.TensorBoard: {"folder": "nowhere"},
    TrainOptions: {},
    inference.HardConcreteGuide: {"model": MODEL},
    inference.Target: {"share": 0.5},
    inference.TensorBatches: {"x": X, "y": Y, "batch_size": 10},
    inference.evaluate: {"model": MODEL, "guide": GUIDE, "loader": BATCHES},
    inference.fit: {"model": MODEL, "guide": GUIDE, "train_loader": BATCHES},
    inference.infer_inclusion: {"model": REGRESSION},
    inference.join_processes: {},
    inference.load: {"path": "nowhere", "module": MLP(6, 3)},
    inference.parameter_groups: {"module": MODEL},
    inference.predict: {"model": MODEL, "guide": GUIDE, "x": X},
    inference.save: {"module": MLP(6, 3), "path": "nowhere"},
    inference.shrink: {"model": MODEL, "guide": GUIDE},
}
# And what users derive from, without arguments.
RESULTS = {
    inference.Callback,
    inference.FitResult,
    inference.InclusionPosterior,
    inference.Run,
    models.Formula,
}
# Beside an example of what an annotation means, what is none of it; for each kind, in words of its own.
WRONG: dict[Any, list[Any]] = {
    float: ["0.5", True, 1j, [0.5]],
    int: ["3", 1.5, True, float("nan"), [3]],
    bool: ["no", "", 0, 1, 2.0],
    str: [3, b"unit", ["unit"]],
    "text": ["nonsense"],  # where only some are known
}
NOWHERE = [object(), 1j, b"bytes", Ellipsis]  # right for no argument of any


def callables():
    return [getattr(room, name) for room in (l0bayes, models, inference) for name in room.__all__]


def alternatives(hint):
    return (
        [*itertools.chain(*map(alternatives, get_args(hint)))]
        if get_origin(hint) in (Union, types.UnionType)
        else [hint]
    )


def wrong_for(hint):
    """Values that are none of what an annotation says."""
    kinds = [get_origin(one) or one for one in alternatives(hint)]
    found = list(NOWHERE)
    if Any in kinds:
        return found
    if len(kinds) == 1:
        found += [None, *WRONG.get(kinds[0], []), *(WRONG["text"] + [3] if kinds[0] is Literal else [])]
    elif set(kinds) - {type(None)} <= {float, int, bool}:
        found += WRONG[next(kind for kind in kinds if kind is not type(None))]
    if not {collections.abc.Callable, type} & set(kinds):
        found.append(dict)  # a class
    return [value for value in found if not (collections.abc.Callable in kinds and callable(value))]


def mistakes(function):
    """Every argument of a function with every value that it cannot be."""
    hints = get_type_hints(function.__init__ if inspect.isclass(function) else function)
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind is not inspect.Parameter.VAR_KEYWORD:
            yield from ((name, value) for value in wrong_for(hints[name]))


def outcome(function, arguments, name):
    """What is wrong with the way in which a call fails; nothing if it names the argument."""
    positional = [arguments.pop("sizes")] * 2 if "sizes" in arguments else []
    try:
        function(*positional, **arguments)
    except (TypeError, ValueError) as error:
        return None if re.search(rf"\b{re.escape(name)}\b", str(error)) else f"{type(error).__name__}: {error}"
    except Exception as error:  # noqa: BLE001 (whatever else it is, it is obscure)
        return f"{type(error).__name__}: {error}"
    return "accepted"


def test_all_that_is_public_is_covered():
    assert set(callables()) <= set(VALID) | RESULTS


@pytest.mark.parametrize("function", VALID, ids=lambda function: function.__name__)
def test_the_argument_is_named(function, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = {
        (name, repr(value)): outcome(function, VALID[function] | {name: value}, name)
        for name, value in mistakes(function)
    }
    assert len(found) > 3
    assert {case: said for case, said in found.items() if said is not None} == {}
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("function", [FitOptions, TrainOptions, inference.parameter_groups, inference.shrink, sparsify])
def test_no_number_at_all(function):
    hints = get_type_hints(function.__init__ if inspect.isclass(function) else function)
    for name, hint in hints.items():
        if float in alternatives(hint) and name != "return":
            with pytest.raises(ValueError, match=name):
                function(**VALID[function] | {name: float("nan")})


class Plain(nn.Linear):
    def forward(self, x, y=None):
        return super().forward(x) + (0 if y is None else 0 * y[:, None])


NAMED = {
    "swapped": (
        lambda: compact(GUIDE, MODEL),
        ArgumentError,
        r"guide must be a guide of gates.*got Classifier.*model comes first",
    ),
    "swapped in predict": (lambda: predict(GUIDE, MODEL, X), ArgumentError, "guide must be a guide of gates"),
    "no guide": (lambda: fit(MODEL, None, BATCHES), ArgumentError, r"guide must be a torch\.nn\.Module; got None"),
    "no guide to compact": (lambda: compact(MODEL, None), ArgumentError, "guide must be a guide of gates"),
    "no likelihood": (
        lambda: fit(Plain(6, 3), HardConcreteGuide(Plain(6, 3), args=(X,)), BATCHES, progress=False),
        DataError,
        "model observes nothing",
    ),
    "a network alone": (
        lambda: fit(SPARSE, HardConcreteGuide(SPARSE), [(X,)], epochs=1, progress=False),
        DataError,
        "model observes nothing.*likelihood, such as Classifier",
    ),
    "options as a dict": (
        lambda: fit(MODEL, GUIDE, BATCHES, options={"epochs": 3}),
        ArgumentError,
        "options must be a FitOptions or None",
    ),
    "a class of ELBOs": (
        lambda: fit(MODEL, GUIDE, BATCHES, elbo=Trace_ELBO),
        ArgumentError,
        "elbo must be an ELBO or None; got the class Trace_ELBO",
    ),
    "no network": (lambda: Classifier(None, 10), ArgumentError, r"net must be a torch\.nn\.Module; got None"),
    "a flag as a text": (
        lambda: fit(MODEL, GUIDE, BATCHES, bf16="no"),
        ArgumentError,
        "bf16 must be True or False; got 'no'",
    ),
    "float64": (
        lambda: fit(MODEL, GUIDE, [(X.double(), Y)], epochs=1, progress=False),
        DataError,
        r"train_loader: inputs are torch\.float64.*x\.to\(torch\.float32\)",
    ),
    "uint8": (
        lambda: fit(MODEL, GUIDE, [(X.byte(), Y)], epochs=1, progress=False),
        DataError,
        r"train_loader: inputs are torch\.uint8",
    ),
    "float64 to predict": (lambda: predict(MODEL, GUIDE, X.double()), DataError, r"x: inputs are torch\.float64"),
    "uint8 to evaluate": (
        lambda: evaluate(MODEL, GUIDE, [(X.byte(), Y)]),
        DataError,
        r"loader: in batch 1: x: inputs are torch\.uint8",
    ),
    "one tensor": (
        lambda: fit(MODEL, GUIDE, [(X,)], epochs=1, progress=False),
        DataError,
        "model observes nothing in a batch of 1",
    ),
    "three tensors": (
        lambda: fit(MODEL, GUIDE, [(X, Y, Y)], epochs=1, progress=False),
        DataError,
        "train_loader gives 3 values a batch, and the model takes",
    ),
    "no path": (lambda: save(MODEL, ""), ArgumentError, "path must be the path of a file; got ''"),
    "a folder": (lambda: save(MODEL, "."), ArgumentError, "path must be the path of a file"),
    "no checkpoint": (
        lambda: fit(MODEL, GUIDE, BATCHES, checkpoint=""),
        ArgumentError,
        "checkpoint must be the path of a file",
    ),
    "complex": (lambda: L0Prior(1j), ArgumentError, "code_cost must be a number or a tensor; got 1j"),
    "a complex tensor": (
        lambda: HardConcrete(torch.tensor(1j)),
        ArgumentError,
        r"log_alpha must be real; got a tensor of torch\.complex64",
    ),
    "data": (lambda: TrainOptions(data="minst"), ValueError, "data must be one of digits, mnist.*got 'minst'"),
    "batches of none": (
        lambda: TrainOptions(batch_size=0),
        ValueError,
        "batch_size must be an integer of at least 1; got 0",
    ),
    "layers of none": (
        lambda: TrainOptions(hidden=[300, 0]),
        ValueError,
        r"hidden must be positive integers.*got \[300, 0\]",
    ),
    "dropout": (lambda: TrainOptions(dropout=1.5), ValueError, "dropout must be a probability"),
    "cost": (
        lambda: TrainOptions(cost="flops"),
        ValueError,
        "cost must be one of parameters, macs, paper; got 'flops'",
    ),
    "target": (lambda: TrainOptions(target_macs=2.0), ValueError, r"target_macs must be in \(0, 1\].*; got 2\.0"),
    "code cost": (lambda: TrainOptions(code_cost="dic"), ValueError, "code_cost must be"),
    "no gates": (
        lambda: SparseModule(MLP(6, 3), None, {}, None),
        ArgumentError,
        "structure must be a Structure; got None",
    ),
    "a gate option": (
        lambda: sparsify(MLP(6, 3), X, gates={"fc1": {"gates": "unit", "init_open": "0.5"}}),
        (ValueError, StructureError),
        "init_open must be a number",
    ),
}


@pytest.mark.parametrize(("call", "error", "message"), NAMED.values(), ids=NAMED)
def test_what_is_said(call, error, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=message):
        call()


def test_numbers_of_numpy_are_numbers():
    check_argument("n", np.int64(3), int)
    check_argument("n", np.float32(3), float)
    check_argument("n", 3, float)
    check_argument("n", np.bool_(True), bool)
    for value in (np.float64(3), np.bool_(True)):
        with pytest.raises(ArgumentError):
            check_argument("n", value, int)


def test_a_call_that_fits_no_signature_is_pythons_own_error():
    @checked
    def function(a: int, *rest: str, b: float = 1.0) -> int:
        return a + len(rest) + int(b)

    assert function(1, "x", b=2) == 4
    assert function.__name__ == "function"
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'a'"):
        function()
    with pytest.raises(TypeError, match="unexpected keyword argument 'c'"):
        function(1, c=3)
    with pytest.raises(ArgumentError, match=r"rest must be a text; got 3 \(int\)"):
        function(1, "x", 3)
