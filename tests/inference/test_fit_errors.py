"""What fit refuses, and what it says."""

import math

import pytest
import torch
from drawn import fit
from toy_problem import Surprise, blobs, loader, pair

from l0bayes import sparsify
from l0bayes.errors import DataError, DivergenceError
from l0bayes.inference import HardConcreteGuide
from l0bayes.inference.storage.files import read_tensors
from l0bayes.models import MLP, Regressor

pyros_warning = pytest.mark.filterwarnings("ignore:Encountered NaN. loss:UserWarning")


@pytest.mark.parametrize("epochs", [0, -1])
def test_epochs_out_of_range(epochs):
    with pytest.raises(ValueError, match=f"epochs must be an integer of at least 1; got {epochs}"):
        fit(*pair(), loader(), epochs=epochs, progress=False)


@pytest.mark.parametrize("num_particles", [0, -1])
def test_number_of_particles_out_of_range(num_particles):
    with pytest.raises(ValueError, match=f"num_particles.*{num_particles}"):
        fit(*pair(), loader(), epochs=1, num_particles=num_particles, progress=False)


@pytest.mark.parametrize("rates", [{"lr": 0.0}, {"gate_lr": -1.0}, {"weight_decay": -1.0}])
def test_rates_out_of_range(rates):
    with pytest.raises(ValueError, match=next(iter(rates))):
        fit(*pair(), loader(), epochs=1, progress=False, **rates)


def test_an_empty_loader():
    with pytest.raises(DataError, match="train_loader is empty"):
        fit(*pair(), [], epochs=1, progress=False)


def test_an_empty_loader_and_a_guide_that_waits_for_data():
    model, _ = pair()

    def plain(x, y=None):
        return model(x, y)

    guide = HardConcreteGuide(plain)
    with pytest.raises(DataError, match="train_loader is empty"):
        fit(model, guide, [], epochs=1, progress=False)


def test_an_empty_validation_loader():
    with pytest.raises(DataError, match="loader is empty"):
        fit(*pair(), loader(), epochs=1, validation_loader=[], progress=False)


def test_targets_that_do_not_suit_the_network():
    x, y = blobs()
    with pytest.raises(DataError, match="y must be between 0 and 2"):
        fit(*pair(), [(x, y + 1)], epochs=1, progress=False)


@pyros_warning
def test_divergence_names_the_place_and_the_remedy():
    with pytest.raises(DivergenceError, match=r"epoch 1, step 2.*with a lower lr or gate_lr"):
        fit(*pair(), loader(), epochs=1, lr=1e30, progress=False)


def test_divergence_in_a_later_epoch_leaves_the_last_good_state(tmp_path):
    path = tmp_path / "run.checkpoint"
    model = Regressor(sparsify(MLP(6, 4, 1), torch.zeros(2, 6)), num_data=50)
    guide = HardConcreteGuide(model)
    x, _ = blobs()
    targets = torch.zeros(50, 1)
    batches = Surprise([(x, targets)], 2, lambda: targets.fill_(1e30))
    with pytest.raises(DivergenceError, match=r"epoch 2, step 1\. The last good state is in .*run.checkpoint"):
        fit(model, guide, batches, epochs=2, checkpoint=path, progress=False)
    tensors, facts = read_tensors(path, "checkpoint")
    assert facts["epoch"] == 1
    assert all(math.isfinite(tensor.double().sum()) for name, tensor in tensors.items() if "random" not in name)


@pyros_warning
def test_divergence_before_the_first_checkpoint_does_not_speak_of_one(tmp_path):
    with pytest.raises(DivergenceError) as error:
        fit(*pair(), loader(), epochs=1, lr=1e30, checkpoint=tmp_path / "run.checkpoint", progress=False)
    assert not (tmp_path / "run.checkpoint").exists()
    assert "run.checkpoint" not in str(error.value)
