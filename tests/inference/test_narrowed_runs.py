"""Runs whose networks keep widths that suit a device end where all others do."""

import pytest
import torch

from l0bayes import compact, sparsify
from l0bayes.inference import HardConcreteGuide, Target, TensorBatches, fit
from l0bayes.inference.training import gates_by_evidence
from l0bayes.models import MLP, Classifier

TARGET = Target(0.3)


def run(**options):
    """A short run on made-up images; the model, its guide, and the history."""
    torch.manual_seed(0)
    x = torch.randn(96, 20).double()
    y = (x[:, :3].sum(1) > 0).long()
    net = MLP(20, 32, 24, 2).double()
    model = Classifier(sparsify(net, x[:2], gates="input", code_cost=0.01), num_data=len(x))
    guide = HardConcreteGuide(model)
    fitted = fit(model, guide, TensorBatches(x, y, 16, shuffle=True), lr=3e-3, progress=False, **options)
    return model, guide, fitted, x


@pytest.mark.parametrize("how", [{"round_to": 8}, {"masked": True}], ids=str)
@pytest.mark.parametrize("run_by", [{"epochs": 8, "target": TARGET}, {"epochs": 4, "selection": "svi"}], ids=str)
def test_the_course_is_that_of_subnetworks(run_by, how):
    model, guide, fitted, x = run(**run_by, **how)
    usual, usual_guide, expected, _ = run(**run_by)
    torch.testing.assert_close(
        torch.tensor(fitted.history["elbo"].to_numpy()),
        torch.tensor(expected.history["elbo"].to_numpy()),
        rtol=1e-7,
        atol=0,
    )
    torch.testing.assert_close(compact(model, guide)(x), compact(usual, usual_guide)(x), rtol=1e-6, atol=1e-8)


def test_what_is_left_keeps_multiples_while_it_is_finished(monkeypatch):
    seen = []
    finishing = gates_by_evidence.Finishing

    def noted(*args):
        seen.append(finishing(*args))
        return seen[-1]

    monkeypatch.setattr(gates_by_evidence, "Finishing", noted)
    model, guide, _, _ = run(epochs=8, target=TARGET, round_to=8)
    (made,) = seen
    widths = [p.shape for name, p in made.net.named_parameters() if name.endswith("weight")]
    full = {20, 32, 24, 2}
    assert all(width % 8 == 0 or width in full for shape in widths for width in shape)
    small = [p.shape for name, p in compact(model, guide).named_parameters() if name.endswith("weight")]
    assert sum(a * b for a, b in small) < sum(a * b for a, b in widths)


def test_a_run_of_other_widths_is_not_resumed(tmp_path):
    saved = tmp_path / "run.ckpt"
    run(epochs=4, target=TARGET, checkpoint=saved)
    with pytest.raises(Exception, match="round_to was None, is 8"):
        run(epochs=8, target=TARGET, checkpoint=saved, round_to=8)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"round_to": 0}, "round_to must be an integer of at least 1; got 0"),
        ({"round_to": 8, "masked": True}, "round_to=8 is for subnetworks"),
    ],
)
def test_what_cannot_be_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        run(epochs=2, **options)


def test_a_network_without_gates_has_no_subnetworks():
    x, y = torch.randn(8, 4), torch.zeros(8).long()
    model = Classifier(MLP(4, 3, 2), num_data=8)
    with pytest.raises(ValueError, match="round_to=8 needs a network made by sparsify"):
        fit(model, HardConcreteGuide(model), TensorBatches(x, y, 4), epochs=1, round_to=8)
