"""Making an environment for a version whose requirements this one does not meet: resolved, locked, installed by uv.

At a push the requirement lines are resolved once, to one lock with hashes; every other machine that runs the version
makes its environment of that lock. Wheels are installed, and nothing is built unless the person who pushed said
--trust: building runs the package's own code.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

import msgspec
from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.utils import canonicalize_name

from lagar import settings
from lagar.errors import MissingEnvironment, MissingLibrary, SetupError
from lagar.intake import lock
from lagar.intake.lock import Requirements
from lagar.registry import environments
from lagar.registry.environments import Environments
from lagar.registry.manifest import Manifest
from lagar.registry.model import ModelSource

HOST_NEEDS: Final = ("msgspec", "numpy", "pyyaml")
"""What Lagar's own part of a host process imports: the last one to read MLflow folders."""
OLDEST: Final = "3.11"
"""Lagar's own code does not run on older Pythons."""
INSTALL_TIMEOUT_S: Final = 1800.0
_PYTHON: Final = "python"
_LINES: Final = 12
"""How much of uv's last words a refusal has."""
_PIN: Final = re.compile(r"^([A-Za-z0-9][\w.-]*)==(\S+)", re.MULTILINE)

Say = Callable[[str], None]
"""Called with what has been done, in words."""


class Environment(msgspec.Struct, frozen=True):
    """An environment that is there."""

    python: str
    """Its interpreter."""
    lock: str
    """The text of its lock: a pin with hashes for everything in it."""
    words: str


def isolation(place: Environments) -> Callable[[Requirements, bool, Say], Environment]:
    """What `push.Options.isolate` wants: requirements, whether packages may be built, what is said meanwhile."""

    def isolate(wanted: Requirements, trust: bool, say: Say) -> Environment:
        return resolve(place, wanted, trust=trust, say=say)

    return isolate


def resolve(
    place: Environments, wanted: Requirements, *, trust: bool = False, say: Say = lambda _: None
) -> Environment:
    """An environment that meets the requirements, made where there is none.

    Raises SetupError with uv's own last words: what cannot be resolved or fetched, a Python that cannot be had, a hash
    that differs; MissingLibrary where there is no uv.
    """
    began = time.monotonic()
    uv = _uv()
    with place.draft() as draft:
        venv = draft / "venv"
        version = _venv(uv, venv, wanted.python)
        text = _compiled(uv, draft, venv, wanted, trust)
        pins = _PIN.findall(text)
        say(f"{len(pins)} libraries on Python {version}: {', '.join(_own(wanted, dict(pins)))}")
        key = environments.key_of(hashlib.sha256(text.encode()).hexdigest(), version)
        with place.alone(key):
            python = place.interpreter(key)
            if python is not None:
                return Environment(python, text, "an environment that was there already")
            _install(uv, draft, venv, text, trust)
            place.put(key, venv)
    python = place.interpreter(key)
    assert python is not None
    return Environment(python, text, f"an environment of its own, made in {time.monotonic() - began:.1f} s")


def make(place: Environments, manifest: Manifest, text: str) -> str:
    """The interpreter of a version's environment, made of the version's lock where there is none.

    Several that ask at once wait for the one that makes it. Raises as `resolve` does.
    """
    key = environments.key_for(manifest)
    assert key is not None, "a version without requirements needs no environment"
    with place.alone(key):
        python = place.interpreter(key)
        if python is None:
            uv = _uv()
            with place.draft() as draft:
                venv = draft / "venv"
                _venv(uv, venv, f"=={environments.minor(manifest.python)}.*")
                _install(uv, draft, venv, text, manifest.trust)
                place.put(key, venv)
            python = place.interpreter(key)
    assert python is not None
    return python


def split(requirements: Iterable[str]) -> Requirements:
    """The requirements of a manifest, where the Python stands among the lines."""
    lines: list[str] = []
    python: str | None = None
    for line in requirements:
        wanted = Requirement(line)
        if canonicalize_name(wanted.name) == _PYTHON:
            python = str(wanted.specifier)
        else:
            lines.append(line)
    return Requirements(tuple(lines), "its requirements", python)


def joined(wanted: Requirements) -> tuple[str, ...]:
    """Requirements as a manifest has them."""
    return (*([f"{_PYTHON}{wanted.python}"] if wanted.python else ()), *wanted.lines)


def missing(requirements: Iterable[str]) -> tuple[str, ...]:
    """What of a manifest's requirements this process's own environment does not meet."""
    wanted = split(requirements)
    return lock.unmet(wanted, *lock.here()) if wanted.lines or wanted.python else ()


def lacking(error: MissingLibrary) -> MissingLibrary:
    """What to do where an environment of its own lacks a library."""
    what = re.split(r"; install it|: pip install|, which is not installed", error.message)[0]
    return MissingLibrary(f"{what}, which its environment lacks: add it to the requirements and push again")


