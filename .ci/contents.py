"""The wheel, made from the sdist, has every module of the tree once and nothing else; the sdist has no links."""

import sys
import tarfile
import zipfile
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FLOORS = {"l0bayes": "l0bayes", "models": "l0bayes/models", "inference": "l0bayes/inference"}
DATA = {"l0bayes/py.typed"}

(wheel,) = (ROOT / "dist").glob("*.whl")
(sdist,) = (ROOT / "dist").glob("*.tar.gz")
wanted = {
    f"{package}/{path.relative_to(ROOT / floor).as_posix()}"
    for floor, package in FLOORS.items()
    for path in (ROOT / floor).rglob("*.py")
    if not any(parent.is_symlink() for parent in path.parents)
}
names = [name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name]
with tarfile.open(sdist) as archive:
    members = archive.getmembers()
wrong = {
    "missing from the wheel": sorted((wanted | DATA) - set(names)),
    "in the wheel alone": sorted(set(names) - wanted - DATA),
    "twice in the wheel": sorted(name for name, times in Counter(names).items() if times > 1),
    "twice in the sdist": sorted(name for name, times in Counter(one.name for one in members).items() if times > 1),
    "links in the sdist": sorted(one.name for one in members if one.issym() or one.islnk()),
}
for what, found in wrong.items():
    if found:
        print(f"{what}: {', '.join(found)}")
sys.exit(any(wrong.values()))
