"""State of a guide: state dicts, copies and pickles."""

import copy
import io
import pickle

import pyro
import pytest
import torch
from guide_models import batch, changed, classifier, gates_and_slab, parameters, regression, spread
from pyro.infer import SVI, TraceMeanField_ELBO

from l0bayes.errors import StructureError
from l0bayes.inference import ClosedFormKL_ELBO, HardConcreteGuide

LOCAL = pytest.mark.parametrize("local", [False, True], ids=["global params", "local params"])


def data():
    return torch.randn(7, 3), torch.randn(7)


def trained():
    guide = HardConcreteGuide(regression, args=data())
    with torch.no_grad():
        for parameter in guide.parameters():
            parameter.copy_(torch.randn_like(parameter))
    return guide


def assert_same_state(first, second):
    assert list(first.state_dict()) == list(second.state_dict())
    for name, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[name])


def load_and_call(state):
    guide = HardConcreteGuide(regression)
    guide.load_state_dict(state)
    guide(*data())


def test_a_fresh_eager_guide_takes_it_over():
    guide, fresh = spread(HardConcreteGuide(classifier())), HardConcreteGuide(classifier())
    fresh.load_state_dict(guide.state_dict())
    assert_same_state(guide, fresh)
    torch.testing.assert_close(fresh.point(), guide.point())


def test_a_fresh_lazy_guide_takes_it_over_before_it_has_seen_data():
    guide = trained()
    fresh = HardConcreteGuide(regression)
    fresh.load_state_dict(guide.state_dict())
    assert_same_state(guide, fresh)
    fresh(*data())
    assert_same_state(guide, fresh)
    torch.testing.assert_close(fresh.median(), guide.median())


def test_a_lazy_guide_inside_another_module_takes_it_over():
    guide = torch.nn.ModuleDict({"guide": trained()})
    fresh = torch.nn.ModuleDict({"guide": HardConcreteGuide(regression)})
    fresh.load_state_dict(guide.state_dict())
    assert_same_state(guide, fresh)


def test_it_survives_a_file():
    guide, file = trained(), io.BytesIO()
    torch.save(guide.state_dict(), file)
    file.seek(0)
    fresh = HardConcreteGuide(regression)
    fresh.load_state_dict(torch.load(file, weights_only=True))
    assert_same_state(guide, fresh)


def test_state_of_another_shape_is_refused():
    state = trained().state_dict()
    eager = HardConcreteGuide(regression, args=(torch.randn(7, 4), torch.randn(7)))
    with pytest.raises(RuntimeError, match="size mismatch"):
        eager.load_state_dict(state)
    lazy = HardConcreteGuide(regression)
    lazy.load_state_dict(state)
    with pytest.raises(StructureError, match=r"log_alpha\.z has shape \(3,\).*\(4,\)"):
        lazy(torch.randn(7, 4), torch.randn(7))


def test_state_of_another_model_is_refused():
    state = HardConcreteGuide(gates_and_slab).state_dict()
    with pytest.raises(RuntimeError, match="Unexpected key"):
        HardConcreteGuide(regression, args=data()).load_state_dict(state)
    with pytest.raises((RuntimeError, StructureError), match=r"z0|log_alpha\.z"):
        load_and_call({name: value for name, value in state.items() if name.endswith("0")})


def test_state_that_lacks_a_site_is_refused():
    with pytest.raises((RuntimeError, StructureError), match="loc"):
        load_and_call({name: value for name, value in trained().state_dict().items() if "w" not in name})


def pickled(thing):
    return pickle.loads(pickle.dumps(thing))  # noqa: S301


COPIES = pytest.mark.parametrize("copied", [copy.deepcopy, pickled])


@LOCAL
@COPIES
def test_copies_of_trained_model_and_guide_train_independently(copied, local):
    with pyro.settings.context(module_local_params=local):
        model = classifier()
        guide = HardConcreteGuide(model)
        x, y = batch()
        svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.05}), TraceMeanField_ELBO())
        svi.step(x, y)
        model2, guide2 = copied((model, guide))
        before = parameters(model, guide)
        assert parameters(model2, guide2).keys() == before.keys()
        assert changed(before, model2, guide2) == set()
        SVI(model2, guide2, pyro.optim.Adam({"lr": 0.05}), TraceMeanField_ELBO()).step(x, y)
        assert changed(before, model, guide) == set()
        assert changed(before, model2, guide2) == before.keys()
        second = parameters(model2, guide2)
        svi.step(x, y)
        assert changed(second, model2, guide2) == set()
        assert changed(before, model, guide) == before.keys()


@COPIES
def test_a_copy_answers_like_its_original(copied):
    guide = trained()
    other = copied(guide)
    assert_same_state(guide, other)
    torch.testing.assert_close(other.median(), guide.median())
    torch.testing.assert_close(other.point("mean"), guide.point("mean"))
    for one in (guide, other):
        torch.manual_seed(1)
        one.drawn = one(*data())["w"]
    assert torch.equal(guide.drawn, other.drawn)


def test_copying_leaves_the_original_its_model():
    guide = trained()
    copy.deepcopy(guide)
    pickle.dumps(guide)
    assert guide.model is regression


@COPIES
@pytest.mark.parametrize("others", ["normal", "point"])
def test_options_and_exact_kls_survive_a_copy(others, copied):
    guide = HardConcreteGuide(gates_and_slab, others=others, beta=0.3, gamma=-0.2, zeta=1.3)
    other = copied(guide)
    assert {n: type(fn) for n, fn in other.distributions().items()} == {
        n: type(fn) for n, fn in guide.distributions().items()
    }
    gate = other.gates()["z0"]
    torch.testing.assert_close(torch.stack([gate.beta, gate.gamma, gate.zeta]), torch.tensor([0.3, -0.2, 1.3]))
    if others == "normal":
        loss = ClosedFormKL_ELBO().loss(gates_and_slab, other)
        assert loss == pytest.approx(ClosedFormKL_ELBO().loss(gates_and_slab, guide))
