"""What is packaged is what is in the tree: packages, links, benchmarks that import, and a lock that covers all."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT = PYPROJECT["project"]
FLOORS = {"l0bayes": "l0bayes", "models": "l0bayes.models", "inference": "l0bayes.inference"}
LINKS = {"l0bayes/models": "../models", "l0bayes/inference": "../inference"}
BENCHMARKS = sorted(path.stem for path in (ROOT / "benchmarks").glob("*.py"))
IMPORT_ALL = """
import importlib, sys, traceback
folder, *names = sys.argv[1:]
sys.path.insert(0, folder)
wrong = 0
for name in names:
    try:
        script = importlib.import_module(name)
        if hasattr(script, "main"):
            sys.argv = [name, "--help"]
            try:
                script.main()
            except SystemExit as end:
                assert not end.code
            else:
                raise AssertionError("went on after --help")
    except BaseException:  # SystemExit too: a script that runs when it is imported
        print(f"--- {name}")
        traceback.print_exc(file=sys.stdout)
        wrong += 1
sys.exit(bool(wrong))
"""


def folders():
    """Dotted names of all folders with an ``__init__.py``; links are not followed, or each would be there twice."""
    for floor, package in FLOORS.items():
        for folder, below, files in os.walk(ROOT / floor):
            below[:] = [name for name in below if not (Path(folder) / name).is_symlink()]
            if "__init__.py" in files:
                yield ".".join((package, *Path(folder).relative_to(ROOT / floor).parts))


def sources():
    for floor in FLOORS:
        for folder, below, files in os.walk(ROOT / floor):
            below[:] = [name for name in below if not (Path(folder) / name).is_symlink()]
            yield from (Path(folder) / name for name in files if name.endswith(".py"))


def normal(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def locked():
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return [line for line in lines if not line.startswith("#")]


def requirements():
    """All that pyproject.toml asks for, to run, to develop and to build, but the package's own extras."""
    extras = PROJECT["optional-dependencies"].values()
    listed = [
        *PROJECT["dependencies"],
        *PYPROJECT["build-system"]["requires"],
        *(one for extra in extras for one in extra),
    ]
    return [one for one in listed if normal(re.match(r"[\w.-]+", one)[0]) != PROJECT["name"]]


def release(version):
    return tuple(int(part) for part in re.match(r"\d+(?:\.\d+)*", version)[0].split("."))


def test_the_package_list_is_the_tree():
    assert PYPROJECT["tool"]["setuptools"]["packages"] == sorted(folders())


def test_every_module_is_in_a_package():
    listed = set(PYPROJECT["tool"]["setuptools"]["packages"])
    homeless = []
    for path in sources():
        floor, *rest = path.parent.relative_to(ROOT).parts
        if ".".join((FLOORS[floor], *rest)) not in listed:
            homeless.append(str(path.relative_to(ROOT)))
    assert homeless == []


def test_floors_map_to_their_folders():
    mapped = {package: floor for floor, package in FLOORS.items() if floor != package}
    assert PYPROJECT["tool"]["setuptools"]["package-dir"] == mapped


@pytest.mark.skipif((ROOT / "PKG-INFO").exists(), reason="a source distribution, whose folders are there once")
@pytest.mark.parametrize(("link", "target"), LINKS.items())
def test_links_let_the_checkout_be_imported(link, target):
    path = ROOT / link
    assert path.is_symlink()
    assert os.readlink(path) == target  # noqa: PTH115 (as it is written, to the letter)
    assert (path / "__init__.py").is_file()


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="a copy of the tree, without its history")
def test_links_are_tracked_as_links():
    listed = subprocess.run(["git", "ls-files", "-s", *LINKS], cwd=ROOT, check=True, capture_output=True, text=True)  # noqa: S603, S607
    assert {line.split("\t")[1]: line.split()[0] for line in listed.stdout.splitlines()} == dict.fromkeys(
        LINKS, "120000"
    )


def test_every_benchmark_can_be_imported_and_says_what_it_takes(tmp_path):
    """And does nothing when it is: they import one another, and find themselves by the folder of the script."""
    pytest.importorskip("torchmetrics")
    command = [sys.executable, "-W", "ignore", "-c", IMPORT_ALL, str(ROOT / "benchmarks"), *BENCHMARKS]
    done = subprocess.run(command, check=False, cwd=tmp_path, capture_output=True, text=True, timeout=240)  # noqa: S603
    assert done.returncode == 0, done.stdout + done.stderr
    assert list(tmp_path.iterdir()) == []


def test_the_lock_holds_one_exact_version_a_name():
    wrong = [line for line in locked() if not re.fullmatch(r"[A-Za-z0-9][\w.-]*==\d[\w.+!]*", line)]
    assert wrong == []
    names = [normal(line.partition("==")[0]) for line in locked()]
    assert len(set(names)) == len(names)


def test_the_lock_covers_what_is_required():
    versions = {normal(line.partition("==")[0]): line.partition("==")[2] for line in locked()}
    missing, below = [], []
    for requirement in requirements():
        name, bound = re.fullmatch(r"([\w.-]+)(?:\[[\w,-]+\])?>=([\w.]+)", requirement).groups()
        if normal(name) not in versions:
            missing.append(requirement)
        elif release(versions[normal(name)]) < release(bound):
            below.append(f"{requirement}, locked {versions[normal(name)]}")
    assert (missing, below) == ([], [])


@pytest.mark.skipif(not (ROOT / "CITATION.cff").exists(), reason="not part of this copy")
def test_the_citation_is_of_this_version():
    (version,) = re.findall(r"^version: (.+)$", (ROOT / "CITATION.cff").read_text(encoding="utf-8"), re.MULTILINE)
    assert version == PROJECT["version"]
