"""A guide and its model stay together in copies; a pickled guide is small, and says what it misses."""

import copy
import io
import pickle

import pytest
import torch
from torch import nn

from l0bayes import compact, gate_table, sparsify, to_arviz
from l0bayes.errors import StructureError
from l0bayes.inference import HardConcreteGuide, TensorBatches, fit, load, predict, save, shrink
from l0bayes.models import MLP, Classifier, SpikeSlabRegression

SIZES = (300, 100, 10)
X, Y = torch.randn(40, SIZES[0]), torch.arange(40) % SIZES[-1]


def build(seed=0, gates="input"):
    torch.manual_seed(seed)
    model = Classifier(sparsify(MLP(*SIZES), X[:2], gates=gates), len(X))
    guide = HardConcreteGuide(model)
    with torch.no_grad():
        for parameter in guide.parameters():
            parameter.normal_()
    return model, guide


def pickled(it):
    return pickle.loads(pickle.dumps(it))  # noqa: S301 (our own)


def with_torch(it):
    file = io.BytesIO()
    torch.save(it, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


def shrunk():
    model, guide = build(gates="unit")
    with torch.no_grad():
        guide.parameter("log_alpha.fc1.unit")[:60] = -40
    shrink(model, guide)
    return model, guide


@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize("make", [build, shrunk])
def test_a_deep_copy_keeps_them_together(make, order):
    model, guide = make()
    expected = predict(model, guide, X)
    model_2, guide_2 = copy.deepcopy((model, guide)[::order])[::order]
    assert guide_2.model is model_2
    assert guide.model is model
    assert torch.equal(predict(model_2, guide_2, X), expected)
    fit(model_2, guide_2, TensorBatches(X, Y, 20), epochs=1, shrink_below=0.3, progress=False)
    assert torch.equal(predict(model, guide, X), expected)
    with torch.no_grad():
        guide_2.parameter("log_alpha.fc1." + ("input" if make is build else "unit"))[:3] = -40
    shrink(model_2, guide_2)
    assert torch.equal(predict(model, guide, X), expected)


def test_a_guide_alone_takes_a_copy_of_its_model_along():
    model, guide = build()
    other = copy.deepcopy(guide)
    assert isinstance(other.model, Classifier)
    assert other.model is not model
    assert gate_table(other).equals(gate_table(guide))
    assert torch.equal(predict(model, other, X), predict(model, guide, X))


def test_a_module_that_holds_both():
    both = nn.ModuleList(build())
    model, guide = copy.deepcopy(both)
    assert guide.model is model


@pytest.mark.parametrize("through", [pickled, with_torch])
@pytest.mark.parametrize("make", [build, shrunk])
def test_a_pickled_guide_gives_what_it_gave(make, through):
    model, guide = make()
    other = through(guide)
    assert other.lost_model
    assert not guide.lost_model
    assert gate_table(other).equals(gate_table(guide))
    assert other.numbers().keys() == guide.numbers().keys()
    assert torch.equal(predict(model, other, X), predict(model, guide, X))
    assert torch.equal(compact(model, other)(X), compact(model, guide)(X))
    assert list(other()) == list(guide())
    assert to_arviz(other, num_samples=3) is not None


@pytest.mark.parametrize("make", [build, shrunk])
def test_a_pickle_is_small(make):
    guide = make()[1]
    numbers = sum(parameter.numel() for parameter in guide.parameters())
    assert len(pickle.dumps(guide)) < 4 * numbers + 8 * numbers + 5000  # log α, the numbers of the units, and words


def test_a_group_keeps_its_least_without_the_model():
    model, guide = build(gates="unit")
    with torch.no_grad():
        guide.parameter("log_alpha.fc1.unit").fill_(-40)
    assert torch.equal(pickled(guide).point()["fc1.unit"], guide.point()["fc1.unit"])
    assert int((pickled(guide).point()["fc1.unit"] != 0).sum()) == 1
    assert pickled(pickled(guide)).least == guide.least == model.child("net").least


@pytest.mark.parametrize("make", [build, shrunk])
def test_what_is_saved_of_a_pickled_guide_is_whole(make, tmp_path):
    model, guide = make()
    save(pickled(guide), tmp_path / "guide.safetensors")
    fresh, fresh_guide = build(seed=1, gates="input" if make is build else "unit")
    load(tmp_path / "guide.safetensors", fresh_guide)
    load(save(model, tmp_path / "model.safetensors"), fresh)
    assert gate_table(fresh_guide).equals(gate_table(guide))
    assert torch.equal(predict(fresh, fresh_guide, X), predict(model, guide, X))


@pytest.mark.parametrize(
    "call",
    [
        lambda model, guide: fit(model, guide, TensorBatches(X, Y, 20), epochs=1, progress=False),
        shrink,
        lambda _, guide: to_arviz(guide, num_samples=2, data=(X, Y)),
        lambda _, guide: guide.model,
    ],
)
def test_what_needs_the_model_says_so(call):
    model, guide = build()
    with pytest.raises(RuntimeError, match=r"its model was left behind when it was pickled.*guide\.attach\(model\)"):
        call(model, pickled(guide))
    call(model, pickled(guide).attach(model))


def test_together_again():
    model, guide = shrunk()
    model_2, guide_2 = pickled((model, guide))
    assert guide_2.attach(model_2) is guide_2
    assert guide_2.model is model_2
    assert shrink(model_2, guide_2) == {}
    fit(model_2, guide_2, TensorBatches(X, Y, 20), epochs=1, progress=False)


def test_a_model_of_other_gates_is_refused():
    model, guide = shrunk()
    other = pickled(guide)
    for wrong in (build()[0], build(gates="unit")[0], MLP(2, 2)):
        with pytest.raises(StructureError, match=r"model has other gates than the guide: .*fc1\.unit with 40"):
            other.attach(wrong)
    with torch.no_grad():
        model.child("net").units["fc1.unit"][0] -= 1  # as many units, and others
    with pytest.raises(StructureError, match="model has other gates"):
        other.attach(model)
    assert other.lost_model


@pytest.mark.parametrize("make", [lambda _, guide: copy.deepcopy(guide), lambda *_: build(seed=1)[1]])
def test_a_guide_of_another_network_is_not_trained(make):
    model, guide = build()
    with pytest.raises(ValueError, match=r"guide belongs to another network than model, or to a copy"):
        fit(model, make(model, guide), TensorBatches(X, Y, 20), epochs=1, progress=False)
    with pytest.raises(ValueError, match="guide belongs to another network"):
        shrink(model, make(model, guide))


def test_a_guide_of_a_model_around_the_same_network():
    model, _ = build()
    fit(model, HardConcreteGuide(model.child("net")), TensorBatches(X, Y, 20), epochs=1, progress=False)


def test_models_without_networks():
    x = torch.randn(30, 3)
    model = SpikeSlabRegression(x, x[:, 0])
    guide = HardConcreteGuide(model)
    other = pickled(guide)
    with pytest.raises(RuntimeError, match=r"guide\.attach\(model\)"):  # its columns have names
        gate_table(other)
    assert other.attach(model).model is model
    assert gate_table(guide).equals(gate_table(other))
    assert copy.deepcopy(guide).model is not model


def test_a_guide_that_has_not_seen_data():
    model = Classifier(nn.Linear(3, 2), 4)

    def rows(x, y):
        return model(x, y)

    guide = HardConcreteGuide(rows)
    assert copy.deepcopy(guide).model is guide.model
