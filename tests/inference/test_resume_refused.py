"""A checkpoint is resumed by the run that wrote it, and by no other that merely has parameters of the same shapes."""

import json
from functools import partial

import pytest
import torch
from drawn import fit
from safetensors import safe_open
from test_resume import start
from torch.distributions import Beta
from torch.utils.data import DataLoader, Dataset, TensorDataset
from toy_problem import assert_equal_states, blobs, loader, pair, state

from l0bayes import sparsify
from l0bayes.errors import FileFormatError
from l0bayes.inference import HardConcreteGuide, TensorBatches
from l0bayes.inference.cli import main
from l0bayes.inference.data.description import describe
from l0bayes.inference.system.digest import tensor_digest
from l0bayes.models import MLP, Regressor

X, Y = blobs()


def changed_label():
    y = Y.clone()
    y[-1] = (y[-1] + 1) % 3
    return TensorBatches(X, y, 20, shuffle=True)


def changed_bit():
    x = X.clone()
    x[17, 3] = torch.nextafter(x[17, 3], torch.tensor(torch.inf))
    return TensorBatches(x, Y, 20, shuffle=True)


OTHERS = {
    "code cost": ({"code_cost": 0.1}, {"code_cost": 0.2}, r"code_cost: fc1 was 0\.1, is 0\.2"),
    "of one layer": (
        {"gates": {"fc1": "input", "fc2": "input"}},
        {"gates": {"fc1": {"gates": "input", "code_cost": 0.3}, "fc2": "input"}},
        r"code_cost: fc1 was 0\.1, is 0\.3",
    ),
    "what is paid for": ({}, {"cost": "macs"}, "cost was parameters, is macs"),
    "inclusion": ({"inclusion": 0.5}, {"inclusion": 0.4}, r"inclusion: fc1.input was 0\.5, is 0\.4"),
    "Beta": (
        {"inclusion": Beta(1.0, 2.0)},
        {"inclusion": Beta(1.0, 3.0)},
        r"inclusion: fc1.input was Beta\(1\.0, 2\.0\), is Beta\(1\.0, 3\.0\)",
    ),
    "slab": ({"slab_scale": 1.0}, {"slab_scale": 2.0}, r"slab_scale was 1\.0, is 2\.0"),
    "least": ({}, {"min_units": 2}, "min_units: fc1.input was None, is 2"),
    "num_data": ({"rows": 50}, {"rows": 60}, "num_data was 50, is 60"),
}


@pytest.mark.parametrize(("first", "then", "message"), OTHERS.values(), ids=OTHERS)
def test_another_model(first, then, message, tmp_path):
    fit(*pair(**first), loader(), epochs=1, checkpoint=tmp_path / "run", progress=False)
    with pytest.raises(FileFormatError, match=f"it was written by another run: .*{message}(.|\n)*Give another path"):
        fit(*pair(**then), loader(), epochs=2, checkpoint=tmp_path / "run", progress=False)


@pytest.mark.parametrize("name", ["beta", "gamma", "zeta"])
def test_another_stretch(name, tmp_path):
    model, guide = pair()
    fit(model, guide, loader(), epochs=1, checkpoint=tmp_path / "run", progress=False)
    other = HardConcreteGuide(model, **{name: {"beta": 0.5, "gamma": -0.2, "zeta": 1.2}[name]})
    with pytest.raises(FileFormatError, match=r"stretch \(beta, gamma, zeta\) was \[0\.66"):
        fit(model, other, loader(), epochs=2, checkpoint=tmp_path / "run", progress=False)


def test_another_noise(tmp_path):
    def run(noise, epochs):
        torch.manual_seed(0)
        model = Regressor(sparsify(MLP(6, 4, 1), torch.zeros(2, 6)), 50, noise_scale=noise)
        batches = [(X, X[:, :1])]
        fit(model, HardConcreteGuide(model), batches, epochs=epochs, checkpoint=tmp_path / "run", progress=False)

    run(1.0, 1)
    with pytest.raises(FileFormatError, match=r"noise_scale was 1\.0, is 0\.5"):
        run(0.5, 2)


class Made(Dataset):
    def __init__(self, rows):
        self.rows = rows

    def __len__(self):
        return self.rows

    def __getitem__(self, row):
        return X[row], Y[row]


