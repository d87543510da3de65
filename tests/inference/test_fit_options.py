"""Every option has a range, and what is outside is refused with its name and value."""

import dataclasses
import inspect
import math
import re

import pytest
import torch
from drawn import fit
from torch.utils.data import DataLoader, IterableDataset
from toy_problem import blobs, loader, pair, state

from l0bayes.errors import DataError
from l0bayes.inference import FitOptions, HardConcreteGuide, Target
from l0bayes.inference.command_line.train_options import TrainOptions
from l0bayes.inference.training.schedules import lr_factor
from l0bayes.models import MLP, Classifier

WRONG = [
    *(("epochs", value, "an integer of at least 1") for value in (0, -1, 1.5, None, "3")),
    *(("fine_tune", value, "an integer of at least 0") for value in (-1, 0.5, None)),
    *((name, value, "> 0") for name in ("lr", "gate_lr") for value in (0, -1e-3, math.nan, math.inf, None, "1e-3")),
    ("weight_decay", -1e-9, ">= 0"),
    ("weight_decay", math.inf, ">= 0"),
    ("momentum", 1.0, "in [0, 1)"),
    ("momentum", -0.1, "in [0, 1)"),
    ("kl_warmup", -1, ">= 0"),
    ("kl_warmup", math.nan, ">= 0"),
    ("num_particles", 0, "an integer of at least 1"),
    ("accumulate", 0, "an integer of at least 1"),
    ("accumulate", 2.0, "an integer of at least 1"),
    ("clip_norm", 0.0, "> 0, or none"),
    ("clip_norm", -1.0, "> 0, or none"),
    ("ema", 0, "in (0, 1), or none"),
    ("ema", 1.0, "in (0, 1), or none"),
    ("patience", 0, "an integer of at least 1"),
    ("shrink_below", 1, "in [0, 1), or none"),
    ("shrink_below", -0.1, "in [0, 1), or none"),
    ("optimizer", "lion", "one of adam, sgd"),
    ("schedule", "linear", "one of constant, cosine, late_cosine, steps"),
    ("selection", "magnitude", "one of evidence, svi"),
]


@pytest.mark.parametrize(("name", "value", "must"), WRONG, ids=[f"{name}={value!r}" for name, value, _ in WRONG])
def test_out_of_range(name, value, must):
    with pytest.raises(ValueError, match=re.escape(f"{name} must be {must}; got {value!r}")):
        FitOptions(**{name: value})
    with pytest.raises(ValueError, match=re.escape(f"{name} must be {must}; got {value!r}")):
        FitOptions().changed(**{name: value})


@pytest.mark.parametrize(
    "good",
    [
        {"fine_tune": 0},
        {"weight_decay": 0},
        {"momentum": 0.0},
        {"kl_warmup": 0.5},
        {"clip_norm": None},
        {"ema": None},
        {"ema": 0.999},
        {"shrink_below": 0.0},
        {"patience": None},
        {"patience": 1},
        {"num_particles": 4, "antithetic": True},
        {"lr": 1},
    ],
    ids=str,
)
def test_the_ends_of_ranges_that_belong_to_them(good):
    options = FitOptions(**good)
    assert {name: getattr(options, name) for name in good} == good


def test_pairs_need_an_even_number():
    with pytest.raises(ValueError, match="num_particles must be even with antithetic=True; got 1"):
        FitOptions(antithetic=True)


def test_an_unknown_option_names_those_there_are():
    with pytest.raises(TypeError, match=r"no option 'learning_rate'; its options are epochs, fine_tune, lr, gate_lr"):
        FitOptions().changed(learning_rate=0.1, lr=0.1)


def test_options_cannot_be_changed_in_place_and_others_keep_their_values():
    options = FitOptions(epochs=7, ema=0.9)
    changed = options.changed(lr=0.5)
    assert (changed.epochs, changed.ema, changed.lr) == (7, 0.9, 0.5)
    assert options.lr == 1e-3
    with pytest.raises(dataclasses.FrozenInstanceError):
        options.lr = 0.1


def test_every_option_is_documented():
    attributes = inspect.cleandoc(FitOptions.__doc__).partition("Attributes:")[2]
    for field in dataclasses.fields(FitOptions):
        assert f"\n    {field.name}: " in attributes, field.name


# -- schedules -------------------------------------------------------------------------------------------------------


def test_constant():
    options = FitOptions(epochs=10)
    assert [lr_factor(options, epoch) for epoch in range(10)] == [1.0] * 10


def test_cosine_goes_over_fine_tuning_too():
    options = FitOptions(epochs=6, fine_tune=2, schedule="cosine")
    found = [lr_factor(options, epoch) for epoch in range(8)]
    assert found == pytest.approx([math.cos(math.pi * epoch / 16) ** 2 for epoch in range(8)])
    assert found[4] == pytest.approx(0.5)


