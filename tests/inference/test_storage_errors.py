"""Files that must not be loaded, and what is said about them."""

import json
import pickle
import re

import pytest
import torch
from drawn import fit
from safetensors.torch import load_file, save_file
from saved_networks import SIZES, gated, small_network
from torch import nn

from l0bayes.errors import FileFormatError
from l0bayes.inference import load, save, shrink
from l0bayes.inference.storage.files import read_tensors, write_tensors
from l0bayes.models import MLP

X = torch.linspace(-1, 1, 3 * SIZES[0]).reshape(3, -1)


@pytest.fixture
def path(tmp_path):
    return save(small_network(), tmp_path / "small.safetensors")


def refused(path, module, match=""):
    """Loading must fail, with a message that names the file."""
    with pytest.raises(FileFormatError, match=re.escape(str(path)) + f"(.|\n)*{match}"):
        load(path, module)


def test_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no file .*nowhere"):
        load(tmp_path / "nowhere", MLP(*SIZES))


@pytest.mark.parametrize("share", [0.0, 0.001, 0.01, 0.5, 0.99])
def test_a_truncated_file(path, share):
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    refused(path, MLP(*SIZES), "damaged")


def test_a_file_with_something_behind_it(path):
    path.write_bytes(path.read_bytes() + b"\0")
    refused(path, MLP(*SIZES), "damaged")


def test_a_pickle(path):
    path.write_bytes(pickle.dumps(MLP(*SIZES).state_dict()))
    refused(path, MLP(*SIZES), "damaged")


def test_a_file_of_torch_save(path):
    torch.save(MLP(*SIZES).state_dict(), path)
    refused(path, MLP(*SIZES), "damaged")


def test_the_facts_instead_of_the_file(path):
    refused(path.with_suffix(".json"), MLP(*SIZES), "damaged")


def test_a_safetensors_file_of_somebody_elses(path):
    save_file(MLP(*SIZES).state_dict(), path)
    refused(path, MLP(*SIZES), "not written by l0bayes")


def test_every_bit_of_the_header_counts(path, tmp_path):
    content = path.read_bytes()
    damaged = tmp_path / "damaged"
    for position in range(8 + int.from_bytes(content[:8], "little")):
        flipped = content[position] ^ (1 << position % 8)
        damaged.write_bytes(content[:position] + bytes([flipped]) + content[position + 1 :])
        refused(damaged, MLP(*SIZES), "damaged")


@pytest.mark.parametrize("wrong", [[0, 1, 2, 12], [-1, 0, 1, 2], [0, 0, 1, 2], [3, 2, 1, 0]], ids=str)
def test_indices_that_are_none(path, wrong):
    """Whoever wrote them: they have a digest."""
    tensors = load_file(path)
    index = tensors["fc1.index"].clone()
    index[: len(wrong)] = torch.tensor(wrong)
    index[len(wrong) :] = torch.arange(4, len(index))
    changed(path, tensors | {"fc1.index": index})
    refused(path, MLP(*SIZES), "fc1.index must rise from 0 to below the 12 features")


def test_what_an_earlier_version_wrote(path):
    """It has neither format nor digest; it is read, with a warning."""
    expected = load(path, MLP(*SIZES))(X)
    facts = json.loads(path.with_suffix(".json").read_text())
    save_file(load_file(path), path, {"l0bayes": json.dumps(facts)})
    with pytest.warns(UserWarning, match="was written by an earlier version, without a digest"):
        loaded = load(path, MLP(*SIZES))
    assert torch.equal(loaded(X), expected)


@pytest.mark.parametrize("found", [1, 3, "2", None])
def test_a_format_that_is_not_known(path, found):
    facts = json.loads(path.with_suffix(".json").read_text())
    write_tensors(path, load_file(path), facts | {"format": found})
    refused(path, MLP(*SIZES), f"later version: its format is {found}, and 2 is known")


def test_a_network_of_another_class(path):
    refused(path, nn.Sequential(nn.Linear(12, 4)), "holds a MLP, and a Sequential was given")