DATA = {
    "a label": (loader, changed_label, "digest of the data was"),
    "a bit": (loader, changed_bit, "digest of the data was"),
    "batch size": (loader, partial(loader, 17), "batch size was 20, is 17"),
    "steps an epoch": (loader, partial(loader, 25), "number of batches was 3, is 2"),
    "order": (loader, partial(loader, shuffle=False), "shuffle was True, is False"),
    "augmentation": (
        loader,
        lambda: TensorBatches(X, Y, 20, shuffle=True, augment=lambda x: x),
        "augment was False, is True",
    ),
    "a list": (lambda: [(X, Y)], lambda: [(X, 2 - Y)], "digest of the data was"),
    "a data loader": (
        lambda: DataLoader(TensorDataset(X, Y), 20),
        lambda: DataLoader(TensorDataset(X + 1, Y), 20),
        "digest of the data was",
    ),
    "its order": (
        lambda: DataLoader(TensorDataset(X, Y), 20),
        lambda: DataLoader(TensorDataset(X, Y), 20, shuffle=True),
        "sampler was SequentialSampler, is RandomSampler",
    ),
    "rows made on demand": (
        lambda: DataLoader(Made(50), 20),
        lambda: DataLoader(Made(48), 20),
        "number of rows was 50, is 48",
    ),
}


@pytest.mark.parametrize(("first", "then", "message"), DATA.values(), ids=DATA)
def test_other_data(first, then, message, tmp_path):
    start(tmp_path / "run", first(), epochs=1)
    with pytest.raises(FileFormatError, match=f"it was written by another run: .*train_loader: .*{message}"):
        start(tmp_path / "run", then())


@pytest.mark.parametrize("name", ["bf16", "independent_draws"])
def test_other_arithmetic(name, tmp_path):
    start(tmp_path / "run", epochs=1)
    with pytest.raises(FileFormatError, match=f"{name} was False, is True"):
        start(tmp_path / "run", **{name: True})


def test_what_is_refused_is_left_as_it_is(tmp_path):
    path = tmp_path / "run"
    fit(*pair(code_cost=0.1), loader(), epochs=1, checkpoint=path, progress=False)
    content, (model, guide) = path.read_bytes(), pair(code_cost=0.2)
    before, random = state(model, guide), torch.get_rng_state()
    with pytest.raises(FileFormatError):
        fit(model, guide, loader(), epochs=2, checkpoint=path, progress=False)
    assert path.read_bytes() == content
    assert_equal_states(state(model, guide), before)
    assert torch.equal(torch.get_rng_state(), random)


def test_fewer_epochs_than_are_done(tmp_path):
    start(tmp_path / "run", epochs=3)
    with pytest.raises(FileFormatError, match="3 epochs are done already, and epochs=2 with fine_tune=0 ask for 2"):
        start(tmp_path / "run", epochs=2)
    assert len(start(tmp_path / "run", epochs=3)[1].history) == 3


@pytest.mark.filterwarnings("ignore:no way leads")
def test_fewer_epochs_on_the_command_line(tmp_path, capsys):
    command = ["train", "--data", "digits", "--hidden", "[4]", "--progress", "false", "--out", str(tmp_path)]
    assert main([*command, "--epochs", "2"]) == 0
    summary = (tmp_path / "summary.json").read_text()
    assert main([*command, "--epochs", "1"]) == 1
    assert "2 epochs are done already" in capsys.readouterr().err
    assert (tmp_path / "summary.json").read_text() == summary


@pytest.mark.filterwarnings("ignore:no way leads")
def test_a_run_that_was_shrunk_is_the_same_run(tmp_path):
    options = {"shrink_below": 0.5, "gate_lr": 0.05, "checkpoint": tmp_path / "run", "progress": False}
    model, guide = pair(init_open=0.2, gates="unit")
    fit(model, guide, loader(), epochs=2, **options)
    assert sum(parameter.numel() for parameter in guide.parameters()) < 9
    fit(model, guide, loader(), epochs=3, **options)  # as small as it is
    fit(*pair(init_open=0.2, gates="unit"), loader(), epochs=4, **options)


def test_facts_are_in_the_file_for_people_to_read(tmp_path):
    start(tmp_path / "run", epochs=1)
    with safe_open(tmp_path / "run", "pt") as file:
        found = json.loads(file.metadata()["l0bayes"])["fingerprint"]
    assert found["network"]["net"]["code_cost"]["fc2"] == 0.1
    assert found["train_loader"] == describe(loader())


def test_a_digest_knows_shape_and_type_and_not_the_layout():
    x = torch.arange(6.0).reshape(2, 3)
    assert tensor_digest([x]) == tensor_digest([x.T.contiguous().T])
    others = [x.reshape(3, 2), x.double(), x.int(), -x]
    assert len({tensor_digest([other]) for other in [x, *others]}) == 5
    assert tensor_digest([x, x]) != tensor_digest([x])
    assert tensor_digest([torch.zeros(0)]) != tensor_digest([torch.zeros(0, 2)])
    assert tensor_digest([torch.tensor(-0.0)]) != tensor_digest([torch.tensor(0.0)])
    tensor_digest([torch.zeros(2, dtype=torch.bfloat16), torch.tensor(3, dtype=torch.int64)])
