"""Load apart: a model is opened in a process of its own that has little and is ended for good.

`python -m lagar.intake.sandbox FOLDER PARENT` is the guard: it gives up what a model does not need (`confinement`),
starts the trial beneath itself, ends it and everything that it started when its time is over, and says how it went. The
result comes back as a JSON file of bounded size, never as a pickle.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Literal

import msgspec

from lagar import native, settings
from lagar.errors import LoadFailed, SetupError
from lagar.intake import confinement
from lagar.intake.confinement import Confined, Limits
from lagar.intake.trial import ANSWER, FORMS, TASK, Answer, Failure, Proving, Task, Tried
from lagar.registry import environments
from lagar.registry.model import ModelSource
from lagar.registry.proof import ORIGINAL, Proof
from lagar.registry.signature import Signature
from lagar.registry.versions import is_name

_LIMITS: Final = "limits.json"
_MAX_ANSWER: Final = 64 * 1024**2
_OUTPUT_BYTES: Final = 64 * 1024
_GRACE_S: Final = 30.0
"""How much longer than the trial its guard may take: to start, and to end processes."""
_TICK_S: Final = 0.5
_PATIENCE: Final = 3
"""So many times longer may take what lets everything else go first."""
_KEPT: Final = re.compile(
    r"PATH|PYTHONPATH|PYTHONHOME|LD_LIBRARY_PATH|LANG|LANGUAGE|LC_\w+|TZ|VIRTUAL_ENV|CONDA_PREFIX"
)
"""Variables that the trial sees; keys, tokens and addresses of this process are none of them."""
_ONE_THREAD: Final = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")

End = Literal["done", "time", "cpu", "memory", "file size", "killed", "crash", "exit"]


class Verdict(msgspec.Struct, frozen=True):
    """How the trial's process ended, in its guard's words."""

    end: End
    detail: str
    """The name of a signal, or an exit code."""
    wall_s: float
    confined: Confined
    output: str
    """The last of what was printed."""


_verdicts = msgspec.json.Decoder(Verdict)
_answers = msgspec.json.Decoder(Answer)


def load(
    source: ModelSource,
    *,
    preload: tuple[str, ...] = (),
    limits: Limits | None = None,
    python: str | None = None,
    within: Path | None = None,
) -> tuple[Tried, tuple[str, ...]]:
    """Load a source apart, record its golden rows and measure it; with words on how it was confined.

    `preload`: modules that it is known to import, left out of its own memory. `python`: the interpreter, this one by
    default. `within`: where its temporary folder is made. Raises SetupError subclasses: what the load itself raised, or
    LoadFailed that names the limit which was hit.
    """
    with private(within) as folder:
        answer, words = _run(Task(source, preload), folder, limits or Limits(), python, "loading")
    assert answer.tried is not None
    return answer.tried, words


def describe(
    source: ModelSource,
    signature: Signature,
    training_data: Path,
    into: Path,
    *,
    limits: Limits | None = None,
    python: str | None = None,
    within: Path | None = None,
) -> tuple[str, ...]:
    """Write the profile of the training data, the model's scores included, to the file `into`; what to say about it.

    The data is read beside the model, in one confined process. Raises as `load` does.
    """
    from lagar.intake.profile import FILE

    wanted = limits or Limits(wall_s=1800.0, cpu_s=3600)
    with private(within) as folder:
        task = Task(source, training_data=str(training_data.absolute()), signature=signature)
        answer, _ = _run(task, folder, wanted, python, "reading the training data")
        assert answer.described is not None
        shutil.copyfile(folder / FILE, into)
    return answer.described.words


def prove(
    source: ModelSource,
    into: Path,
    *,
    proving: Proving | None = None,
    training_data: Path | None = None,
    yields: bool = False,
    within: Path | None = None,
) -> Proof:
    """Build the forms of a source, prove and race them; those that serve are left in `into/<name>`.

    A candidate that fails, hangs or crashes is a line of the proof. With `yields` whatever else runs on the machine
    goes first. Raises as `load` does for what concerns the original.
    """
    limits = Limits(wall_s=1200.0, cpu_s=2400, yields=yields)
    proving = proving or Proving()
    if yields:  # on a busy machine an hour passes before it has computed for minutes
        limits = msgspec.structs.replace(limits, wall_s=_PATIENCE * limits.wall_s)
        caps = msgspec.structs.replace(proving.caps, wall_s=_PATIENCE * proving.caps.wall_s)
        proving = msgspec.structs.replace(proving, caps=caps)
    native.prepare()  # here, because what is confined may neither write it nor be trusted with it
    with private(within) as folder:
        task = Task(
            source,
            training_data=None if training_data is None else str(training_data.absolute()),
            proving=proving,
        )
        answer, _ = _run(task, folder, limits, None, "compiling")
        assert answer.proof is not None
        for name in {part.name for part in answer.proof.served} - {ORIGINAL}:
            _take(folder / FORMS, name, into)
    return answer.proof


def _take(forms: Path, name: str, into: Path) -> None:
    """Copy a form's files, and nothing that only looks like one: a model's own code ran where they were made."""
    folder = forms / name
    if not is_name(name) or folder.is_symlink() or not folder.is_dir():
        raise LoadFailed(f"compiling left no folder for the form {name!r}: try again")
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.is_symlink():
            target = into / path.relative_to(forms)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)


@contextlib.contextmanager
def private(within: Path | None = None) -> Iterator[Path]:
    """A temporary folder, in `within` where it is given."""
    folder = Path(tempfile.mkdtemp(prefix="lagar-trial-", dir=within))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _run(task: Task, folder: Path, limits: Limits, python: str | None, doing: str) -> tuple[Answer, tuple[str, ...]]:
    limits = limits.effective()
    (folder / TASK).write_bytes(msgspec.json.encode(task))
    (folder / _LIMITS).write_bytes(msgspec.json.encode(limits))
    for name in ("home", "tmp", "work"):
        (folder / name).mkdir(mode=0o700)
    verdict = _guarded(folder, limits, python)
    answer = _answer(folder) if verdict.end in ("done", "exit") else None
    if answer is None:
        raise LoadFailed(_ended(task.source.path, doing, verdict, limits))
    if answer.failure is not None:
        raise _error(answer.failure, task.source.path, doing, verdict, limits)
    return answer, _words(verdict.confined, limits)


def _guarded(folder: Path, limits: Limits, python: str | None) -> Verdict:
    """Run the guard and read its verdict; whatever interrupts this ends the guard, and the guard ends the rest."""
    guard = subprocess.Popen(
        environments.command(python, "lagar.intake.sandbox", str(folder), str(os.getpid())),
        cwd=folder / "work",
        env=environments.variables(python, _environment(folder)),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        said, trouble = guard.communicate(timeout=limits.wall_s + _GRACE_S)
    except subprocess.TimeoutExpired:
        raise LoadFailed(
            f"the guard of the load did not end {_GRACE_S:g} s after its time-out of {limits.wall_s:g} s; try again"
        ) from None
    finally:
        if guard.poll() is None:
            guard.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                guard.communicate(timeout=10)
            guard.kill()
            guard.communicate()
    if guard.returncode != 0:
        last = trouble.decode("utf-8", "replace").strip().splitlines()[-1:] or [f"exit code {guard.returncode}"]
        raise LoadFailed(f"the process apart could not be started with {python or sys.executable}: {last[0][:300]}")
    return _verdicts.decode(said)


def _environment(folder: Path) -> dict[str, str]:
    kept = {name: value for name, value in settings.child_environment({}).items() if _KEPT.fullmatch(name)}
    own = {"HOME": str(folder / "home"), "TMPDIR": str(folder / "tmp"), "PYTHONSAFEPATH": "1"}
    own |= {"PYTHONDONTWRITEBYTECODE": "1", "PYTHONHASHSEED": "0"}
    return {**kept, **own, **dict.fromkeys(_ONE_THREAD, "1")}


def _answer(folder: Path) -> Answer | None:
    """What the trial wrote; None when it wrote nothing, or nothing that reads."""
    path = folder / ANSWER
    try:
        if path.is_symlink() or not path.is_file() or path.stat().st_size > _MAX_ANSWER:
            return None
        return _answers.decode(path.read_bytes())
    except (OSError, msgspec.DecodeError):
        return None


# What is said.


def _words(confined: Confined, limits: Limits) -> tuple[str, ...]:
    network = "without network" if confined.no_network else "with network (this system does not let it be taken away)"
    files = (
        "writing to its own folder only"
        if confined.no_writes
        else "able to write where you can (this system has no Landlock)"
    )
    return (
        f"in a process of its own: at most {_gib(limits.memory_bytes)} of memory, {limits.wall_s:g} s",
        f"{network}, {files}",
    )


def _gib(size: int) -> str:
    return f"{size / 1024**3:.3g} GiB"


def _hint(limit: str, confined: Confined, limits: Limits) -> str:
    """What a limit that an error speaks of means here."""
    if limit == "memory":
        return (
            f" (it reached the limit of {_gib(limits.memory_bytes)} of memory; push it on a machine with more, "
            "or make the model smaller)"
        )
    if limit == "file size":
        return f" (it wrote more than {_gib(limits.file_bytes)}; a model's load should write nothing)"
    if limit == "open files":
        return f" (it opened more than {limits.open_files} files; close what is not needed)"
    if limit == "network" and confined.no_network:
        return " (a model is loaded without network here; put what it fetches into its folder)"
    if limit == "files" and confined.no_writes:
        return " (a model may write to its own temporary folder only, the one of tempfile; write there, or not at all)"
    return ""


def _ended(path: str, doing: str, verdict: Verdict, limits: Limits) -> str:
    """Why there is no answer, by how the process ended."""
    last = f"; it printed last: {verdict.output[-300:]!r}" if verdict.output else ""
    if verdict.end == "time":
        return (
            f"{path}: {doing} was not done after {limits.wall_s:g} s (the limit of time) and was ended; "
            f"see what it waits for{last}"
        )
    if verdict.end == "cpu":
        return f"{path}: {doing} took more than {limits.cpu_s} s of computing (the limit) and was ended{last}"
    if verdict.end == "memory":
        return f"{path}: {doing} failed for memory{_hint('memory', verdict.confined, limits)}{last}"
    if verdict.end == "file size":
        return f"{path}: {doing} was ended{_hint('file size', verdict.confined, limits)}{last}"
    if verdict.end == "killed":
        return (
            f"{path}: {doing} was killed by the system ({verdict.detail}), most likely for memory; push it on a "
            f"machine with more, or make the model smaller{last}"
        )
    if verdict.end == "crash":
        return (
            f"{path}: {doing} crashed the process ({verdict.detail}); the file is damaged, or its library has a fault: "
            f"open it once by hand with the library that saved it, and save it again{last}"
        )
    return (
        f"{path}: its code ended the process while {doing} (exit code {verdict.detail}), before the model answered; "
        f"take the exit out of it{last}"
    )


def _error(failure: Failure, path: str, doing: str, verdict: Verdict, limits: Limits) -> SetupError:
    """The error that the trial reported, as an error of this process."""
    message = failure.message if path in failure.message else f"{path}: {doing} failed: {failure.message}"
    kinds = {kind.code: kind for kind in SetupError.__subclasses__()}
    return kinds.get(failure.code, LoadFailed)(f"{message}{_hint(failure.limit, verdict.confined, limits)}")


# The guard.


class _Output:
    """The trial's standard output and error: read as it comes, the last of it kept."""

    def __init__(self) -> None:
        self.read_end, self.write_end = os.pipe()
        os.set_blocking(self.read_end, False)
        self._kept = b""

    def drain(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while piece := os.read(self.read_end, _OUTPUT_BYTES):
                self._kept = (self._kept + piece)[-_OUTPUT_BYTES:]

    def text(self) -> str:
        return self._kept[-4096:].decode("utf-8", "replace").strip()


def main() -> None:
    """Guard one trial: argv[1] is its folder, argv[2] the process that asked; prints the verdict as JSON."""
    folder = Path(sys.argv[1])
    limits = msgspec.json.decode((folder / _LIMITS).read_bytes(), type=Limits)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    confinement.adopt_orphans()
    confined = confinement.confine(limits, folder)
    confinement.die_with_parent(signal.SIGTERM, int(sys.argv[2]))
    output = _Output()
    try:
        started = time.monotonic()
        trial = subprocess.Popen(
            environments.command(sys.executable, "lagar.intake.trial", str(folder), str(os.getpid())),
            stdin=subprocess.DEVNULL,
            stdout=output.write_end,
            stderr=output.write_end,
            process_group=0,
        )
        os.close(output.write_end)
        stopped = _wait(trial.pid, output, started + limits.wall_s, folder, limits)
        wall_s = time.monotonic() - started
        if stopped:
            os.kill(trial.pid, signal.SIGKILL)
        _, status, used = os.wait4(trial.pid, 0)
        trial.returncode = os.waitstatus_to_exitcode(status)
        output.drain()
    finally:
        _end_all()
    end, detail = stopped or "exit", ""
    if not stopped:
        end, detail = _how(trial.returncode, used.ru_utime + used.ru_stime, limits, output.text())
    verdict = Verdict(end, detail, wall_s, confined, output.text())
    sys.stdout.buffer.write(msgspec.json.encode(verdict))
    sys.stdout.flush()


def _wait(pid: int, output: _Output, deadline: float, folder: Path, limits: Limits) -> End | None:
    """Wait for the trial's end; a limit that it went over, or None when it ended by itself."""
    ended = os.pidfd_open(pid)
    poll = select.poll()
    poll.register(ended, select.POLLIN)
    poll.register(output.read_end, select.POLLIN)
    look = 0.0
    while True:
        now = time.monotonic()
        if now >= deadline:
            return "time"
        if now >= look:
            if _written(folder) > limits.file_bytes:
                return "file size"
            look = now + _TICK_S
        found = poll.poll(max(min(deadline, look) - now, 0.001) * 1000)
        if any(descriptor == ended for descriptor, _ in found):
            return None
        for descriptor, event in found:
            if descriptor == output.read_end:
                output.drain()
                if event & (select.POLLHUP | select.POLLERR):  # closed by the trial, and no reason to wake up again
                    poll.unregister(descriptor)


def _written(folder: Path) -> int:
    """Bytes on disk under the folder."""
    size = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                size += os.lstat(os.path.join(place, name)).st_blocks * 512
    return size


def _how(code: int, cpu_s: float, limits: Limits, output: str) -> tuple[End, str]:
    """What a return code means, as subprocess has it: negative for a signal."""
    if code == 0:
        return "done", "0"
    if code > 0:
        return "exit", str(code)
    name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
    if -code == signal.SIGXCPU or (-code == signal.SIGKILL and cpu_s >= limits.cpu_s):
        return "cpu", name
    if -code == signal.SIGXFSZ:
        return "file size", name
    if re.search(r"bad_alloc|[Oo]ut of memory|Cannot allocate memory|MemoryError", output):
        return "memory", name
    return ("killed", name) if -code == signal.SIGKILL else ("crash", name)


def _end_all() -> None:
    """End every process beneath the guard: who lost its parent came to the guard."""
    while True:
        for pid in _children():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        try:
            os.wait4(-1, 0)
        except ChildProcessError:
            return


def _children() -> list[int]:
    found: list[int] = []
    for listing in Path("/proc/self/task").glob("*/children"):
        with contextlib.suppress(OSError):
            found.extend(int(pid) for pid in listing.read_text().split())
    return found


if __name__ == "__main__":
    main()
