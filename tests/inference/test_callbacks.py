"""Tools beside a run: what they are told, how they end it, and that a run is the same with them."""

import pytest
from drawn import fit as fit_drawn
from toy_problem import assert_equal_states, loader, pair, state

from l0bayes.errors import ArgumentError
from l0bayes.inference import Callback, LiveFigure, Run, fit

EPOCHS = 40  # of three steps: enough for choosing gates by evidence


class Notes(Callback):
    """Writes down all that it is told."""

    def __init__(self):
        self.told = []

    def on_start(self, run):
        self.told.append(("start", run.epoch))

    def on_step(self, run):
        self.told.append(("step", run.epoch, run.step, run.phase, run.measured["elbo"]))

    def on_epoch(self, run):
        self.told.append(("epoch", run.epoch, run.step, run.phase, dict(run.measured)))

    def on_end(self, run):
        self.told.append(("end", run.epoch))

    def of(self, kind):
        return [one[1:] for one in self.told if one[0] == kind]


def test_all_steps_and_epochs_are_told_as_the_history_has_them():
    notes = Notes()
    result = fit(*pair(), loader(), epochs=EPOCHS, progress=False, callbacks=[notes])
    assert notes.told[0] == ("start", 0)
    assert notes.told[-1] == ("end", EPOCHS)
    assert [row for *_, row in notes.of("epoch")] == result.history.to_dict("records")
    assert [(epoch, step) for epoch, step, *_ in notes.of("step")] == [(e, s) for e in range(EPOCHS) for s in (1, 2, 3)]
    assert {phase for *_, phase, _ in notes.of("step")} == {"open", "selecting", "finishing"}
    means = [sum(elbo for epoch, *_, elbo in notes.of("step") if epoch == number) / 3 for number in range(EPOCHS)]
    assert means == pytest.approx(result.history["elbo"].tolist())


@pytest.mark.parametrize("how", [fit, fit_drawn])
def test_a_run_is_the_same_with_and_without(how):
    alone = pair()
    how(*alone, loader(), epochs=EPOCHS, progress=False)
    beside = pair()
    how(*beside, loader(), epochs=EPOCHS, progress=False, callbacks=[Notes(), lambda _run: None])
    assert_equal_states(state(*alone), state(*beside))


def test_a_function_is_called_after_each_epoch():
    seen = []
    fit_drawn(*pair(), loader(), epochs=3, progress=False, callbacks=[lambda run: seen.append(run.epoch)])
    assert seen == [1, 2, 3]


@pytest.mark.parametrize("how", [fit, fit_drawn])
@pytest.mark.filterwarnings("ignore:epochs=")
def test_a_stop_ends_the_run_after_the_epoch(how, tmp_path):
    def early(run: Run) -> None:
        if run.epoch == 2:
            run.stop("enough")

    model, guide = pair()
    result = how(model, guide, loader(), epochs=30, progress=False, callbacks=[early], checkpoint=tmp_path / "run")
    assert result.history["epoch"].tolist() == [1, 2]
    assert result.stopped == "enough"


def test_a_stop_within_an_epoch_lets_it_end():
    class Stops(Callback):
        def on_step(self, run):
            run.stop()

    result = fit_drawn(*pair(), loader(), epochs=5, progress=False, callbacks=[Stops()])
    assert result.history["steps"].tolist() == [3]
    assert result.stopped == "a callback asked for it"
    assert fit_drawn(*pair(), loader(), epochs=1, progress=False).stopped is None


def test_a_stopped_run_goes_on_as_if_it_had_not_been_stopped(tmp_path):
    whole = pair()
    fit_drawn(*whole, loader(), epochs=6, progress=False)
    notes, parts = Notes(), pair()
    stops = [lambda run: run.stop()]
    fit_drawn(*parts, loader(), epochs=6, progress=False, checkpoint=tmp_path / "run", callbacks=stops)
    again = pair()
    fit_drawn(*again, loader(), epochs=6, progress=False, checkpoint=tmp_path / "run", callbacks=[notes])
    assert notes.told[0] == ("start", 1)
    assert_equal_states(state(*whole), state(*again))


class Pruned(Exception):  # noqa: N818 (as optuna calls it)
    pass


def test_an_error_reaches_the_caller_and_what_was_saved_stays(tmp_path):
    """The pattern for a study of trials: report each epoch, and raise where the study says that it is hopeless."""
    reported = {}

    def report(run: Run) -> None:
        reported[run.epoch] = run.measured["validation_error"]
        if run.epoch == 2:
            raise Pruned

    notes = Notes()
    data = loader()
    with pytest.raises(Pruned):
        fit_drawn(
            *pair(),
            data,
            epochs=9,
            progress=False,
            validation_loader=loader(shuffle=False),
            checkpoint=tmp_path / "run",
            callbacks=[notes, report],
        )
    assert list(reported) == [1, 2]
    assert notes.told[-1] == ("end", 2)
    assert (tmp_path / "run").is_file()


@pytest.mark.parametrize("given", [3, "abc", [3], [Notes], lambda run: run, [None]])
def test_what_is_no_callback_is_refused(given):
    with pytest.raises(ArgumentError, match="callbacks must be"):
        fit(*pair(), loader(), epochs=1, progress=False, callbacks=given)


def test_a_live_figure_is_drawn_in_the_place_where_it_was(monkeypatch):
    display = pytest.importorskip("IPython.display")
    shown, updated = [], []

    class Handle:
        def update(self, figure):
            updated.append(figure)

    def show(figure, *, display_id):
        assert display_id
        shown.append(figure)
        return Handle()

    monkeypatch.setattr(display, "display", show)
    fit_drawn(*pair(), loader(), epochs=5, progress=False, callbacks=[LiveFigure(every=2)])
    assert (len(shown), len(updated)) == (1, 2)  # after 2, 4 and, at the end, 5 epochs
    with pytest.raises(ValueError, match="every must be at least 1"):
        LiveFigure(every=0)
