"""The checkpoint as a file: what is in it, and what happens when it is not what it should be."""

import json
import pickle
import random

import numpy as np
import pytest
import torch
from drawn import fit
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from toy_problem import assert_equal_checkpoints, assert_equal_states, loader, pair, state

from l0bayes.errors import FileFormatError
from l0bayes.inference.storage.files import write_tensors
from l0bayes.inference.system.random_state import random_state, set_random_state


@pytest.fixture
def path(tmp_path):
    """A checkpoint after one epoch."""
    path = tmp_path / "run.checkpoint"
    fit(*pair(), loader(), epochs=1, checkpoint=path, progress=False)
    return path


def resume(path, **options):
    fit(*pair(), loader(), epochs=2, checkpoint=path, progress=False, **options)


def rewritten(path, change_tensors=lambda tensors: tensors, change_facts=lambda facts: facts):
    """The same file with something changed in it."""
    with safe_open(path, "pt") as file:
        facts = json.loads(file.metadata()["l0bayes"])
    tensors = load_file(path)
    write_tensors(path, change_tensors(tensors), change_facts(facts))


def test_it_is_a_safetensors_file_and_no_pickle(path):
    tensors = load_file(path)
    assert {name.split("/")[0] for name in tensors} == {"model", "guide", "optimizer", "random"}
    with path.open("rb") as file, pytest.raises((pickle.UnpicklingError, ValueError)):
        pickle.load(file)  # noqa: S301
    assert int.from_bytes(path.read_bytes()[:8], "little") < path.stat().st_size  # length of a JSON header
    assert path.read_bytes()[8:9] == b"{"


def test_modules_are_stored_by_their_names(tmp_path):
    model, guide = pair()
    fit(model, guide, loader(), epochs=1, checkpoint=tmp_path / "c", progress=False)
    tensors = load_file(tmp_path / "c")
    for name, module in (("model", model), ("guide", guide)):
        stored = {key.removeprefix(f"{name}/"): value for key, value in tensors.items() if key.startswith(f"{name}/")}
        assert_equal_states(stored, module.state_dict())


def test_missing_folders_are_made(tmp_path):
    result = fit(*pair(), loader(), epochs=1, checkpoint=tmp_path / "a" / "b" / "c", progress=False)
    assert result.checkpoint == tmp_path / "a" / "b" / "c"
    assert result.checkpoint.is_file()


def test_a_path_may_be_a_string(tmp_path):
    assert fit(*pair(), loader(), epochs=1, checkpoint=str(tmp_path / "c"), progress=False).checkpoint.is_file()


@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.9, 0.9999])
def test_half_written(path, share):
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(FileFormatError, match=r"run\.checkpoint is damaged"):
        resume(path)


@pytest.mark.parametrize("content", [b"garbage", bytes(1000), b"\xff" * 1000, b"{}", pickle.dumps({"epoch": 3})])
def test_something_else_entirely(path, content):
    path.write_bytes(content)
    with pytest.raises(FileFormatError, match=r"run\.checkpoint is damaged"):
        resume(path)


def test_a_safetensors_file_of_somebody_elses(path):
    save_file({"weight": torch.zeros(2)}, path)
    with pytest.raises(FileFormatError, match=r"run\.checkpoint.*not written by l0bayes"):
        resume(path)


@pytest.mark.parametrize("facts", ["[1, 2]", '"checkpoint"', "3", "null", "{"])
def test_a_header_that_is_not_what_it_should_be(path, facts):
    save_file(load_file(path), path, {"l0bayes": facts})
    with pytest.raises(FileFormatError, match=r"run\.checkpoint"):
        resume(path)


def test_another_kind_of_file(path):
    rewritten(path, change_facts=lambda facts: facts | {"kind": "guide"})
    with pytest.raises(FileFormatError, match="holds a guide, and a checkpoint is needed"):
        resume(path)


@pytest.mark.parametrize("fact", ["epoch", "step", "sums", "history", "optimizer"])
def test_a_fact_that_is_missing(path, fact):
    rewritten(path, change_facts=lambda facts: {name: value for name, value in facts.items() if name != fact})
    with pytest.raises(FileFormatError, match=r"run\.checkpoint"):
        resume(path)