def test_cosine_never_ends_at_nothing():
    assert lr_factor(FitOptions(epochs=1000, schedule="cosine"), 999) == 1e-3


def test_steps_divide_by_five_three_times():
    options = FitOptions(epochs=10, schedule="steps")
    expected = [1, 1, 1, 0.2, 0.2, 0.2, 0.04, 0.04, 0.008, 0.008]
    assert [lr_factor(options, epoch) for epoch in range(10)] == pytest.approx(expected)


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_fit_sets_the_rates_of_everything_but_gates(optimizer, monkeypatch):
    rates = []
    of_adam = torch.optim.Adam.step

    def watched(self, *args):
        rates.append(next(group["lr"] for group in self.param_groups if group["name"] == "gates"))
        return of_adam(self, *args)

    monkeypatch.setattr(torch.optim.Adam, "step", watched)
    model, guide = pair()
    before, ends = state(model), []
    for schedule in ("constant", "steps"):
        model, guide = pair()
        fit(
            model,
            guide,
            loader(50),
            epochs=4,
            lr=1e-3,
            gate_lr=0.05,
            optimizer=optimizer,
            schedule=schedule,
            progress=False,
        )
        ends.append(sum((value - before[name]).abs().sum() for name, value in state(model).items()))
    assert set(rates) == {0.05}
    assert ends[1] < 0.8 * ends[0]


# -- input validation of fit -----------------------------------------------------------------------------------------


def test_fit_takes_options_and_changes_to_them():
    result = fit(*pair(), loader(), options=FitOptions(epochs=3), progress=False)
    assert len(result.history) == 3
    result = fit(*pair(), loader(), options=FitOptions(epochs=3), epochs=2, progress=False)
    assert len(result.history) == 2


def test_fit_refuses_an_unknown_option():
    with pytest.raises(TypeError, match="no option 'epoch'"):
        fit(*pair(), loader(), epoch=1)


def ungated():
    model = Classifier(MLP(6, 3), 50)
    return model, HardConcreteGuide(model)


@pytest.mark.parametrize("options", [{"fine_tune": 1}, {"target": Target(0.5)}, {"shrink_below": 0.1}], ids=str)
def test_what_needs_gates_is_refused_without(options):
    with pytest.raises(ValueError, match=r"needs? a network made by sparsify; the model has none"):
        fit(*ungated(), loader(), epochs=1, progress=False, **options)


def test_the_model_may_be_without_gates_otherwise():
    result = fit(*ungated(), loader(), epochs=2, ema=0.9, clip_norm=1.0, kl_warmup=1, optimizer="sgd", progress=False)
    assert result.history["elbo"].notna().all()


class Endless:
    """A loader that does not know how many batches it has."""

    def __iter__(self):
        return iter(loader())


@pytest.mark.parametrize("options", [{"kl_warmup": 1.0}, {"target": Target(0.5)}], ids=str)
def test_a_loader_without_length_is_refused_where_the_share_done_counts(options):
    with pytest.raises(DataError, match="train_loader must have a length"):
        fit(*pair(), Endless(), epochs=1, progress=False, **options)


def test_a_loader_without_length_does_otherwise():
    assert fit(*pair(), Endless(), epochs=1, accumulate=2, progress=False).history["steps"].tolist() == [2]


class Stream(IterableDataset):
    def __iter__(self):
        return iter(zip(*blobs(), strict=True))


def test_a_data_loader_over_a_stream_does_too():
    """It has ``__len__``, which raises."""
    result = fit(*pair(), DataLoader(Stream(), batch_size=20), epochs=2, progress=False)
    assert result.history["steps"].tolist() == [3, 3]


def test_a_data_loader_over_a_stream_is_refused_where_the_share_done_counts():
    with pytest.raises(DataError, match="train_loader must have a length"):
        fit(*pair(), DataLoader(Stream(), batch_size=20), epochs=2, kl_warmup=1, progress=False)


# -- names of before -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "make", [FitOptions, FitOptions().changed, TrainOptions], ids=["made", "changed", "command line"]
)
def test_draws_apart_is_independent_draws_and_says_so_once(make):
    with pytest.warns(DeprecationWarning, match="draws_apart is called independent_draws now"):
        options = make(draws_apart=True)
    assert options.independent_draws is True
    assert options == make(independent_draws=True)
    assert options.changed(epochs=2).independent_draws is True


def test_draws_apart_in_a_call_of_fit():
    with pytest.warns(DeprecationWarning, match="draws_apart is called independent_draws now"):
        fit(*pair(), loader(), epochs=1, draws_apart=True, progress=False)


def test_what_a_result_called_settled():
    result = fit(*pair(), loader(), epochs=1, progress=False)
    assert result.settled == result.rounded == 0
    assert dataclasses.replace(result, rounded=3).settled == 3
