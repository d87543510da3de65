"""Which parameters a guide has, and from when."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from guide_models import SIZES, batch, classifier, gates_and_slab, regression
from pyro import poutine
from pyro.nn import PyroModule, PyroSample

from l0bayes import HardConcrete, L0Prior, sparsify
from l0bayes.errors import StructureError
from l0bayes.inference import HardConcreteGuide
from l0bayes.models import MLP


def shapes(guide):
    return {name: tuple(parameter.shape) for name, parameter in guide.named_parameters()}


GATES = {f"log_alpha.fc{i}.input": (size,) for i, size in enumerate(SIZES[:3], start=1)}
REGRESSION = {"log_alpha.z": (3,), "loc.w": (3,), "log_scale.w": (3,)}


def test_a_likelihood_needs_no_data_to_set_up_its_guide():
    assert shapes(HardConcreteGuide(classifier())) == GATES


def test_a_sparse_network_alone_neither():
    sparse = sparsify(MLP(*SIZES), torch.zeros(2, SIZES[0]), gates="input")
    assert shapes(HardConcreteGuide(sparse)) == GATES


def test_a_model_without_arguments_neither():
    assert shapes(HardConcreteGuide(gates_and_slab)) == {
        "log_alpha.z": (4,),
        "log_alpha.z0": (),
        "loc.w": (4,),
        "loc.w0": (),
        "log_scale.w": (4,),
        "log_scale.w0": (),
    }


def test_arguments_set_up_any_other_model():
    x, y = torch.randn(7, 3), torch.randn(7)
    assert shapes(HardConcreteGuide(regression, args=(x, y))) == REGRESSION
    assert shapes(HardConcreteGuide(regression, args=(x,), kwargs={"y": y})) == REGRESSION
    assert shapes(HardConcreteGuide(regression, kwargs={"x": x, "y": y})) == REGRESSION


def test_arguments_may_be_given_where_none_are_needed():
    assert shapes(HardConcreteGuide(classifier(), args=batch())) == GATES


def test_arguments_that_do_not_fit_are_an_error_at_once():
    with pytest.raises(TypeError):
        HardConcreteGuide(regression, args=(1, 2, 3, 4))
    with pytest.raises(TypeError):
        HardConcreteGuide(regression, kwargs={"data": torch.zeros(2, 3)})


def test_otherwise_the_first_call_creates_them():
    guide = HardConcreteGuide(regression)
    assert shapes(guide) == {}
    for early in (
        guide.median,
        guide.gates,
        guide.point,
        guide.distributions,
        lambda: guide.quantiles([0.5]),
    ):
        with pytest.raises(RuntimeError, match="Call it once"):
            early()
    guide(torch.randn(7, 3), torch.randn(7))
    assert shapes(guide) == REGRESSION
    before = {name: id(parameter) for name, parameter in guide.named_parameters()}
    guide(torch.randn(7, 3), torch.randn(7))
    assert before == {name: id(parameter) for name, parameter in guide.named_parameters()}


def test_the_first_call_does_not_leak_the_models_sites_into_a_trace():
    x, y = torch.randn(7, 3), torch.randn(7)
    guide = HardConcreteGuide(regression)
    first = poutine.trace(guide).get_trace(x, y)
    second = poutine.trace(guide).get_trace(x, y)
    assert list(first.stochastic_nodes) == list(second.stochastic_nodes) == ["z", "w"]
    assert "y" not in first.nodes


def test_setting_up_does_not_touch_the_model():
    model = classifier()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    HardConcreteGuide(model)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_the_model_is_no_part_of_the_guide():
    model = classifier()
    guide = HardConcreteGuide(model)
    assert guide.model is model
    assert not {id(p) for p in guide.parameters()} & {id(p) for p in model.parameters()}


def test_a_module_that_needs_data_and_samples_its_weights():
    class Linear(PyroModule):
        def __init__(self):
            super().__init__()
            self.weight = PyroSample(dist.Normal(0.0, 1.0).expand([3]).to_event(1))
            self.gate = PyroSample(L0Prior(torch.ones(3)).to_event(1))

        def forward(self, x):
            return x @ (self.weight * self.gate)

    guide = HardConcreteGuide(Linear())
    assert shapes(guide) == {}
    guide(torch.randn(5, 3))
    assert shapes(guide) == {"log_alpha.gate": (3,), "loc.weight": (3,), "log_scale.weight": (3,)}


@pytest.mark.parametrize("name", ["fc1.input", "a.b.c", "spaces and-dashes", "0", "weight", "log_alpha", "net"])
def test_any_site_name_will_do(name):
    def model():
        pyro.sample(name, L0Prior(torch.ones(3)).to_event(1))
        pyro.sample(f"other {name}", dist.Normal(0.0, 1.0))

    guide = HardConcreteGuide(model)
    assert shapes(guide)[f"log_alpha.{name}"] == (3,)
    assert set(guide()) == {name, f"other {name}"}
    other = HardConcreteGuide(model)
    other.load_state_dict(guide.state_dict())


@pytest.mark.parametrize("name", ["type", "training", "forward", "half", "float.x", "a.eval"])
def test_site_names_that_a_module_uses_for_itself_work_or_are_refused(name):
    def model():
        pyro.sample(name, L0Prior(torch.ones(3)).to_event(1))

    try:
        guide = HardConcreteGuide(model)
    except StructureError as error:
        assert repr(name) in str(error)  # noqa: PT017
    else:
        assert set(guide.eval().train()()) == {name}


def test_site_names_that_collide_are_refused():
    def model():
        pyro.sample("layer", L0Prior(torch.ones(3)).to_event(1))
        pyro.sample("layer.unit", L0Prior(torch.ones(3)).to_event(1))

    with pytest.raises(StructureError, match=r"'layer' and 'layer\.unit' collide"):
        HardConcreteGuide(model)


def test_names_that_only_begin_alike_do_not_collide():
    def model():
        pyro.sample("layer", L0Prior(torch.ones(3)).to_event(1))
        pyro.sample("layer2.unit", L0Prior(torch.ones(3)).to_event(1))

    assert set(HardConcreteGuide(model)()) == {"layer", "layer2.unit"}


@pytest.mark.parametrize("fn", [dist.Bernoulli(0.5), dist.Categorical(torch.ones(3)), dist.Poisson(2.0)])
def test_discrete_sites_are_refused_by_name(fn):
    with pytest.raises(StructureError, match=f"'switch' is discrete \\({type(fn).__name__}\\)"):
        HardConcreteGuide(lambda: pyro.sample("switch", fn))


@pytest.mark.parametrize("others", ["normal", "point"])
def test_gates_are_hard_concrete_whatever_the_others_are(others):
    guide = HardConcreteGuide(gates_and_slab, others=others)
    kinds = {name: type(fn).__name__ for name, fn in guide.distributions().items()}
    slab = "Delta" if others == "point" else "Normal"
    assert kinds == {
        "z": "Independent",
        "z0": "HardConcrete",
        "w": "Independent" if slab == "Normal" else slab,
        "w0": slab,
    }
    assert type(guide.distributions()["z"].base_dist) is HardConcrete
    assert all(type(gate) is HardConcrete for gate in guide.gates().values())
    assert {name: gate.batch_shape for name, gate in guide.gates().items()} == {"z": (4,), "z0": ()}


@pytest.mark.parametrize(
    "prior", [HardConcrete(torch.zeros(3)).to_event(1), L0Prior(torch.ones(3)).to_event(1).mask(True)]
)
def test_gate_sites_are_recognised_through_wrappers(prior):
    guide = HardConcreteGuide(lambda: pyro.sample("z", prior))
    assert list(shapes(guide)) == ["log_alpha.z"]


def test_bad_arguments():
    for arguments, message in [
        ({"others": "delta"}, "others must be one of normal, point; got 'delta'"),
        ({"init_scale": 0.0}, "init_scale must be > 0; got 0.0"),
        ({"init_scale": float("nan")}, "init_scale must be > 0"),
        ({"beta": 0.0}, "beta"),
        ({"gamma": 0.1}, "gamma"),
        ({"zeta": 1.0}, "zeta"),
    ]:
        with pytest.raises(ValueError, match=message):
            HardConcreteGuide(gates_and_slab, **arguments)


def test_the_draws_are_returned_by_name():
    x, y = batch()
    guide = HardConcreteGuide(classifier())
    draws = guide(x, y)
    assert {name: tuple(value.shape) for name, value in draws.items()} == {
        name.removeprefix("log_alpha."): shape for name, shape in GATES.items()
    }
    assert all(((value >= 0) & (value <= 1)).all() for value in draws.values())
