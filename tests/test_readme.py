"""The README's first ten lines run as printed, but for fewer epochs."""

import re
from pathlib import Path

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI, TraceMeanField_ELBO
from sklearn.datasets import load_digits

from l0bayes import SpikeAndSlabPrior, gate_table, to_arviz
from l0bayes.inference import HardConcreteGuide, infer_inclusion
from l0bayes.models import SpikeSlabRegression, exact_posterior

README = Path(__file__).parents[1] / "README.md"
FEWER = {"epochs=300": "epochs=2", "range(2000)": "range(20)", "num_samples=1000": "num_samples=10"}


def blocks() -> list[str]:
    found = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    for old, new in FEWER.items():
        found = [block.replace(old, new) for block in found]
    return found


@pytest.mark.filterwarnings("ignore:epochs=2 leave fewer")
def test_the_engineers_lines(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    x, y = load_digits(return_X_y=True)
    x, y = torch.from_numpy(x[:300]).float() / 16, torch.from_numpy(y[:300]).long()
    names = {"x_train": x[:200], "y_train": y[:200], "x_test": x[200:]}
    exec(blocks()[0], names)  # noqa: S102 (our own README)
    assert (tmp_path / "small.safetensors").is_file()


@pytest.mark.filterwarnings("ignore::FutureWarning:arviz")
def test_the_practitioners_and_the_statisticians_lines():
    x = torch.randn(100, 5)
    y = x[:, 0] * 2 + 0.1 * torch.randn(100)
    names = {"X": x, "y": y, "pyro": pyro, "dist": dist, "torch": torch, "SVI": SVI}
    names |= {"SpikeAndSlabPrior": SpikeAndSlabPrior, "HardConcreteGuide": HardConcreteGuide}
    names |= {"TraceMeanField_ELBO": TraceMeanField_ELBO, "gate_table": gate_table, "to_arviz": to_arviz}
    with pyro.get_param_store().scope():
        exec(blocks()[1], names)  # noqa: S102
    names |= {"guide_seed_0": names["guide"], "guide_seed_1": names["guide"]}
    exec(blocks()[2], names)  # noqa: S102
    assert len(names["table"]) == 5
    assert names["idata"].posterior["z"].shape == (2, 10, 5)


def test_the_regressions_lines():
    x = torch.randn(100, 5)
    names = {"X": x, "y": x[:, 0] * 2 + 0.5 * torch.randn(100), "infer_inclusion": infer_inclusion}
    names |= {"SpikeSlabRegression": SpikeSlabRegression, "exact_posterior": exact_posterior}
    exec(blocks()[3], names)  # noqa: S102
    assert abs(names["found"].inclusion - names["exact"].inclusion).max() < 0.05
