"""Knowledge distillation: the loss against its formula, what it does to a run, and what is refused."""

import copy
import signal
from functools import partial

import pytest
import torch
from torch import nn
from toy_problem import Surprise, assert_equal_states, blobs, loader, pair, state

from l0bayes import sparsify
from l0bayes.errors import FileFormatError
from l0bayes.inference import ClosedFormKL_ELBO, FitOptions, HardConcreteGuide, Target, TensorBatches, evaluate, fit
from l0bayes.inference.objective.loss import Objective
from l0bayes.inference.objective.teacher import Teacher
from l0bayes.models import MLP, Classifier, Regressor


@pytest.mark.parametrize("temperature", [1.0, 4.0])
@pytest.mark.parametrize("weight", [0.3, 1.0])
def test_the_loss_is_that_of_hinton_et_al(weight, temperature):
    """(1 − w) · cross entropy + w T² · KL(teacher ‖ student), both of softmax(logits / T), and the KL of the gates."""
    torch.manual_seed(0)
    x, y = torch.randn(7, 6, dtype=torch.float64), torch.arange(7) % 3
    net, teacher = MLP(6, 4, 3).double(), MLP(6, 9, 3).double()
    model = Classifier(sparsify(net, x[:2], code_cost=0.2, gates="input"), 70)
    guide = HardConcreteGuide(model).double()
    objective = Objective(ClosedFormKL_ELBO(), model, guide)
    objective.fixed_gates = {name: torch.ones_like(gate) for name, gate in guide.point().items()}
    plain = objective(x, y)
    objective.teacher = Teacher(model, teacher, weight, temperature)
    taught = objective(x, y)
    student, wise = torch.log_softmax(net(x) / temperature, -1), torch.log_softmax(teacher(x) / temperature, -1)
    entropy = nn.functional.cross_entropy(net(x), y, reduction="sum")
    kl = temperature**2 * (wise.exp() * (wise - student)).sum()
    torch.testing.assert_close(taught - plain, 10 * weight * (kl - entropy))
    assert objective.negative_elbo == pytest.approx(plain.item())


def test_a_regression_is_drawn_to_the_teachers_means():
    torch.manual_seed(0)
    y, taught = torch.randn(5, 1), torch.randn(5, 1)
    model = Regressor(MLP(4, 3, 1), 5, noise_scale=0.5)
    torch.testing.assert_close(
        model.divergence(y, taught, 4.0), (y - taught).square().squeeze(-1) / (2 * 0.5**2), atol=1e-5, rtol=1e-5
    )


def test_a_network_learns_from_its_teacher_alone():
    """All targets are wrong, the teacher is right."""
    x, y = blobs(200)
    torch.manual_seed(0)
    teacher = MLP(6, 30, 3)
    model = Classifier(teacher, 200)
    right = TensorBatches(x, y, 20, shuffle=True)
    fit(model, HardConcreteGuide(model), right, epochs=20, lr=1e-2, progress=False)
    student = Classifier(sparsify(MLP(6, 30, 3), x[:2], gates="input"), 200)
    guide, wrong = HardConcreteGuide(student), TensorBatches(x, (y + 1) % 3, 20, shuffle=True)
    options = {"teacher_weight": 1.0, "target": Target(0.3), "lr": 1e-2}
    fit(student, guide, wrong, epochs=20, teacher=teacher, progress=False, **options)
    assert evaluate(student, guide, right) < 0.05


@pytest.mark.filterwarnings("ignore:epochs=8 leave fewer")
@pytest.mark.parametrize("step", [2, 10, 20])
def test_a_taught_run_resumes_bit_for_bit(step, tmp_path):
    teacher = MLP(6, 9, 3)
    options = {"epochs": 8, "target": Target(0.5), "progress": False, "teacher": teacher}

    def run(path, batches, seed=1, **changes):
        model, guide = pair(seed)
        fit(model, guide, batches, checkpoint=path, **options | changes)
        return state(model, guide)

    whole = run(tmp_path / "whole", loader())
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "parts", Surprise(loader(), step, partial(signal.raise_signal, signal.SIGINT)))
    with pytest.raises(FileFormatError, match="teacher"):
        run(tmp_path / "parts", loader(), seed=9, teacher=None)
    assert_equal_states(run(tmp_path / "parts", loader(), seed=9), whole)


def test_what_cannot_teach_is_refused():
    model, guide = pair()
    with pytest.raises(TypeError, match=r"teacher must be a torch\.nn\.Module"):
        fit(model, guide, loader(), epochs=1, progress=False, teacher=lambda x: x)
    with pytest.raises(ValueError, match="parameters of the model that is trained"):
        fit(model, guide, loader(), epochs=1, progress=False, teacher=model.child("net"))
    with pytest.raises(ValueError, match="teacher must have outputs as the model's network has"):
        fit(model, guide, loader(), epochs=1, progress=False, teacher=MLP(6, 5))
    copied = copy.deepcopy(model.child("net").child("net"))
    fit(model, guide, loader(), epochs=1, progress=False, teacher=copied, selection="svi")
    for option in ("teacher_weight", "temperature"):
        with pytest.raises(ValueError, match=option):
            FitOptions(**{option: 0.0})
