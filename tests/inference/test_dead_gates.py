"""A network in which every gate has closed learns nothing any more: the run says so, and keeps what was good."""

import pytest
import torch
from drawn import fit
from toy_problem import assert_equal_states, blobs, loader, pair, state

from l0bayes.errors import DivergenceError
from l0bayes.inference import HardConcreteGuide
from l0bayes.inference.storage.files import read_tensors
from l0bayes.models import MLP, Classifier

pytestmark = pytest.mark.filterwarnings("ignore:no way leads")  # with so few units, some runs close a layer

KILLING = {"epochs": 60, "gate_lr": 0.3, "progress": False}


def dying():
    return pair(code_cost=100.0)


def test_it_is_said_with_the_remedy():
    with pytest.raises(DivergenceError, match=r"all 15 gates closed by epoch \d+ .*0\.0\d.*Lower code_cost or gate_lr"):
        fit(*dying(), loader(), **KILLING)


def test_without_a_checkpoint_none_is_named():
    with pytest.raises(DivergenceError) as error:
        fit(*dying(), loader(), **KILLING)
    assert "last good state" not in str(error.value)


def test_the_last_good_checkpoint_is_kept_and_named(tmp_path):
    path = tmp_path / "run.checkpoint"
    model, guide = dying()
    with pytest.raises(DivergenceError, match=r"The last good state is in .*run\.checkpoint\.") as error:
        fit(model, guide, loader(), checkpoint=path, **KILLING)
    dead = int(str(error.value).partition("by epoch ")[2].split()[0])
    tensors, facts = read_tensors(path, "checkpoint")
    assert facts["epoch"] == len(facts["history"]) == dead - 1
    model, guide = dying()
    guide.load_state_dict({n.removeprefix("guide/"): t for n, t in tensors.items() if n.startswith("guide/")})
    assert max(gate.prob_nonzero.max() for gate in guide.gates().values()) >= 0.05


def test_the_same_call_dies_again_and_a_lower_rate_does_not_start_from_the_dead(tmp_path):
    path, ends = tmp_path / "run.checkpoint", []
    for _ in range(2):
        with pytest.raises(DivergenceError) as error:
            fit(*dying(), loader(), checkpoint=path, **KILLING)
        ends.append((str(error.value), read_tensors(path, "checkpoint")[0]))
    assert ends[0][0] == ends[1][0]
    assert_equal_states(ends[0][1], ends[1][1])


def one_epoch(log_alphas, **options):
    model, guide = pair()
    with torch.no_grad():
        for log_alpha, value in zip(guide.parameters(), log_alphas, strict=True):
            log_alpha.copy_(value)
    before = state(guide)
    fit(model, guide, loader(), epochs=1, gate_lr=1e-9, progress=False, **options)
    return before, state(guide)


def test_one_gate_that_is_open_is_enough():
    closed = [torch.full((size,), -20.0) for size in (6, 5, 4)]
    closed[1][2] = 0.0
    one_epoch(closed)


@pytest.mark.parametrize(("probable", "dead"), [(0.04, True), (0.06, False)])
def test_where_the_line_is(probable, dead):
    gate = torch.tensor(probable).logit() + 2 / 3 * torch.tensor(0.1 / 1.1).log()
    values = [gate.expand(size) for size in (6, 5, 4)]
    if dead:
        with pytest.raises(DivergenceError, match=r"epoch 1 .*0\.04"):
            one_epoch(values)
    else:
        one_epoch(values)


def test_a_model_without_gates_is_not_asked():
    model = Classifier(MLP(6, 3), 50)
    fit(model, HardConcreteGuide(model), [blobs()], epochs=1, progress=False)
