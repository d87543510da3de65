"""A run stops when the validation error has not fallen for so many epochs."""

import importlib

import pytest
from toy_problem import assert_equal_states, loader, pair, state

from l0bayes.inference import FitOptions, HardConcreteGuide, evaluate, fit
from l0bayes.inference.fit import _no_better
from l0bayes.models import MLP, Classifier

ERRORS = [0.5, 0.4, 0.4, 0.3, 0.35, 0.3, 0.3, 0.2, 0.1, 0.0]


@pytest.fixture
def errors(monkeypatch):
    """Validation errors that are given, one an epoch."""
    left = []
    monkeypatch.setattr(importlib.import_module("l0bayes.inference.fit"), "evaluate", lambda *_: left.pop(0))
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
    assert not _no_better([{"elbo": 1.0}] * 5, 1)
    assert not _no_better([], 1)
