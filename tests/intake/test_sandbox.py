"""Load apart: whatever a model's load does, the push lives on and says what happened."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import msgspec
import pytest

from conftest import Trained
from lagar.errors import LoadFailed, MissingCode, MissingLibrary
from lagar.intake import sandbox
from lagar.intake.confinement import Limits, landlock_version
from lagar.intake.inspect import find_models
from lagar.registry.model import ModelSource
from support.wait import eventually

QUICK = Limits(wall_s=30.0, memory_bytes=2 * 1024**3)


def hostile(folder: Path, body: str) -> ModelSource:
    """A custom class whose load runs `body`, with `path` and `self`."""
    folder.mkdir(exist_ok=True)
    (folder / "lagar.toml").write_text('class = "odd:Odd"\n[fields.x]\ntype = "float"\n')
    (folder / "odd.py").write_text(
        "class Odd:\n    def load(self, path):\n"
        + textwrap.indent(textwrap.dedent(body).strip(), " " * 8)
        + "\n\n    def predict(self, rows):\n        return [row['x'] * 2 for row in rows]\n"
    )
    return find_models([folder]).sources[0]


def refused(source: ModelSource, limits: Limits = QUICK) -> str:
    with pytest.raises(LoadFailed) as caught:
        sandbox.load(source, limits=limits)
    return caught.value.message


def test_a_model_is_loaded_measured_and_recorded(wine: Trained) -> None:
    (source,) = find_models([wine.path]).sources
    tried, words = sandbox.load(source)
    assert tried.signature.names == tuple(wine.rows.columns)
    assert tried.golden.outputs.keys() == {"predict", "predict_proba"}
    assert len(tried.golden.records) >= 5
    assert tried.imported["scikit-learn"] == tried.libraries["scikit-learn"]
    assert "numpy" in tried.imported
    assert "msgspec" not in tried.imported, "Lagar's own libraries are not the model's"
    assert tried.load_s > 0
    assert 0 <= tried.memory_bytes < 64 * 1024**2, "the libraries do not count"
    assert any("in a process of its own" in text for text in words)


def test_a_model_that_takes_memory_is_measured_so(tmp_path: Path) -> None:
    tried, _ = sandbox.load(hostile(tmp_path / "m", "self.held = b'x' * 100_000_000"))
    assert 95_000_000 < tried.memory_bytes < 130_000_000


def test_a_crash_is_a_refusal_that_names_the_signal(tmp_path: Path) -> None:
    source = hostile(tmp_path / "m", "import os, signal\nprint('so far')\nos.kill(os.getpid(), signal.SIGSEGV)")
    message = refused(source)
    assert "crashed the process (SIGSEGV)" in message
    assert str(source.path) in message


def test_what_it_printed_last_is_quoted(tmp_path: Path) -> None:
    body = "import os, sys\nprint('giving up now')\nsys.stdout.flush()\nos.abort()"
    assert "giving up now" in refused(hostile(tmp_path / "m", body))


def test_an_endless_load_is_ended_by_the_limit_of_time(tmp_path: Path) -> None:
    source = hostile(tmp_path / "m", "import threading\nthreading.Event().wait()")
    assert "not done after 3 s (the limit of time)" in refused(source, Limits(wall_s=3.0))


def test_endless_computing_is_ended_by_the_limit_of_computing(tmp_path: Path) -> None:
    source = hostile(tmp_path / "m", "while True:\n    pass")
    assert "more than 2 s of computing" in refused(source, Limits(wall_s=60.0, cpu_s=2))


def test_memory_without_end_is_refused_with_the_limit(tmp_path: Path) -> None:
    source = hostile(tmp_path / "m", "held = []\nwhile True:\n    held.append(b'x' * 50_000_000)")
    message = refused(source)
    assert "limit of 2 GiB of memory" in message


def test_an_exit_in_the_load_is_said_with_its_code(tmp_path: Path) -> None:
    assert "exit code 3" in refused(hostile(tmp_path / "a", "import os\nos._exit(3)"))
    assert "ended the process while loading (exit code 0)" in refused(hostile(tmp_path / "b", "import os\nos._exit(0)"))
    assert "SystemExit: no" in refused(hostile(tmp_path / "c", "import sys\nsys.exit('no')"))


def test_a_huge_file_and_too_many_files_are_refused(tmp_path: Path) -> None:
    body = "with open('big', 'wb') as file:\n    while True:\n        file.write(bytes(10_000_000))"
    assert "more than 0.0931 GiB" in refused(hostile(tmp_path / "a", body), Limits(file_bytes=100_000_000))
    body = "held = [open('/dev/null') for _ in range(500)]"
    assert "more than 200 files" in refused(hostile(tmp_path / "b", body), Limits(open_files=200))


def test_many_files_that_are_too_large_together_are_refused(tmp_path: Path) -> None:
    body = """
        import time
        for index in range(1000):
            with open(f'{index}', 'wb') as file:
                file.write(b'x' * 20_000_000)
            time.sleep(0.1)
    """
    assert "wrote more than" in refused(hostile(tmp_path / "m", body), Limits(file_bytes=60_000_000))


def test_files_are_written_in_a_private_folder_that_goes(tmp_path: Path) -> None:
    (tmp_path / "trials").mkdir()
    source = hostile(
        tmp_path / "m",
        """
        import os, pathlib, tempfile
        pathlib.Path('here').write_text('x')
        pathlib.Path.home().joinpath('home').write_text('x')
        tempfile.NamedTemporaryFile(delete=False).write(b'x')
        """,
    )
    sandbox.load(source, within=tmp_path / "trials")
    assert list((tmp_path / "trials").iterdir()) == []


def test_writing_elsewhere_is_refused_where_the_system_can(tmp_path: Path) -> None:
    _, words = sandbox.load(hostile(tmp_path / "ok", "pass"))
    if not any("own folder only" in text for text in words):
        pytest.skip("this kernel has no Landlock")
    target = tmp_path / "stolen"
    message = refused(hostile(tmp_path / "m", f"open({str(target)!r}, 'w').write('x')"))
    assert "own temporary folder only" in message
    assert not target.exists()


def test_the_network_is_out_of_reach_where_the_system_can(tmp_path: Path) -> None:
    _, words = sandbox.load(hostile(tmp_path / "ok", "pass"))
    if not any("without network" in text for text in words):
        pytest.skip("this system lets no process give up its network")
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)
        port = server.getsockname()[1]
        body = f"import socket\nsocket.create_connection(('127.0.0.1', {port}), 5)"
        assert "without network" in refused(hostile(tmp_path / "m", body))
        with pytest.raises(TimeoutError):
            server.accept()


def test_children_and_grandchildren_end_with_the_load(tmp_path: Path) -> None:
    body = """
        import os
        for _ in range(3):
            pid = os.fork()
            if pid == 0:
                os.setsid()
                if os.fork():
                    os._exit(0)
                import signal
                signal.pause()
    """
    tried, _ = sandbox.load(hostile(tmp_path / "m", body), within=tmp_path)
    assert tried.golden.outputs["predict"]
    eventually(lambda: not _trials(tmp_path), 90, "the end of every descendant")


def _trials(within: Path) -> list[int]:
    """Processes of the trials, and their guards, that have their folder in `within`."""
    found = []
    for place in Path("/proc").iterdir():
        if place.name.isdigit():
            try:
                words = (place / "cmdline").read_bytes()
                if b"lagar.intake." in words and os.fsencode(within / "lagar-trial-") in words:
                    found.append(int(place.name))
            except OSError:
                continue
    return found


def test_it_sees_none_of_this_process_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAGAR_KEY", "lk_secret")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    body = """
        import os
        found = [name for name in os.environ if 'LAGAR' in name or 'AWS' in name]
        if found:
            raise RuntimeError(str(found))
    """
    sandbox.load(hostile(tmp_path / "m", body))


def test_it_cannot_end_other_processes_where_the_system_can(tmp_path: Path) -> None:
    if landlock_version() < 6:
        pytest.skip("this kernel does not keep signals in")
    assert "PermissionError" in refused(hostile(tmp_path / "m", f"import os\nos.kill({os.getpid()}, 0)"))


def test_a_missing_library_is_named_as_if_it_were_loaded_here(tmp_path: Path) -> None:
    with pytest.raises(MissingCode, match="imports 'nosuchlib', which is not installed: pip install nosuchlib"):
        sandbox.load(hostile_import(tmp_path / "m"))


def hostile_import(folder: Path) -> ModelSource:
    source = hostile(folder, "pass")
    code = folder / "odd.py"
    code.write_text(f"import nosuchlib\n{code.read_text()}")
    return source


def test_a_missing_library_of_a_pickle_is_named(tmp_path: Path) -> None:
    path = tmp_path / "m.pkl"
    path.write_bytes(b"\x80\x02cimblearn.pipeline\nPipeline\n)\x81.")
    (source,) = find_models([path]).sources
    with pytest.raises(MissingLibrary, match="imblearn"):
        sandbox.load(source)


def test_an_answer_that_is_no_json_is_no_answer(tmp_path: Path) -> None:
    body = """
        import os, pathlib, sys
        folder = pathlib.Path(sys.argv[1])
        folder.joinpath('answer.json').write_bytes(b'not json')
        os._exit(0)
    """
    assert "ended the process while loading" in refused(hostile(tmp_path / "m", body))


def test_interrupting_the_push_ends_the_trial(tmp_path: Path) -> None:
    """The guard dies with who started it, and takes the trial along."""
    source = hostile(tmp_path / "m", "import threading\nthreading.Event().wait()")
    script = (
        "import sys\nfrom pathlib import Path\nfrom lagar.intake import sandbox\n"
        "from lagar.intake.inspect import find_models\n"
        f"folder = Path({str(tmp_path)!r})\n"
        "sandbox.load(find_models([folder / 'm']).sources[0], within=folder)\n"
    )
    pusher = subprocess.Popen([sys.executable, "-c", script])
    try:
        eventually(lambda: len(_trials(tmp_path)) == 2, 60, "the trial's start")
    finally:
        pusher.send_signal(signal.SIGKILL)
        pusher.wait()
    eventually(lambda: not _trials(tmp_path), 90, "the trial's end")
    assert source.name == "m"


def test_work_that_nobody_waits_for_lets_everything_else_go_first(tmp_path: Path) -> None:
    body = """
        import os, pathlib
        group = pathlib.Path('/proc/self/autogroup')
        raise RuntimeError(f"nice {os.nice(0)}, {group.read_text() if group.exists() else 'nice 10'}")
    """
    words = refused(hostile(tmp_path / "m", body), msgspec.structs.replace(QUICK, yields=True))
    assert words.count("nice 10") == 2, words


@pytest.mark.parametrize("module", ["sandbox", "trial"])
def test_what_starts_after_its_parent_is_gone_ends_at_once(tmp_path: Path, module: str) -> None:
    (tmp_path / "limits.json").write_bytes(msgspec.json.encode(Limits()))
    started = subprocess.run([sys.executable, "-m", f"lagar.intake.{module}", str(tmp_path), "1"], capture_output=True)
    assert (started.returncode, started.stdout, started.stderr) == (1, b"", b"")


def test_trials_run_beside_each_other(tmp_path: Path) -> None:
    source = hostile(tmp_path / "m", "pass")
    results: list[object] = []

    def load() -> None:
        results.append(sandbox.load(source)[0].golden)

    threads = [threading.Thread(target=load) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 2
    assert results[0] == results[1]
