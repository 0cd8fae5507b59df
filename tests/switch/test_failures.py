"""What goes wrong in the middle of a switch: nothing switches, the reason is told, and the next promote works."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from lagar.client.local import Local
from lagar.errors import PromoteRefused
from lagar.registry import records
from lagar.registry.manifest import Manifest
from lagar.registry.releases import Releases
from support.load import Load
from support.registry import ANA
from support.server import LagarServer, is_alive, lagar
from support.wait import eventually
from support.wines import CLASS, Neighbour, live, switches

Start = Callable[..., LagarServer]
MakeLoad = Callable[..., Load]
SLOW = CLASS.replace(
    "    def load(self, path):\n",
    "    def load(self, path):\n        import os, time\n"
    "        while os.path.exists(HOLD):\n            time.sleep(0.01)\n",
)


def commit_changed(releases: Releases, folder: Path, change: Callable[[Manifest], Manifest], version: str) -> None:
    """A copy of version 2 whose record says something else than is true."""
    original = releases.get("wine", "2").manifest
    files = {}
    for number, entry in enumerate(records.entries(original)):
        files[entry.path] = folder / str(number)
        releases.store.fetch(entry.sha256, files[entry.path])
    releases.commit(change(original), files, ANA)
    assert releases.get("wine", version)


def with_other_golden(manifest: Manifest) -> Manifest:
    from msgspec.structs import replace

    outputs = dict(manifest.golden.outputs)
    outputs["predict"] = ["another label", *outputs["predict"][1:]]
    libraries = {**manifest.libraries, "scikit-learn": "1.2.3"}
    return replace(manifest, version="wrong", golden=replace(manifest.golden, outputs=outputs), libraries=libraries)


def with_missing_library(manifest: Manifest) -> Manifest:
    from msgspec.structs import replace

    form = replace(manifest.original, libraries={"no-such-library": "1.0"})
    return replace(manifest, version="missing", forms=(form,), libraries={"no-such-library": "1.0"})


def test_a_version_whose_golden_rows_differ_is_refused_and_the_old_one_goes_on(
    home: Path, releases: Releases, verbs: Local, start: Start, load: MakeLoad, tmp_path: Path
) -> None:
    verbs.promote("wine", "1")
    commit_changed(releases, tmp_path, with_other_golden, "wrong")
    server = start(home)
    with load(server, connections=16, pause_s=0.01) as loaded:
        refused = lagar("promote", "wine", "wrong", home=home)
        loaded.more(200)
    assert set(loaded.report.versions) == {"1"}
    assert refused.returncode != 0
    for told in (refused.stderr, server.stderr()):
        assert "golden row 0" in told
        assert "'predict'" in told
        assert "another label" in told
        assert "1.2.3" in told, "the library's version that recorded it"
    assert switches(server) == {"switched": 0, "failed": 1, "abandoned": 0}
    verbs.promote("wine", "2")
    eventually(lambda: live(server) == {"2"}, what="version 2 live")
    assert switches(server)["switched"] == 1


def test_a_file_that_was_changed_on_disk_is_refused_with_both_hashes(
    home: Path, releases: Releases, verbs: Local, start: Start
) -> None:
    verbs.promote("wine", "1")
    server = start(home)
    entry = releases.get("wine", "2").manifest.original.files[0]
    stored = releases.store.find(entry.sha256)
    path = next(path for path in home.rglob("*") if path.is_file() and entry.sha256 in str(path).replace("/", ""))
    assert stored is not None
    path.chmod(0o600)
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(PromoteRefused) as refused:
        verbs.promote("wine", "2")
    assert entry.sha256 in str(refused.value)
    assert live(server) == {"1"}
    assert switches(server)["failed"] == 1
    assert entry.sha256 in server.wait_line("a switch was given up"), "the log says what the command says"


@pytest.mark.slow
def test_a_laid_out_file_that_was_changed_is_refused_with_both_hashes(
    home: Path, releases: Releases, verbs: Local, start: Start
) -> None:
    verbs.promote("wine", "1")
    server = start(home)
    version = releases.get("wine", "2")
    source = releases.source(version)
    laid_out = Path(source.path)
    laid_out.unlink()
    laid_out.write_bytes(b"something else")
    with pytest.raises(PromoteRefused) as refused:
        verbs.promote("wine", "2")
    words = str(refused.value)
    assert version.manifest.original.files[0].sha256 in words
    assert hashlib.sha256(b"something else").hexdigest() in words
    assert f"remove the folder {source.folder}" in words
    assert live(server) == {"1"}
    shutil.rmtree(str(source.folder))
    verbs.promote("wine", "2")
    eventually(lambda: live(server) == {"2"}, what="version 2 live")


def pushed_slow(releases: Releases, tmp_path: Path, hold: Path) -> None:
    """Version "slow", which waits while loading for as long as a file is there: only a fresh process can load it."""
    from lagar.intake.push import push

    folder = tmp_path / "slow"
    folder.mkdir()
    (folder / "wine.py").write_text(f"HOLD = {str(hold)!r}\n{SLOW}")
    (folder / "weights.json").write_text(
        json.dumps({"mean": [0, 0], "scale": [1, 1], "coef": [[1, 0], [0, 1]], "intercept": [0, 0]})
    )
    (folder / "lagar.toml").write_text(
        'model = "weights.json"\nclass = "wine:Wine"\nversion = "slow"\n[fields]\na = {}\nb = {}\n'
    )
    push(releases, "wine", folder, version="slow", who=ANA, trust=True)


def test_a_worker_that_is_killed_while_it_loads_leaves_the_old_version_everywhere(
    home: Path, releases: Releases, verbs: Local, start: Start, tmp_path: Path
) -> None:
    hold = tmp_path / "hold"
    pushed_slow(releases, tmp_path, hold)
    verbs.promote("wine", "1")
    server = start(home)
    old = server.workers()
    hold.touch()
    number = verbs.promote("wine", "slow", wait=False).number
    fresh = eventually(lambda: sorted(set(server.workers()) - set(old)), what="a fresh worker that loads")
    os.kill(fresh[0], signal.SIGKILL)
    hold.unlink()
    eventually(lambda: releases.generation(number).state == "failed", what="the end of the generation")
    assert "was killed by SIGKILL" in releases.generation(number).reason
    assert server.url in releases.generation(number).reason
    assert live(server) == {"1"}
    eventually(lambda: server.workers() == old, what="the end of the fresh workers")
    verbs.promote("wine", "slow")
    eventually(lambda: live(server) == {"slow"}, what="the slow version live")


@pytest.mark.slow
def test_a_worker_that_is_killed_after_it_prepared_comes_up_with_the_new_version(
    home: Path, verbs: Local, start: Start, load: MakeLoad, releases: Releases
) -> None:
    verbs.promote("wine", "1")
    server = start(home)
    with Neighbour(releases) as neighbour:
        number = verbs.promote("wine", "2", wait=False).number
        eventually(lambda: releases.generation(number).waiting == (neighbour.url,), what="the server's preparation")
        victim = server.workers()[0]
        os.kill(victim, signal.SIGKILL)
        eventually(lambda: len(set(server.workers()) - {victim}) == 2, what="the successor")
        eventually(server.is_ready, what="readiness")
        assert live(server) == {"1"}
        neighbour.report(number, ok=True)
        eventually(lambda: releases.generation(number).state == "committed", what="the commit")
    eventually(lambda: live(server) == {"2"}, what="version 2 on every worker")
    eventually(lambda: len(server.workers()) == 2, what="two workers")


def test_control_killed_during_a_promote_is_replaced_and_the_promote_goes_on(
    home: Path, verbs: Local, start: Start, load: MakeLoad, releases: Releases
) -> None:
    verbs.promote("wine", "1")
    server = start(home)
    with load(server, connections=8, pause_s=0.02) as loaded:
        control = server.control()
        number = verbs.promote("wine", "3", wait=False).number
        eventually(lambda: len(server.workers()) > 2, what="fresh workers that load")
        os.kill(control, signal.SIGKILL)
        eventually(lambda: not is_alive(control), what="its end")
        eventually(lambda: releases.generation(number).state != "prepare", what="the end of the promote")
        assert releases.generation(number).state == "committed", releases.generation(number).reason
        loaded.only("3", 100)
    assert [server_.url for server_ in releases.servers() if server_.alive] == [server.url], "one lease, not two"
