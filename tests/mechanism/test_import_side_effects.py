"""Importing the library loads nothing heavy that it does not need, and changes nothing for anybody else."""

import json
import subprocess
import sys

import pytest

HEAVY = ["torchvision", "matplotlib", "arviz", "sklearn", "jsonargparse", "IPython"]

LOADED = f"""
import json, sys
import l0bayes
heavy = [name for name in {HEAVY!r} if name in sys.modules]
above = [name for name in ("l0bayes.models", "l0bayes.inference") if name in sys.modules]
import l0bayes.models
above += [name for name in ("l0bayes.inference",) if name in sys.modules]
print(json.dumps({{"heavy": heavy, "above": above}}))
"""

CHANGED = """
import json, logging, random, sys, warnings
import numpy, torch, pyro, pyro.infer, pyro.infer.autoguide, pyro.optim, pandas
import torch.utils.flop_counter

def snapshot():
    return {
        "pyro settings": str(sorted(pyro.settings.get().items(), key=str)),
        "pyro validation": pyro.infer.util.is_validation_enabled(),
        "torch validation": torch.distributions.Distribution._validate_args,
        "pyro distribution validation": pyro.distributions.Normal._validate_args,
        "torch random state": torch.get_rng_state().tolist(),
        "numpy random state": str(numpy.random.get_state()[1].tolist()),
        "python random state": str(random.getstate()),
        "param store": sorted(pyro.get_param_store().keys()),
        "root handlers": str(logging.getLogger().handlers),
        "root level": logging.getLogger().level,
        "warning filters": str(warnings.filters),
        "showwarning": str(warnings.showwarning),
        "default dtype": str(torch.get_default_dtype()),
        "gradients": torch.is_grad_enabled(),
        "threads": torch.get_num_threads(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "matmul precision": torch.get_float32_matmul_precision(),
        "excepthook": str(sys.excepthook),
        "recursion limit": sys.getrecursionlimit(),
        "print options": str(vars(torch._tensor_str.PRINT_OPTS)),
        "numpy errors": str(numpy.geterr()),
        "pandas options": pandas.get_option("display.max_rows"),
    }

before = snapshot()
import l0bayes, l0bayes.models, l0bayes.inference
after = snapshot()
print(json.dumps([name for name in before if before[name] != after[name]]))
"""


@pytest.fixture(name="reports", scope="module")
def fresh_interpreters():
    """What fresh interpreters say, started side by side: an import takes seconds."""
    started = {
        name: subprocess.Popen(  # noqa: S603
            [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for name, code in {"loaded": LOADED, "changed": CHANGED}.items()
    }
    return {name: (*process.communicate(timeout=120), process.returncode) for name, process in started.items()}


@pytest.mark.parametrize("name", ["loaded", "changed"])
def test_import_prints_nothing_and_warns_of_nothing(reports, name):
    out, err, code = reports[name]
    assert code == 0, err
    assert err == ""
    assert len(out.splitlines()) == 1


def test_import_loads_no_heavy_package(reports):
    assert json.loads(reports["loaded"][0])["heavy"] == []


def test_lower_layers_do_not_import_higher_ones(reports):
    assert json.loads(reports["loaded"][0])["above"] == []


def test_import_changes_no_state_of_others(reports):
    assert json.loads(reports["changed"][0]) == []
