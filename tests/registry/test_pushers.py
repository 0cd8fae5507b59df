"""Many who push at once, and some who are killed: nothing is lost, nothing half done is seen."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from lagar.registry.releases import Releases
from support.registry import LONG_AGO, Place, push, together
from support.wait import eventually


def test_ten_who_push_one_model_at_once_get_numbers_of_their_own(each_place: Place, tmp_path: Path) -> None:
    each_place.open().close()
    script = (
        "sys.stdin.read()\n"
        "for turn in range(3):\n"
        "    data = f'{number}-{turn}'.encode()\n"
        "    print(push(releases, Path(args[0]) / str(number), data, note=data.decode()).version)\n"
    )
    said = together(each_place.start(script, tmp_path, count=10))
    with each_place.elsewhere(tmp_path / "other").open() as releases:
        found = releases.versions("wine")
        assert sorted(said, key=int) == [str(number) for number in range(1, 31)]
        assert [version.version for version in found] == sorted(said, key=int)
        for version in found:
            file = releases.lay_out(version.manifest) / "model.onnx"
            assert file.read_bytes() == version.manifest.note.encode()


def test_ten_who_push_one_label_at_once_agree_whose_it_is(place: Place, tmp_path: Path) -> None:
    place.open().close()
    script = (
        "from lagar.errors import VersionExists\n"
        "sys.stdin.read()\n"
        "try:\n"
        "    push(releases, Path(args[0]) / str(number), b'%d' % number, 'v1', note=str(number)); print('won')\n"
        "except VersionExists:\n"
        "    print('lost')\n"
    )
    assert sorted(together(place.start(script, tmp_path, count=10))) == ["lost"] * 9 + ["won"]
    with place.open() as releases:
        [version] = releases.versions("wine")
        file = releases.lay_out(version.manifest) / "model.onnx"
        assert file.read_bytes() == version.manifest.note.encode()
        releases.gc(LONG_AGO)
        assert [found.bytes for found in releases.store.objects()] == [1]


def test_gc_that_never_stops_takes_nothing_from_those_who_push(each_place: Place, tmp_path: Path) -> None:
    """It takes every unreferenced object at once, as if a day were nothing: pushes must store theirs again."""
    each_place.open().close()
    collector = each_place.start(
        "import threading\n"
        "ended = threading.Event()\n"
        "threading.Thread(target=lambda: (sys.stdin.read(), ended.set()), daemon=True).start()\n"
        "print('ready', flush=True)\n"
        "while not ended.is_set(): releases.gc(LONG_AGO)\n"
    )
    assert collector.stdout is not None
    assert collector.stdout.readline() == "ready\n"
    script = (
        "sys.stdin.read()\n"
        "for turn in range(5):\n"
        "    files = {name: f'{number}-{turn}-{name}'.encode() for name in ('model.onnx', 'a', 'b')}\n"
        "    print(push(releases, Path(args[0]) / str(number), files).version)\n"
    )
    said = together(each_place.start(script, tmp_path, count=3))
    together(collector)
    assert len(set(said)) == 15
    with each_place.elsewhere(tmp_path / "other").open() as releases:
        for version in releases.versions("wine"):
            releases.lay_out(version.manifest)


KILLED_AT = {
    "before its file is stored": "class Store(Wrapped):\n    def put(self, file, sha256): die()\n",
    "after its file is stored": (
        "class Store(Wrapped):\n    def put(self, file, sha256): self._inner.put(file, sha256); die()\n"
    ),
    "in the transaction, before the version is written": (
        "class Store(Wrapped):\n    def find(self, sha256): die()\n"
        "    def put(self, file, sha256): self._inner.put(file, sha256)\n"
    ),
    "in the transaction, after the version is written": (
        "class Store(Wrapped): pass\n"
        "asked = []\n"
        "def clock(connection):\n"
        "    asked.append(1)\n"
        "    return 0.0 if len(asked) < 2 else die()\n"  # the second time is the alias's
        "releases._now = clock\n"
    ),
}


@pytest.mark.parametrize("point", KILLED_AT)
def test_a_push_that_is_killed_leaves_nothing_that_is_seen(each_place: Place, tmp_path: Path, point: str) -> None:
    script = (
        "def die(): os.kill(os.getpid(), signal.SIGKILL)\n"
        "class Wrapped:\n"
        "    def __init__(self, inner): self._inner = inner\n"
        "    def __getattr__(self, name): return getattr(self._inner, name)\n"
        f"{KILLED_AT[point]}"
        "releases.store = Store(releases.store)\n"
        "push(releases, Path(args[0]), b'weights', alias='champion')\n"
    )
    killed = each_place.start(script, tmp_path)
    _, problems = killed.communicate(timeout=120)
    assert killed.returncode == -signal.SIGKILL, problems
    with each_place.open() as releases:
        assert nothing_is_seen(releases)
        left = [] if point == "before its file is stored" else [7]
        assert [found.bytes for found in releases.gc(LONG_AGO).objects] == left
        assert list(releases.store.objects()) == []
        pushed = push(releases, tmp_path, b"weights")  # nobody stands in the way
        assert pushed.version == "1"
        assert releases.lay_out(pushed.manifest)


def test_a_push_that_is_killed_while_its_file_is_written_leaves_nothing(place: Place, tmp_path: Path) -> None:
    """The file is a pipe that never ends, so that the kill comes in the middle for sure."""
    pipe = tmp_path / "model.onnx"
    os.mkfifo(pipe)
    script = "releases.commit(manifest_of({'model.onnx': b'weights'}), {'model.onnx': Path(args[0])}, ANA)\n"
    killed = place.start(script, pipe)
    with pipe.open("wb", buffering=0) as file:
        file.write(bytes(2 << 20))
        root = tmp_path / "store" if place.store else place.home / "artifacts"
        eventually(lambda: any(found.stat().st_size for found in (root / "tmp").iterdir()), what="a half-written file")
        killed.kill()
    killed.communicate(timeout=120)
    assert killed.returncode == -signal.SIGKILL
    with place.open() as releases:
        assert nothing_is_seen(releases)
        [half] = (root / "tmp").iterdir()
        assert releases.gc(LONG_AGO).objects == ()
        assert half.exists()  # for all that gc knows, it is still being written
        os.utime(half, (0, 0))
        releases.gc()
        assert list((root / "tmp").iterdir()) == []


def nothing_is_seen(releases: Releases) -> bool:
    return releases.models() == [] and releases.aliases("wine") == {} and releases.audit("wine") == []