def test_a_guide_where_a_network_is_needed(tmp_path):
    path = save(gated()[1], tmp_path / "guide")
    refused(path, MLP(*SIZES), "holds a guide, and a network is needed")


def test_a_network_where_a_guide_is_needed(path):
    refused(path, gated()[1], "holds a network, and a guide is needed")


def test_a_checkpoint_where_a_network_is_needed(tmp_path):
    x, y = torch.randn(8, SIZES[0]), torch.arange(8) % SIZES[-1]
    fit(*gated(), [(x, y)], epochs=1, checkpoint=tmp_path / "run", progress=False)
    refused(tmp_path / "run", MLP(*SIZES), "holds a checkpoint, and a network is needed")


@pytest.mark.parametrize("sizes", [(12, 9, 4), (12, 4)])
def test_a_network_with_fewer_layers(path, sizes):
    refused(path, MLP(*sizes), "does not fit")


def test_a_network_with_more_layers(path):
    refused(path, MLP(12, 9, 7, 4, 2), "does not fit")


def changed(path, tensors):
    """The same file with other tensors in it, and a digest of them."""
    write_tensors(path, tensors, read_tensors(path, "network")[1])


@pytest.mark.parametrize("name", ["fc1.weight", "fc1.bias", "fc1.index", "fc3.weight"])
def test_a_tensor_is_missing(path, name):
    tensors = load_file(path)
    del tensors[name]
    changed(path, tensors)
    refused(path, MLP(*SIZES))


@pytest.mark.parametrize("name", ["other", "fc1.other", "fc9.weight", "fc9.index", ".index", "index"])
def test_a_tensor_too_many(path, name):
    changed(path, load_file(path) | {name: torch.zeros(2)})
    refused(path, MLP(*SIZES))


@pytest.mark.parametrize("shape", [(), (3,), (2, 3, 4)])
def test_another_number_of_dimensions(path, shape):
    changed(path, load_file(path) | {"fc2.weight": torch.zeros(shape)})
    refused(path, MLP(*SIZES))


@pytest.mark.parametrize("shape", [(5, 100), (100, 5)])
def test_layers_that_do_not_fit_each_other(path, shape):
    """What one layer makes, the next must read."""
    changed(path, load_file(path) | {"fc2.weight": torch.zeros(shape)})
    refused(path, MLP(*SIZES))


def test_a_guide_of_another_model(tmp_path):
    path = save(gated()[1], tmp_path / "guide")
    refused(path, gated(sizes=(12, 8, 7, 4))[1], "does not fit")
    refused(path, gated(gates="unit")[1], "does not fit")


def test_provenance_that_json_cannot_hold(tmp_path):
    with pytest.raises(TypeError, match="JSON"):
        save(small_network(), tmp_path / "small", provenance={"net": MLP(2, 2)})
    assert list(tmp_path.iterdir()) == []


class WithExtraState(nn.Linear):
    def get_extra_state(self):
        return {"step": 3}

    def set_extra_state(self, state):
        pass


def test_a_state_that_is_no_tensor_is_refused(tmp_path):
    with pytest.raises(ValueError, match="'_extra_state' is no tensor"):
        save(WithExtraState(2, 2), tmp_path / "linear")


def test_units_that_were_shrunk_away_do_not_come_back(tmp_path):
    whole, shrunk = gated(), gated()
    with torch.no_grad():
        for gates in shrunk[1].parameters():
            gates[:1] = -20.0
    shrink(*shrunk)
    for before, after in zip(whole, shrunk, strict=True):
        refused(save(before, tmp_path / "whole"), after, r"units \[0\] of .* are not there")


@pytest.mark.parametrize(
    "units",
    [3, {"fc2.input": 3}, {"fc2.input": ["a"]}, {"fc2.input": [99]}, {"fc2.input": [0, 0]}, {"fc2.input": [-1]}],
)
def test_units_that_are_none(units, tmp_path):
    model, _ = gated()
    path = save(model, tmp_path / "model.safetensors")
    facts = json.loads(path.with_suffix(".json").read_text())
    write_tensors(path, load_file(path), facts | {"units": units})
    refused(path, gated()[0], "does not fit")
