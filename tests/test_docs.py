"""The documentation: numbers are what is stored, every public name has a page, and its first pages' code runs."""

import importlib
import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from l0bayes import sparsify
from l0bayes.inference import HardConcreteGuide, TensorBatches, evaluate, fit
from l0bayes.models import MLP, Classifier

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
REFERENCE = DOCS / "reference" / "index.md"
MODULES = [
    "l0bayes",
    "l0bayes.extending",
    "l0bayes.inference",
    "l0bayes.models",
    "l0bayes.posterior",
    "l0bayes.posterior.pictures",
]
# A number that was measured has decimals, or is a share; what is asked of a run is not, and stands in the prose.
MEASURED = re.compile(r"(?<![\w.])\d+\.\d+(?: ?%)?(?![\w.])|\d ?(?:×|percentage points)")
ASKED = {
    "mnist.md": {"0.1", "0.5", "0.3", "0.4", "0.16", "1.0", "1.4", "1.8", "0.9"},  # λ, a target; what was published
    "demo.md": {"0.28"},  # one image
    "what_gates_find.md": {"0.03"},
}


def load(name, monkeypatch):
    monkeypatch.syspath_prepend(str(DOCS))
    spec = importlib.util.spec_from_file_location(f"docs_{name}", DOCS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def documented():
    """Full names of what the reference has a page for."""
    found = set()
    for block in re.findall(r"```\{eval-rst\}\n(.*?)```", REFERENCE.read_text(encoding="utf-8"), re.DOTALL):
        (module,) = re.findall(r"currentmodule:: (\S+)", block)
        found |= {f"{module}.{name}" for name in re.findall(r"^   ([A-Za-z]\S*)$", block, re.MULTILINE)}
    return found


def resolve(name):
    module, _, attribute = name.rpartition(".")
    return getattr(importlib.import_module(module), attribute)


def test_every_public_name_has_a_page():
    pages = [resolve(name) for name in documented()]
    missing = [
        f"{module}.{name}"
        for module in MODULES
        for name in importlib.import_module(module).__all__
        if not any(getattr(importlib.import_module(module), name) is page for page in pages)
    ]
    assert missing == []


@pytest.mark.skipif(not (ROOT / "benchmarks" / "results").exists(), reason="a copy without what was measured")
def test_numbers_are_those_stored(monkeypatch):
    numbers = load("fill_numbers", monkeypatch)
    other = [
        path.name
        for path in numbers.pages()
        if numbers.filled(path.read_text(encoding="utf-8")) != path.read_text(encoding="utf-8")
    ]
    assert other == [], "run python docs/fill_numbers.py"


def test_a_number_that_is_not_stored_is_noticed(monkeypatch):
    numbers = load("fill_numbers", monkeypatch)
    text = "half: <!-- numbers: zoo-count -->7<!-- end -->."
    assert numbers.filled(text) != text
    with pytest.raises(ValueError, match="nothing fills 'no-such'"):
        numbers.filled("x <!-- numbers: no-such --><!-- end -->")
    with pytest.raises(ValueError, match="not closed"):
        numbers.filled("x <!-- numbers: zoo-count -->7")
    with pytest.raises(ValueError, match="begins a line"):
        numbers.filled("x\n<!-- numbers: zoo-count -->7<!-- end -->")


@pytest.mark.parametrize(
    "path", [ROOT / "README.md", *sorted((DOCS / "results").glob("*.md"))], ids=lambda path: path.name
)
def test_no_measured_number_is_typed_by_hand(path):
    text = path.read_text(encoding="utf-8")
    if path.name == "README.md":
        text = text[text.index("## How good is it?") :]
    text = re.sub(r"<!-- numbers:.*?<!-- end -->|```.*?```|`[^`]*`|\]\([^)]*\)|arXiv \S+", "", text, flags=re.DOTALL)
    found = {match.group().rstrip(" %") for match in MEASURED.finditer(text)}
    assert found - ASKED.get(path.name, set()) == set()


@pytest.mark.parametrize("name", ["own_network", "svi_script", "statistician"])
def test_getting_started_runs_from_above_to_below(name, tmp_path):
    page = (DOCS / "getting_started" / f"{name}.md").read_text(encoding="utf-8")
    code = "\n".join(re.findall(r"```python\n(.*?)```", page, re.DOTALL))
    program = f"import sys; sys.path[:] = {[str(ROOT), *sys.path]!r}\n{code}"
    command = [sys.executable, "-W", "error", "-W", "ignore::FutureWarning:arviz", "-c", program]
    done = subprocess.run(command, check=False, cwd=tmp_path, capture_output=True, text=True, timeout=200)  # noqa: S603
    assert done.returncode == 0, done.stderr[-3000:]


def test_trials_of_optuna_are_ended_early():
    """The example of the page on hooks, with networks that are small enough for a test."""
    optuna = pytest.importorskip("optuna")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    page = (DOCS / "guide" / "hooks.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"## Optuna.*?```python\n(.*?)```", page, re.DOTALL)
    torch.manual_seed(0)
    x = torch.randn(60, 6)
    y = (x[:, 0] > 0).long()

    def build():
        model = Classifier(sparsify(MLP(6, 8, 2), x[:2]), num_data=40)
        return model, HardConcreteGuide(model)

    def few(*args, **options):
        return fit(*args, epochs=10, **options)

    studies = []
    create = optuna.create_study

    def created(**options):
        studies.append(create(sampler=optuna.samplers.RandomSampler(seed=0), **options))
        return studies[-1]

    names = {
        "build": build,
        "fit": few,
        "evaluate": evaluate,
        "loader": TensorBatches(x[:40], y[:40], 10, shuffle=True),
        "validation": TensorBatches(x[40:], y[40:], 20),
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(optuna, "create_study", created)
        exec(compile(code, "hooks.md", "exec"), names)  # noqa: S102 (it is what the page shows)
    states = [trial.state.name for trial in studies[0].trials]
    assert len(states) == 20
    assert set(states) == {"COMPLETE", "PRUNED"}


def test_a_broken_link_and_a_missing_picture_are_found(tmp_path, monkeypatch):
    site = load("check_site", monkeypatch)
    (tmp_path / "index.html").write_text(
        '<a href="other.html#there">1</a><a href="other.html#gone">2</a><a href="none.html">3</a>'
        '<img src="none.png" alt="a"><img src="index.html"><a href="https://example.org">4</a>'
    )
    (tmp_path / "other.html").write_text('<p id="there"><a href="index.html">1</a>')
    assert sorted(line.split(": ", 1)[1] for line in site.broken(tmp_path)) == [
        "index.html says nothing in its alt",
        "none.html: no such file",
        "none.png: no such file",
        "other.html#gone: no such place",
    ]