@pytest.mark.parametrize("part", ["model", "guide", "optimizer", "random"])
def test_tensors_that_are_missing(path, part):
    rewritten(path, lambda tensors: {name: value for name, value in tensors.items() if not name.startswith(part)})
    with pytest.raises(FileFormatError, match=r"run\.checkpoint"):
        resume(path)


def test_another_model(path):
    with pytest.raises(FileFormatError, match=r"run\.checkpoint belongs to another model(.|\n)*Give another path"):
        fit(*pair(sizes=(6, 7, 4, 3)), loader(), epochs=2, checkpoint=path, progress=False)


def test_another_optimizer(path):
    model, guide = pair()
    optimizer = torch.optim.SGD([*model.parameters(), *guide.parameters()], lr=0.1)
    with pytest.raises(FileFormatError, match=r"run\.checkpoint.*Adam.*SGD.*Give another path"):
        fit(model, guide, loader(), epochs=2, optimizer=optimizer, checkpoint=path, progress=False)


@pytest.mark.parametrize("part", [0, 1], ids=["model", "guide"])
def test_another_precision(path, part):
    """Rounded, the run would not resume as if it had never stopped."""
    modules = pair()
    modules[part].double()
    with pytest.raises(FileFormatError, match=r"run\.checkpoint.*Give another path"):
        fit(*modules, loader(), epochs=2, checkpoint=path, progress=False)


def test_an_optimizer_of_other_groups(path):
    model, guide = pair()
    optimizer = torch.optim.Adam([*model.parameters(), *guide.parameters()])
    with pytest.raises(FileFormatError, match=r"run\.checkpoint.*Give another path"):
        fit(model, guide, loader(), epochs=2, optimizer=optimizer, checkpoint=path, progress=False)


def test_a_refused_checkpoint_is_not_touched(path):
    content = path.read_bytes()
    with pytest.raises(FileFormatError):
        fit(*pair(sizes=(6, 7, 4, 3)), loader(), epochs=2, checkpoint=path, progress=False)
    assert path.read_bytes() == content


def test_a_refused_checkpoint_changes_nothing(path):
    """The guide fits and the model does not: neither may be half of the other run."""
    model, guide = pair(seed=5, sizes=(6, 5, 4, 2))
    before, random_before = state(model, guide), torch.get_rng_state()
    with pytest.raises(FileFormatError):
        fit(model, guide, loader(), epochs=2, checkpoint=path, progress=False)
    assert_equal_states(state(model, guide), before)
    assert torch.equal(torch.get_rng_state(), random_before)


def draws():
    return [
        *torch.rand(3).tolist(),
        *np.random.rand(3),  # noqa: NPY002 (the global generator is what is tested)
        np.random.normal(),  # noqa: NPY002
        random.random(),  # noqa: S311
        random.gauss(0, 1),
    ]


@pytest.mark.parametrize("drawn_before", [0, 1, 2, 1000])
def test_random_states_round_trip(drawn_before):
    for _ in range(drawn_before):  # odd numbers leave half of a pair of normal draws behind
        np.random.normal()  # noqa: NPY002
        random.gauss(0, 1)
        torch.rand(1)
    before = random_state()
    expected = draws()
    assert draws() != expected
    set_random_state(before)
    assert draws() == expected


def test_reading_the_random_state_draws_nothing():
    assert_equal_states(random_state(), random_state())


@pytest.mark.filterwarnings("ignore:path. .* was written by an earlier version, without a digest")
def test_what_an_earlier_version_wrote_is_resumed_with_a_warning(path, tmp_path):
    """It had neither a format, a digest, nor a fingerprint."""
    with safe_open(path, "pt") as file:
        facts = json.loads(file.metadata()["l0bayes"])
    known = {name: value for name, value in facts.items() if name not in ("format", "fingerprint")}
    save_file(load_file(path), path, {"l0bayes": json.dumps(known)})
    with pytest.warns(UserWarning, match="an earlier version wrote it, which did not note data and priors"):
        resume(path)
    fit(*pair(), loader(), epochs=2, checkpoint=tmp_path / "whole", progress=False)
    assert_equal_checkpoints(path, tmp_path / "whole")
