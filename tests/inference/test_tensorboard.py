"""The history of a run as TensorBoard reads it."""

import sys

import pytest
from drawn import fit
from toy_problem import loader, pair


def scalars(folder, name):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # noqa: PLC0415 (heavy)

    events = EventAccumulator(str(folder))
    events.Reload()
    return [(event.step, event.value) for event in events.Scalars(name)]


def test_all_epochs_of_a_run_that_went_on(tmp_path):
    for epochs in (2, 4):
        result = fit(
            *pair(),
            loader(),
            epochs=epochs,
            checkpoint=tmp_path / "run",
            tensorboard=tmp_path / "events",
            progress=False,
        )
    found = scalars(tmp_path / "events", "elbo")
    assert [step for step, _ in found] == [1, 2, 3, 4]
    assert [value for _, value in found] == pytest.approx(result.history["elbo"].tolist(), rel=1e-6)


def test_the_extra_is_named_where_it_is_missing(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ValueError, match=r"pip install 'l0bayes\[tensorboard\]'"):
        fit(*pair(), loader(), epochs=1, tensorboard=tmp_path, progress=False)
