"""A run stops when the validation error has not fallen for so many epochs."""

import importlib
import signal
from functools import partial

import pytest
from drawn import fit
from toy_problem import Surprise, assert_equal_checkpoints, assert_equal_states, loader, pair, state

from l0bayes.inference import FitOptions, HardConcreteGuide, evaluate
from l0bayes.inference.training.early_stop import all_epochs, drawn_epochs
from l0bayes.models import MLP, Classifier

ERRORS = [0.5, 0.4, 0.4, 0.3, 0.35, 0.3, 0.3, 0.2, 0.1, 0.0]


@pytest.fixture
def errors(monkeypatch):
    """Validation errors that are given, one an epoch."""
    left = []
    monkeypatch.setattr(importlib.import_module("l0bayes.inference.training.fit"), "mean_error", lambda *_: left.pop(0))
    return left


def run(path=None, epochs=10, **options):
    model, guide = pair()
    batches = loader()
    options = {"validation_loader": batches, "checkpoint": path, "progress": False} | options
    return model, guide, fit(model, guide, batches, epochs=epochs, **options)


@pytest.mark.parametrize(("patience", "stops"), [(1, 3), (2, 6), (3, 7), (4, 10), (None, 10)])
def test_it_stops_after_so_many_epochs_without_a_better_one(patience, stops, errors):
    """An equal error is no better one."""
    errors.extend(ERRORS)
    result = run(patience=patience)[2]
    assert result.history["validation_error"].tolist() == ERRORS[:stops]


def test_a_run_that_always_gets_better_goes_on(errors):
    errors.extend([0.9 - 0.05 * epoch for epoch in range(10)])
    assert len(run(patience=1)[2].history) == 10


def test_as_many_epochs_as_patience_are_never_too_few(errors):
    errors.extend([0.3] * 10)
    assert len(run(patience=4)[2].history) == 5


def test_a_run_that_stopped_is_only_read(errors, tmp_path):
    errors.extend(ERRORS)
    first = run(tmp_path / "run", patience=2)
    content = (tmp_path / "run").read_bytes()
    again = run(tmp_path / "run", patience=2)
    assert_equal_states(state(*first[:2]), state(*again[:2]))
    assert again[2].history.equals(first[2].history)
    assert (tmp_path / "run").read_bytes() == content


def test_more_patience_goes_on_from_there(errors, tmp_path):
    errors.extend(ERRORS[:6])
    run(tmp_path / "run", patience=2)
    errors.extend(ERRORS[6:])
    assert len(run(tmp_path / "run", patience=4)[2].history) == 10


def test_it_counts_on_over_an_interruption(errors, tmp_path):
    for epochs in (2, 5, 10):
        errors[:] = ERRORS[2:] if epochs == 5 else ERRORS[5:] if epochs == 10 else ERRORS
        result = run(tmp_path / "run", epochs=epochs, patience=2)[2]
    assert len(result.history) == 6


def test_with_real_errors():
    model, guide, result = run(epochs=200, patience=5, lr=0.05)
    found = result.history["validation_error"]
    assert 5 < len(found) < 200
    assert found.iloc[-5:].min() >= found.iloc[:-5].min()
    assert evaluate(model, guide, loader()) == pytest.approx(found.iloc[-1])


@pytest.mark.parametrize("patience", [1, 5])
def test_it_is_refused_without_validation(patience):
    with pytest.raises(ValueError, match="patience needs a validation_loader"):
        fit(*pair(), loader(), options=FitOptions(epochs=3, patience=patience), progress=False)


def test_a_network_without_gates_stops_too(errors):
    errors.extend(ERRORS)
    model = Classifier(MLP(6, 3), 50)
    batches = loader()
    settings = {"epochs": 10, "patience": 1, "validation_loader": batches, "progress": False}
    assert len(fit(model, HardConcreteGuide(model), batches, **settings).history) == 3


def test_without_errors_it_never_stops():
    options = FitOptions(epochs=7, fine_tune=2, patience=1)
    for epochs in (0, 5, 8):
        history = [{"elbo": 1.0}] * epochs
        assert (drawn_epochs(history, options), all_epochs(history, options)) == (7, 9)


def drawn(result):
    """Epoch by epoch, whether the gates were drawn."""
    return [phase == "drawn" for phase in result.history["phase"]]


def test_fine_tuning_follows_and_has_its_own_patience(errors):
    """0.4 is better than nothing in fine-tuning, though it was not before."""
    errors.extend([0.5, 0.3, 0.3, 0.3, 0.4, 0.2, 0.2, 0.2, 0.1])
    result = run(patience=2, fine_tune=8)[2]
    assert drawn(result) == [True] * 4 + [False] * 4
    assert len(result.history) == 8


def test_fine_tuning_that_always_gets_better_goes_on_to_its_end(errors):
    errors.extend([0.5, 0.5, 0.4, 0.3, 0.2])
    result = run(patience=1, fine_tune=3)[2]
    assert drawn(result) == [True] * 2 + [False] * 3


@pytest.mark.parametrize("stop", [1, 4, 8, 11])
def test_interrupted_with_fine_tuning(stop, tmp_path):
    """With real errors, at a step of either phase; three steps an epoch."""
    options = {"patience": 1, "fine_tune": 4, "lr": 0.05, "epochs": 6}
    whole = run(tmp_path / "whole", **options)
    model, guide = pair()
    batches = Surprise(loader(), stop, partial(signal.raise_signal, signal.SIGINT))
    settings = {"validation_loader": loader(), "checkpoint": tmp_path / "parts", "progress": False}
    with pytest.raises(KeyboardInterrupt):
        fit(model, guide, batches, **settings, **options)
    parts = run(tmp_path / "parts", **options)
    assert_equal_states(state(*whole[:2]), state(*parts[:2]))
    assert_equal_checkpoints(tmp_path / "whole", tmp_path / "parts")
