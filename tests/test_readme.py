"""README's examples run in a fresh interpreter exactly as they are printed, and its links lead somewhere."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"^## ([^\n]+)\n(?:(?!^## ).)*?```python\n(.*?)```", README, re.DOTALL | re.MULTILINE)
LEFT = {  # heading to what running it leaves
    "Your own network": "small.safetensors",
    "Your own loop": None,
    "Your own Pyro model": None,
    "A regression": "inclusion.png",
}


def anchors(text):
    """Of the headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"```.*?```", "", text, flags=re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_example_is_known():
    assert [heading for heading, _ in EXAMPLES] == list(LEFT)


@pytest.mark.parametrize(("heading", "code"), EXAMPLES, ids=[heading for heading, _ in EXAMPLES])
def test_an_example_runs_as_it_stands(heading, code, tmp_path):
    path = [str(ROOT), *sys.path]
    program = f"import sys; sys.path[:] = {path!r}\nimport matplotlib; matplotlib.use('agg')\n{code}"
    command = [sys.executable, "-W", "error", "-W", "ignore::FutureWarning:arviz", "-c", program]
    done = subprocess.run(command, check=False, cwd=tmp_path, capture_output=True, text=True, timeout=200)  # noqa: S603
    assert done.returncode == 0, done.stderr[-3000:]
    left = LEFT[heading]
    assert left is None or (tmp_path / left).stat().st_size > 0


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"])
def test_links_and_pictures_are_there(name):
    text = re.sub(r"```.*?```", "", (ROOT / name).read_text(encoding="utf-8"), flags=re.DOTALL)
    wrong = []
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith(("http://", "https://")):
            continue
        path, _, anchor = target.partition("#")
        file = ROOT / path if path else ROOT / name
        if not file.exists() or (anchor and anchor not in anchors(file.read_text(encoding="utf-8"))):
            wrong.append(target)
    assert wrong == []


def test_it_is_short():
    assert len(README.splitlines()) < 200