def interpreter(source: ModelSource) -> str | None:
    """The Python in which a version is to be loaded; None where this process's own environment meets its requirements.

    Raises MissingEnvironment where its environment has not been made on this machine.
    """
    if not source.requirements or not (lacks := missing(source.requirements)):
        return None
    folder = Path(source.environment or "/nowhere")
    python = Environments(folder.parent).interpreter(folder.name)
    if python is None:
        raise MissingEnvironment(
            f"{source.name}@{source.version} asks for {', '.join(lacks[:3])}, and the environment that it runs in is "
            f"not made on this machine: `lagar environment {source.name}@{source.version}` makes it"
        )
    return python


# uv.


def _uv() -> str:
    found = lock.uv_command()
    if found is None:
        raise MissingLibrary(
            "an environment of its own is made with uv, which is not installed here: pip install uv, and try again"
        )
    return found


def _venv(uv: str, venv: Path, python: str | None) -> str:
    """Make an empty venv; the version of its Python."""
    _check_python(python)
    request = python or environments.minor(lock.here()[1])
    _run([uv, "venv", "--quiet", "--relocatable", "--python", request, str(venv)], venv.parent, f"Python {request}")
    found = re.search(r"^version(?:_info)?\s*=\s*([\d.]+)", (venv / "pyvenv.cfg").read_text(), re.MULTILINE)
    assert found is not None, "uv writes the version"
    if _before_oldest(found[1]):
        raise SetupError(_too_old(found[1]))
    return found[1]


def _check_python(python: str | None) -> None:
    """Refuse a Python that is older than Lagar's code before anything is fetched."""
    if python is None:
        return
    try:
        wanted = SpecifierSet(python, prereleases=True)
    except InvalidSpecifier:
        raise SetupError(f"the requirements ask for Python {python!r}, which is no version; write ==3.12.*") from None
    newest = [f"3.{minor}.{patch}" for minor in range(int(OLDEST.split(".")[1]), 40) for patch in range(40)]
    if not any(wanted.contains(version) for version in newest):
        raise SetupError(_too_old(python))


def _before_oldest(version: str) -> bool:
    return tuple(map(int, version.split(".")[:2])) < tuple(map(int, OLDEST.split(".")))


def _too_old(python: str) -> str:
    return (
        f"the requirements ask for Python {python}, and what loads a model in its environment runs on Python {OLDEST} "
        "and later: train the model again on a newer Python, or save it as ONNX"
    )


def _compiled(uv: str, draft: Path, venv: Path, wanted: Requirements, trust: bool) -> str:
    """Everything that the requirements and Lagar's part of a host need, pinned, with hashes."""
    named = {canonicalize_name(name) for name in lock.names(wanted.lines)}
    lines = [*wanted.lines, *(name for name in HOST_NEEDS if name not in named)]
    source = draft / "requirements.in"
    source.write_text("".join(f"{line}\n" for line in lines))
    command = [uv, "pip", "compile", str(source), "--generate-hashes", "--no-header", "--no-annotate", "--quiet",
               "--python", str(venv / "bin" / "python"), *_binary(trust)]  # fmt: skip
    what = ", ".join(wanted.lines[:5])
    done = _uv_run([*command, "--offline"], draft)
    if done.returncode != 0:  # what the cache has is enough for most second pushes; the index has the rest
        return _run(command, draft, f"the requirements ({what}) cannot be resolved", whole=True)
    return done.stdout


def _install(uv: str, draft: Path, venv: Path, text: str, trust: bool) -> None:
    path = draft / lock.FILE
    path.write_text(text)
    hashes = ["--require-hashes"] if "--hash=" in text else []
    python = str(venv / "bin" / "python")
    # compiled now: who runs in it later may not be able to write here, and would compile at every start
    command = [uv, "pip", "install", "--quiet", "--compile-bytecode", "--python", python, "-r", str(path)]
    _run([*command, *hashes, *_binary(trust)], draft, "the environment cannot be installed", whole=True)
    shutil.copyfile(path, venv / lock.FILE)


def _binary(trust: bool) -> list[str]:
    return [] if trust else ["--only-binary", ":all:"]


def _run(command: Sequence[str], folder: Path, what: str, *, whole: bool = False) -> str:
    """What uv printed; SetupError with its last words when it failed."""
    done = _uv_run(command, folder)
    if done.returncode == 0:
        return done.stdout
    last = "; ".join(" ".join(line.split()) for line in done.stderr.strip().splitlines()[-_LINES:])
    last = last.replace(f"{folder}/", "") or f"uv ended with {done.returncode}"
    head = what if whole else f"an environment with {what} cannot be made"
    raise SetupError(f"{head}; uv says: {last[:1500]}{_advice(last)}")


