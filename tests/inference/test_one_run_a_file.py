"""Two runs never write one file, and killed ones leave nothing behind."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from drawn import fit
from filelock import FileLock
from test_resume import start
from toy_problem import Surprise, assert_equal_checkpoints, loader, pair

from l0bayes.errors import FileInUseError
from l0bayes.inference.cli import main
from l0bayes.inference.storage import lock
from l0bayes.inference.storage.files import leftovers, write_bytes
from l0bayes.inference.storage.lock import claimed

TRAIN = ["train", "--data", "digits", "--hidden", "[4]", "--epochs", "1", "--progress", "false", "--out"]


def names(folder):
    return sorted(entry.name for entry in folder.iterdir())


@pytest.mark.parametrize("argument", ["checkpoint", "history"])
def test_a_second_run_on_one_path(argument, tmp_path):
    path = tmp_path / "run.csv"
    refusals = []

    def second():
        with pytest.raises(
            FileInUseError, match=rf"{argument}: another run is writing .*run\.csv.*another path"
        ) as error:
            fit(*pair(), loader(), epochs=1, progress=False, **{argument: path})
        refusals.append(error)

    fit(*pair(), Surprise(loader(), 4, second), epochs=2, progress=False, **{argument: path})
    assert len(refusals) == 1
    assert names(tmp_path) == ["run.csv"]
    fit(*pair(), loader(), epochs=2, progress=False, **{argument: path})


HOLD = """
import sys
from pathlib import Path
from l0bayes.inference.storage.lock import claimed
with claimed(out=Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def holding(path):
    command = [sys.executable, "-c", HOLD, str(path)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)  # noqa: S603 (our own)
    assert process.stdout.readline() == "held\n"
    return process


def test_a_second_command_in_one_folder(tmp_path, capsys):
    """And when the first is killed, the folder is free."""
    with holding(tmp_path / "options.json") as first:
        assert main([*TRAIN, str(tmp_path)]) == 1
        assert "out: another run is writing" in capsys.readouterr().err
        assert names(tmp_path) == [".options.json.lock"]
        first.kill()
        first.wait()
    assert main([*TRAIN, str(tmp_path)]) == 0
    assert not [name for name in names(tmp_path) if name.startswith(".")]


def test_of_many_threads_one_holds_it(tmp_path):
    """Locks that are removed when they are freed must not let two in."""
    inside, most, entered = 0, 0, 0
    count = threading.Lock()

    def claim():
        nonlocal inside, most, entered
        for _ in range(60):
            try:
                with claimed(out=tmp_path / "file"):
                    with count:
                        inside, entered = inside + 1, entered + 1
                        most = max(most, inside)
                    with count:
                        inside -= 1
            except FileInUseError:
                continue

    threads = [threading.Thread(target=claim) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1
    assert entered > 0
    assert names(tmp_path) == []


def test_files_of_killed_runs_are_removed(tmp_path, monkeypatch):
    path = tmp_path / "run"

    def killed(_handle):
        raise SystemExit

    with monkeypatch.context() as patch:  # as if nothing had been able to clean up
        patch.setattr(os, "fsync", killed)
        patch.setattr(Path, "unlink", lambda *_, **__: None)
        with pytest.raises(SystemExit):
            write_bytes(path, b"half")
    others = [".run.lock.tmp.keep", ".other.abcd1234.tmp", ".run.backup", "run.tmp"]
    for name in others:
        (tmp_path / name).touch()
    assert len(leftovers(path)) == 1
    start(path, epochs=1)
    assert names(tmp_path) == sorted([*others, "run"])


def test_a_file_system_without_locks(tmp_path, monkeypatch):
    class NoLock(FileLock):
        def acquire(self, *_args, **_options):
            raise NotImplementedError

    monkeypatch.setattr(lock, "FileLock", NoLock)
    with pytest.warns(UserWarning, match="checkpoint: .*run is on a file system without locks"):
        start(tmp_path / "run", epochs=1)


def test_a_finished_run_in_a_folder_that_cannot_be_written(tmp_path, monkeypatch):
    start(tmp_path / "run", epochs=1)
    monkeypatch.setattr(os, "access", lambda *_: False)
    monkeypatch.setattr(lock, "FileLock", None)
    assert len(start(tmp_path / "run", epochs=1)[1].history) == 1


SCRIPT = """
import os, random, signal, sys, threading, time
from pathlib import Path
from toy_problem import loader, pair
from l0bayes.inference import fit

flush = os.fsync
os.fsync = lambda handle: (flush(handle), time.sleep(0.02))  # so that some are killed while they write

def run(path, moment=None):
    if moment is not None:
        threading.Timer(moment, os.kill, (os.getpid(), signal.SIGKILL)).start()
    random.seed(1)
    fit(*pair(), loader(), epochs=6, gate_lr=5e-2, checkpoint=path, progress=False)
    os._exit(0)

def ended(path, moment=None):
    child = os.fork() or run(path, moment)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

whole, parts = sys.argv[1:]
fit(*pair(), loader(), epochs=1, progress=False)  # all that is imported only when needed, once
begin = time.monotonic()
assert ended(whole) == 0
takes = time.monotonic() - begin
moments = random.Random(3)
ends = [ended(parts, moments.uniform(0, 0.5 * takes)) for _ in range(8)]
print(ends, [file.name for file in Path(parts).parent.iterdir()])
assert set(ends) <= {0, -signal.SIGKILL} and -signal.SIGKILL in ends
assert ended(parts) == 0
"""


def test_killed_at_random_moments(tmp_path):
    (tmp_path / "parts").mkdir()
    whole, parts = tmp_path / "whole", tmp_path / "parts" / "run"
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", SCRIPT, str(whole), str(parts)]
    done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False)  # noqa: S603 (our own command)
    assert done.returncode == 0, done.stdout + done.stderr
    assert_equal_checkpoints(whole, parts)
    assert names(tmp_path / "parts") == ["run"]
