"""Fine-tuning trains what is left of the network, and the gates stay what they are."""

import math
import signal
from functools import partial

import pytest
import torch
from drawn import fit
from torch.nn.functional import cross_entropy
from toy_problem import (
    ROWS,
    Surprise,
    assert_equal_checkpoints,
    assert_equal_states,
    blobs,
    loader,
    pair,
    state,
)

from l0bayes import compact
from l0bayes.inference import evaluate, predict
from l0bayes.inference.objective.loss import Objective

pytestmark = pytest.mark.filterwarnings("ignore:no way leads")  # with so few units, some runs close a layer

EPOCHS, TUNED, STEPS = 3, 3, 3


def run(path=None, batches=None, epochs=EPOCHS, fine_tune=TUNED, **options):
    model, guide = pair()
    options = {"lr": 0.02, "gate_lr": 0.3} | options
    batches = batches or loader()
    result = fit(model, guide, batches, epochs=epochs, fine_tune=fine_tune, checkpoint=path, progress=False, **options)
    return model, guide, result


@pytest.fixture
def fixed(monkeypatch):
    """The gates that each training step was given, ``None`` where it drew them."""
    seen = []
    forward = Objective.forward

    def watched(self, *batch):
        seen.append(self.fixed_gates)
        return forward(self, *batch)

    monkeypatch.setattr(Objective, "forward", watched)
    return seen


def test_gates_are_drawn_first_and_fixed_at_their_points_then(fixed):
    _, guide, result = run()
    assert [gates is None for gates in fixed] == [True] * EPOCHS * STEPS + [False] * TUNED * STEPS
    for gates in fixed[EPOCHS * STEPS :]:
        assert gates.keys() == guide.point().keys()
        assert all(torch.equal(gates[name], point) for name, point in guide.point().items())
    assert len(result.history) == EPOCHS + TUNED


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_gates_stay_and_weights_move(optimizer):
    """Also where moments of earlier gradients would still move them."""
    tuned = run(optimizer=optimizer)
    before = run(optimizer=optimizer, fine_tune=0)
    for name, parameter in tuned[1].named_parameters():
        assert torch.equal(parameter, before[1].get_parameter(name)), name
    moved = [
        name
        for name, parameter in tuned[0].named_parameters()
        if not torch.equal(parameter, before[0].get_parameter(name))
    ]
    assert moved == [name for name, _ in tuned[0].named_parameters()]


def test_closed_gates_stay_closed_in_the_histories():
    history = run()[2].history
    for column in ("expected_l0", "open_l0", "open_gates"):
        assert history[column].iloc[EPOCHS - 1 :].nunique() == 1
    assert history["open_l0"].iloc[0] != history["open_l0"].iloc[-1]


def test_the_loss_becomes_that_of_the_network_that_predicts():
    """No KL, no draws: with one batch an epoch it is the cross-entropy before the step."""
    before = run(batches=loader(ROWS, shuffle=False), fine_tune=0)
    x, y = blobs()
    expected = -cross_entropy(predict(*before[:2], x), y, reduction="sum")
    history = run(batches=loader(ROWS, shuffle=False), fine_tune=1)[2].history
    assert history["elbo"].iloc[-1] == pytest.approx(expected.item(), rel=1e-5)


def test_what_comes_out_is_the_network_that_predicts():
    model, guide, _ = run()
    x, _ = blobs()
    assert any((z == 0).any() for z in guide.point().values())
    small = compact(model, guide)
    assert sum(p.numel() for p in small.parameters()) < sum(p.numel() for p in model.parameters())
    torch.testing.assert_close(small(x), predict(model, guide, x))


def test_the_predicting_network_gets_better():
    batches, errors = loader(), []
    for fine_tune in (0, 40):
        model, guide, _ = run(gate_lr=0.05, fine_tune=fine_tune)
        errors.append(evaluate(model, guide, batches))
    assert errors[1] < errors[0] / 2


@pytest.mark.parametrize(
    "options",
    [{}, {"schedule": "cosine"}, {"optimizer": "sgd"}, {"ema": 0.9}, {"accumulate": 2}, {"shrink_below": 0.2}],
    ids=str,
)
@pytest.mark.parametrize("step", [2, EPOCHS * STEPS + 1, EPOCHS * STEPS + 5])
def test_a_run_stopped_anywhere_goes_on(step, options, tmp_path):
    whole = run(tmp_path / "whole", **options)
    ctrl_c = partial(signal.raise_signal, signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "parts", Surprise(loader(), step, ctrl_c), **options)
    parts = run(tmp_path / "parts", **options)
    assert_equal_states(state(*whole[:2]), state(*parts[:2]))
    assert_equal_checkpoints(tmp_path / "whole", tmp_path / "parts")


def test_fine_tuning_may_be_added_to_a_finished_run(tmp_path):
    whole = run(tmp_path / "whole")
    run(tmp_path / "parts", fine_tune=0)
    parts = run(tmp_path / "parts")
    assert_equal_states(state(*whole[:2]), state(*parts[:2]))


def test_with_several_draws_a_step_too():
    history = run(num_particles=2, antithetic=True)[2].history
    assert all(map(math.isfinite, history["elbo"]))