def _uv_run(command: Sequence[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """uv, in a folder without a project, with the person's own index and certificates."""
    own = {"UV_NO_PROGRESS": "1", "NO_COLOR": "1", "VIRTUAL_ENV": ""}
    try:
        return subprocess.run(
            list(command), capture_output=True, text=True, timeout=INSTALL_TIMEOUT_S, cwd=folder,
            env=settings.child_environment(own), stdin=subprocess.DEVNULL, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise SetupError(f"uv did not end within {INSTALL_TIMEOUT_S:g} s: {' '.join(command[1:3])}") from None
    except OSError as error:
        raise MissingLibrary(f"uv cannot be run ({error.strerror}): pip install uv, and try again") from None


def _advice(said: str) -> str:
    """The next step, by what uv said."""
    text = said.lower()
    if "hash" in text and ("mismatch" in text or "expected" in text):
        return ". The index gives other files than those of the push: push the version again"
    if "dns error" in text or "connect" in text or "failed to fetch" in text or "network" in text or "offline" in text:
        return ". See that this machine reaches its package index (UV_DEFAULT_INDEX, HTTPS_PROXY), and try again"
    if "no interpreter" in text or "python-build-standalone" in text or "python download" in text:
        return ". Install that Python (`uv python install VERSION`), or ask for another one"
    if "--only-binary" in text or "no-build" in text or "no wheel" in text or "source distribution" in text:
        return ". Only wheels are installed; --trust lets packages be built, which runs their code"
    return ". Mend the requirements and push again"


def _own(wanted: Requirements, pins: Mapping[str, str]) -> list[str]:
    """The pins of what the person asked for."""
    known = {str(canonicalize_name(name)): version for name, version in pins.items()}
    return [f"{name} {known[name]}" for name in lock.names(wanted.lines)[:6] if name in known]


# Requirements that nobody named: what lies beside a model.

_LOCKS: Final = ("requirements.txt", "Pipfile.lock", "pyproject.toml", "python_env.yaml", "conda.yaml")
_KNOWN: Final = frozenset({
    "catboost", "category-encoders", "cloudpickle", "feature-engine", "imbalanced-learn", "joblib", "lightgbm", "numpy",
    "onnxruntime", "pandas", "scikit-learn", "scikit-survival", "scipy", "threadpoolctl", "xgboost", "xgboost-cpu",
})  # fmt: skip
"""Libraries whose pickles are opened unasked; only these are installed unasked, since a package is code."""
_BUILDS: Final = {"xgboost-cpu": "xgboost", "onnxruntime-gpu": "onnxruntime", "scikit-learn-intelex": "scikit-learn"}
_OWNERS: Final = {"sklearn": "scikit-learn", "imblearn": "imbalanced-learn", "category_encoders": "category-encoders"}


def beside(folder: Path, kind: str, modules: Iterable[str]) -> Requirements | None:
    """The requirements in a model's own folder, where this environment lacks a library that the model itself imports,
    or has another release of it (1.6 and 1.9); None otherwise.

    `kind` is the model's, `modules` those that its pickle imports. Only libraries that Lagar knows are among the lines:
    a folder may be anybody's, and must not choose what is installed and run here.
    """
    roots = {name.partition(".")[0] for name in (*modules, kind)}
    concerned = {str(canonicalize_name(_OWNERS.get(root, root))) for root in roots}
    installed = {_BUILDS.get(name, name): version for name, version in _here().items()}
    for name in _LOCKS:
        path = folder / name
        if not path.is_file() or (name == "pyproject.toml" and not _is_locked(folder)):
            continue
        with contextlib.suppress(SetupError, InvalidRequirement):  # nobody asked for it: one that is none says nothing
            wanted = lock.read(path)
            if not any(_differs(line, concerned, installed) for line in wanted.lines):
                return None
            return msgspec.structs.replace(wanted, lines=tuple(filter(_is_known, wanted.lines)))
    return None


def _is_known(line: str) -> bool:
    wanted = Requirement(line)
    return wanted.url is None and str(canonicalize_name(wanted.name)) in _KNOWN


def _here() -> dict[str, str]:
    return {str(canonicalize_name(name)): version for name, version in lock.here()[0].items()}


def _is_locked(folder: Path) -> bool:
    return (folder / "uv.lock").is_file() or (folder / "poetry.lock").is_file()


def _differs(line: str, concerned: set[str], installed: Mapping[str, str]) -> bool:
    wanted = Requirement(line)
    name = str(canonicalize_name(wanted.name))
    name = _BUILDS.get(name, name)
    if name not in concerned or wanted.url is not None:
        return False
    version = installed.get(name)
    if version is None:
        return True
    if wanted.specifier.contains(version, prereleases=True):
        return False
    pins = [spec.version for spec in wanted.specifier if spec.operator in ("==", "===", "~=")]
    return not any(pin.split(".")[:2] == version.split(".")[:2] for pin in pins)
