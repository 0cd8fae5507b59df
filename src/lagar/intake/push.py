"""`lagar push`: from a file to a version that may serve, in seven steps, or a refusal that says which of them.

*scan*       every pickled file is read without being opened; sizes, archives and links are bounded (`scan`, `archive`)
*load*       opened in a process apart, with limits (`sandbox`)
*signature*  inferred and refined by the example; golden rows recorded (`golden`)
*prove*      the forms that the version serves from, each proved against the original
*lock*       Python and the libraries that were imported (`lock`)
*profile*    reference statistics of the training data (`profile`)
*commit*     one immutable version with its report

All work is done on a private copy laid out as the version will be, so what was checked is what is committed. Files of a
version: `model/` has the model file or the whole model folder, `code/` what --code named, beside `lock.txt` and
`profile.json`.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import math
import os
import shutil
import stat
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

import lagar
from lagar import settings
from lagar.errors import HomeError, LagarError, MissingLibrary, Refused, SetupError, StoreAway, VersionExists
from lagar.intake import archive, compilation, content, environment, lock, mlmodel, mlserver, sandbox, scan, sniff
from lagar.intake import folder as lagar_toml
from lagar.intake.archive import Bounds
from lagar.intake.confinement import Limits
from lagar.intake.content import Content
from lagar.intake.environment import Environment
from lagar.intake.inspect import find_models
from lagar.intake.lock import Requirements
from lagar.intake.trial import Tried
from lagar.registry.manifest import FORMAT, FileEntry, Form, Manifest, Provenance, Step
from lagar.registry.model import ModelSource
from lagar.registry.versions import is_name
from lagar.runtimes import code as user_code
from lagar.settings import Compile

if TYPE_CHECKING:
    from lagar.registry.releases import Releases, Version, Who

OnStep = Callable[[str, str], None]
"""Called with a step's name and "" when it begins, and with what it found in words when it is done."""
Isolate = Callable[[Requirements, bool, Callable[[str], None]], Environment]
"""Requirements that this environment does not meet → one that does; with whether packages may be built (--trust), and
what is called with words on the way."""
Taken = Callable[[str, Callable[[Manifest], bool]], None]
"""Called with the label that is wanted and what tells whether a version can have been made of the same; raises
VersionExists where that label has another content."""
STEPS: Final = ("scan", "load", "signature", "prove", "lock", "profile", "commit")
_MAX_PICKLE: Final = 2 * 1024**3
"""Bytes of a file that is read whole to be scanned."""
_STAGING: Final = "lagar-push-"
_THERE: Final = " was there with this content: nothing was written, metrics and note neither"

log = logging.getLogger("lagar.intake")


class Options(msgspec.Struct, frozen=True):
    """What may be said about a version when it is taken in."""

    version: str | None = None
    """Any label; None: that of lagar.toml, else the next number."""
    example: Path | None = None
    training_data: Path | None = None
    code: tuple[Path, ...] = ()
    metrics: Mapping[str, float] = {}
    note: str = ""
    requirements: Path | None = None
    trust: bool = False
    limits: Limits | None = None
    bounds: Bounds = Bounds()
    isolate: Isolate | None = None
    taken: Taken = lambda label, may_be: None
    on_step: OnStep = lambda step, words: None
    found: ModelSource | None = None
    """What lies at the path, where whoever found it knows more of it than the path says."""
    compiling: Compile | None = None
    """When its forms are built: before the commit, later by the servers that answer with it ("background"), or not at
    all. None: what LAGAR_COMPILE says, and "wait" where it says nothing."""


class Draft:
    """A version that has passed every step but the last, with its files on disk until it is closed."""

    def __init__(self, staging: Path, manifest: Manifest, files: dict[str, Path], source: ModelSource) -> None:
        self.staging = staging
        self.manifest = manifest
        """`version` is "" where the next number is wanted."""
        self.files = files
        """Path in the version → file on disk."""
        self.source = source
        """The original on disk, as `runtimes.load` takes it."""

    @property
    def sha256(self) -> str:
        """The hash of all files of the original: what `NAME@HASH8` is made of."""
        return content.files_hash(self.manifest.original.files)


def push(
    releases: Releases,
    model: str,
    path: str | os.PathLike[str],
    *,
    version: str | None = None,
    example: Path | None = None,
    training_data: Path | None = None,
    code: Sequence[Path] = (),
    metrics: Mapping[str, float] | None = None,
    alias: str | None = None,
    note: str = "",
    requirements: Path | None = None,
    trust: bool = False,
    who: Who,
    on_step: OnStep = lambda step, words: None,
    limits: Limits | None = None,
    isolate: Isolate | None = None,
    compiling: Compile | None = None,
) -> Version:
    """Take a model in and commit it as one version.

    Raises Refused with the step, why, and what to do, and VersionExists for a label that is taken; then nothing is
    visible but the audit entry. Raises CatalogAway and StoreAway where those do not answer.
    """
    options = Options(
        version=version, example=example, training_data=training_data, code=tuple(code), metrics=metrics or {},
        note=note, requirements=requirements, trust=trust, limits=limits, isolate=isolate, on_step=on_step,
        compiling=compiling, taken=partial(releases.refuse_taken, model),
    )  # fmt: skip
    step = "scan"
    try:
        with _step("scan", lambda step, words: None):  # what can be told at once is not told after minutes of proof
            releases.refuse_full()
            releases.refuse_names(model, version, alias)
            _refuse_scores(options.metrics)
        with intake(model, Path(path), options, who=(who.name, who.host)) as draft, _step("commit", on_step) as done:
            step = "commit"
            committed = releases.commit(draft.manifest, draft.files, who, alias=alias)
            new = committed.manifest.provenance == draft.manifest.provenance
            done.append(f"{committed.model}@{committed.version}{'' if new else _THERE}")
    except (Refused, VersionExists) as error:
        releases.refused(model, getattr(error, "step", step), error.message, who)
        raise
    return committed


def _refuse_scores(metrics: Mapping[str, Any]) -> None:
    for name, value in metrics.items():
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            raise SetupError(f"metric {name!r} must be a finite number, such as 0.98, got {value!r}")


@contextlib.contextmanager
def intake(model: str, path: Path, options: Options, *, who: tuple[str, str]) -> Iterator[Draft]:
    """All steps but the commit; the draft's files are there inside the block. `who` is name and host.

    Raises Refused.
    """
    with staging() as folder:
        yield _Intake(model, path, options, who, folder).draft()


class _Intake:
    """The steps of one intake, and what they have found so far."""

    def __init__(self, model: str, path: Path, options: Options, who: tuple[str, str], folder: Path) -> None:
        self._model = model
        self._path = path.expanduser().absolute()
        self._options = options
        self._who = who
        self._folder = folder
        self._root = folder / "version"
        self._steps: list[Step] = []
        self._label = options.version or ""
        self._given: dict[str, str] = {}
        """Path in the private copy → the path that was given: people are told of theirs."""
        self._example = ""

    def draft(self) -> Draft:
        with self._step("scan") as said:
            source, preload = self._scan(said)
        with self._step("lock", quiet=True):  # read before anything is opened: a bad file ends a push at once
            given = self._options.requirements
            if given is None:
                wanted = self._beside(source, preload)
                own = self._environment_if_it_can_be(wanted)
            else:
                wanted = lock.read(given)
                own = self._environment(wanted)
            python = None if own is None else own.python
        requirements = environment.joined(wanted) if wanted is not None and own is not None else ()
        with self._step("load") as said:
            try:
                tried, how = sandbox.load(
                    source, preload=preload, limits=self._options.limits, python=python, within=self._folder
                )
            except MissingLibrary as error:
                raise error if own is None else environment.lacking(error) from None
            said += [*how, f"{tried.load_s:.2g} s and {tried.memory_bytes / 1024**2:.1f} MiB", *tried.warnings]
        with self._step("signature") as said:
            said += _signature_words(tried)
        draft = self._drafted(source, tried, requirements)
        with self._step("prove") as said:
            self._prove(draft, said)
        with self._step("lock") as said:
            self._lock(draft, tried, own, said)
        with self._step("profile") as said:
            self._profile(draft, python, said)
        draft.manifest = msgspec.structs.replace(draft.manifest, steps=tuple(self._steps))
        return draft

    @contextlib.contextmanager
    def _step(self, name: str, quiet: bool = False) -> Iterator[list[str]]:
        started = time.perf_counter()
        try:
            with _step(name, (lambda step, words: None) if quiet else self._options.on_step) as said:
                yield said
                said[:] = [self._as_given(text) for text in said]
        except Refused as error:
            raise Refused(error.step, self._as_given(error.message)) from error
        if not quiet:
            self._steps.append(Step(name, round(time.perf_counter() - started, 3), tuple(said)))

    def _as_given(self, text: str) -> str:
        for copied, given in self._given.items():
            text = text.replace(copied, given)
        return text.replace(f"{self._folder}/", "")

    # scan

    def _scan(self, said: list[str]) -> tuple[ModelSource, tuple[str, ...]]:
        """The source in its private copy, scanned, and the modules that its pickles are known to import."""
        if not is_name(self._model):
            raise SetupError(
                "a model's name has 1 to 100 of the characters A-Z a-z 0-9 . _ - and begins with a letter or digit, "
                f"got {self._model!r}"
            )
        for flag, given in (("--example", self._options.example), ("--training-data", self._options.training_data)):
            if given is not None and not given.expanduser().is_file():
                raise SetupError(f"{flag} {given}: no such file")
        path = self._path
        if archive.is_archive(path):
            unpacked = self._folder / "unpacked"
            unpacked.mkdir()
            path = archive.unpack(path, unpacked, self._options.bounds)
        found = self._found(path)
        self._label = self._label or _label_of(found)
        if self._label and not is_name(self._label):
            raise SetupError(
                "a version has 1 to 100 of the characters A-Z a-z 0-9 . _ - and begins with a letter or digit, "
                f"got {self._label!r}"
            )
        source = self._staged(found)
        files = [file for file in self._root.rglob("*") if file.is_file()]
        size = sum(file.stat().st_size for file in files)
        globals_found = _scanned(source, files)
        pickles = f", {len(globals_found)} name{'s' * (len(globals_found) > 1)} in pickles" if globals_found else ""
        said.append(f"{len(files)} file{'s' if len(files) > 1 else ''}, {size:,} bytes{pickles}")
        return source, tuple(sorted({name.rpartition(".")[0] for name in globals_found if "." in name}))

    def _found(self, path: Path) -> ModelSource:
        options = self._options
        if options.found is not None:
            return options.found
        try:
            found = find_models(
                [path],
                name=self._model,
                code=[Path(code) for code in options.code],
                example=options.example,
                trust=options.trust,
            )
        except SetupError as error:
            if not error.message.startswith("--name names one model"):
                raise
            names = error.message.rpartition(": ")[2]
            raise SetupError(f"{path} holds several models ({names}); push one of them at a time") from None
        if len(found.sources) > 1:
            names = ", ".join(sorted(Path(source.path).name for source in found.sources)[:10])
            raise SetupError(f"{path} holds {len(found.sources)} models ({names}); push one of them at a time")
        return found.sources[0]

    def _staged(self, found: ModelSource) -> ModelSource:
        """A copy of everything that belongs to the version, and the source that lies in it."""
        gathered = Content(found, self._options.bounds)
        self._given = {str(self._root / place): given for place, given in gathered.given.items()}
        self._example = gathered.example()
        if self._label:
            self._options.taken(self._label, lambda there: gathered.made().may_be(there))
        return gathered.copy(self._root, self._label or "1")

    # load and after

    def _beside(self, source: ModelSource, preload: tuple[str, ...]) -> Requirements | None:
        """The requirements that came with the model, where this environment has other releases of its libraries."""
        folder = source.path if source.kind == "mlflow" else source.folder
        if folder is None or self._options.isolate is None:
            return None
        return environment.beside(Path(folder), source.kind, preload)

    def _environment_if_it_can_be(self, wanted: Requirements | None) -> Environment | None:
        """As `_environment`; where nobody asked for one, what is installed here is tried instead of none at all."""
        try:
            return self._environment(wanted)
        except SetupError as error:
            log.warning("no environment for %s: %s", self._model, error.message)
            self._options.on_step("environment", f"none: what is installed here is tried, since {error.message}")
            return None

    def _environment(self, wanted: Requirements | None) -> Environment | None:
        """The environment of this version; None: this one."""
        if wanted is None:
            return None
        missing = lock.unmet(wanted, *lock.here())
        if not missing:
            return None
        if self._options.isolate is None:
            raise SetupError(
                f"{wanted.source} asks for {', '.join(missing[:5])}, which this environment does not meet: install "
                "what it asks for here, or push without --requirements to serve the model on what is installed"
            )
        on_step = self._options.on_step
        on_step("environment", "")
        on_step("environment", f"{wanted.source} asks for {', '.join(missing[:5])}")
        on_step("environment", "")
        found = self._options.isolate(wanted, self._options.trust, lambda words: _twice(on_step, words))
        on_step("environment", found.words)
        return found

    def _drafted(self, source: ModelSource, tried: Tried, requirements: tuple[str, ...]) -> Draft:
        entries, files = _entries(self._root)
        relative = self._relative
        form = Form(
            name="original",
            kind=source.kind,
            entry=relative(source.path),
            files=tuple(entries),
            libraries=tried.libraries,
        )
        manifest = Manifest(
            format=FORMAT,
            model=self._model,
            version=self._label,
            signature=tried.signature,
            forms=(form,),
            golden=tried.golden,
            python=tried.python,
            libraries=tried.imported,
            provenance=_provenance(self._path, self._who),
            pickled=source.pickled,
            trust=source.trust,
            class_name=source.class_name,
            handlers=relative(source.handlers) if source.handlers else None,
            code=tuple(relative(code) for code in source.code),
            field_rules=source.field_rules,
            options=source.options,
            example=self._example,
            requirements=requirements,
            memory_bytes=tried.memory_bytes,
            load_s=tried.load_s,
            metrics=dict(self._options.metrics),
            note=self._options.note,
        )
        return Draft(self._root, manifest, files, source)

    def _prove(self, draft: Draft, said: list[str]) -> None:
        """Add the forms that are proved and quicker than the original."""
        mode = self._options.compiling or settings.compiling()
        if mode == "off":
            said.append("it serves as it was saved: nothing was compiled")
            return
        if mode == "background" and not draft.manifest.requirements:
            said.append("it serves as it was saved until a server that answers with it has proved its forms")
            draft.manifest = msgspec.structs.replace(draft.manifest, compile_later=True)
            return
        data = self._options.training_data
        made = compilation.compiled(
            draft.source, draft.manifest, self._folder, None if data is None else data.expanduser()
        )
        said += made.words
        draft.files |= made.files
        draft.manifest = made.manifest

    def _relative(self, path: str) -> str:
        return Path(path).relative_to(self._root).as_posix()

    def _lock(self, draft: Draft, tried: Tried, own: Environment | None, said: list[str]) -> None:
        if own is None:
            made = lock.compiled(tried.imported, tried.installed, tried.local)
        else:  # the environment was installed of it, and is so wherever the version runs
            made = lock.of_environment(own.lock)
        path = self._folder / lock.FILE
        path.write_text(made.text)
        draft.files[lock.FILE] = path
        draft.manifest = msgspec.structs.replace(draft.manifest, lock=content.entry(path, lock.FILE))
        said.append(f"Python {tried.python}, {made.words}")
        if draft.manifest.requirements:
            said.append(f"an environment of its own: {', '.join(draft.manifest.requirements[:10])}")

    def _profile(self, draft: Draft, python: str | None, said: list[str]) -> None:
        data = self._options.training_data
        if data is None:
            said.append("no training data was given")
            return
        path = self._folder / "profile.json"
        said += sandbox.describe(
            draft.source, draft.manifest.signature, data.expanduser(), path, python=python, within=self._folder
        )
        draft.files[path.name] = path
        draft.manifest = msgspec.structs.replace(draft.manifest, profile=content.entry(path, path.name))


def _twice(on_step: OnStep, words: str) -> None:
    """A part of a step is done, and the next one begins."""
    on_step("environment", words)
    on_step("environment", "")


@contextlib.contextmanager
def _step(name: str, on_step: OnStep) -> Iterator[list[str]]:
    """A step that says what it found, and whose failure is a refusal of that step."""
    on_step(name, "")
    said: list[str] = []
    try:
        yield said
    except Refused:
        raise
    except (SetupError, OSError) as error:
        if isinstance(error, (HomeError, StoreAway, VersionExists)):
            raise
        text = error.message if isinstance(error, LagarError) else f"{type(error).__name__}: {error}"
        if isinstance(error, OSError) and os.strerror(errno.ENOSPC) in text:  # of many files, only the text tells
            text = (
                f"no space is left in {tempfile.gettempdir()}, where a copy of the model is made: free some, or set "
                "TMPDIR to another disk"
            )
        raise Refused(name, f"refused at {name}: {text}") from error
    on_step(name, "; ".join(said))


def _label_of(source: ModelSource) -> str:
    """The version that lagar.toml or MLServer's settings name; the default of a found file is no label."""
    facts = mlserver.facts_of(source.options)
    if facts is not None:
        return facts.version
    if source.folder is None or not (Path(source.folder) / lagar_toml.NAME).is_file():
        return ""
    return lagar_toml.read(Path(source.folder)).version or ""


def _signature_words(tried: Tried) -> list[str]:
    signature = tried.signature
    width = "an unknown number of" if signature.fields is None else str(len(signature.fields))
    outputs = ", ".join(output.name for output in signature.outputs)
    return [f"{signature.task}: {width} inputs, outputs {outputs}", *(f"golden: {text}" for text in tried.golden_words)]


# Files.


@contextlib.contextmanager
def staging() -> Iterator[Path]:
    """A private folder for one intake, removed at its end; those of pushes that were killed are removed first."""
    parent = Path(tempfile.gettempdir())
    _sweep(parent)
    folder = Path(tempfile.mkdtemp(prefix=_STAGING, dir=parent))
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(descriptor)


def _sweep(parent: Path) -> None:
    """Remove what killed pushes left: folders of this user's whose lock nobody holds, older than a minute."""
    for folder in parent.glob(f"{_STAGING}*"):
        with contextlib.suppress(OSError):
            found = folder.lstat()
            if found.st_uid != os.getuid() or not stat.S_ISDIR(found.st_mode) or time.time() - found.st_mtime < 60:
                continue
            descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(descriptor)


def _entries(root: Path) -> tuple[list[FileEntry], dict[str, Path]]:
    files = {path.relative_to(root).as_posix(): path for path in sorted(root.rglob("*")) if path.is_file()}
    return [content.entry(path, name) for name, path in files.items()], files


def _scanned(source: ModelSource, files: Sequence[Path]) -> set[str]:
    """Every name that the pickles of a version would import; raises what the scan raises."""
    code = list(source.code)
    known: Path | None = Path(source.path) if source.pickled else None
    if source.kind == "mlflow":
        found = mlmodel.read(Path(source.path))
        known = found.data if found.pickled else None
        code += [str(path) for path in found.code]
    modules = user_code.module_names(code)
    names: set[str] = set()
    for file in files:
        if file != known and not _looks_pickled(file):
            continue
        if file.stat().st_size > _MAX_PICKLE:
            raise SetupError(f"{file} has {file.stat().st_size:,} bytes; a pickle may have {_MAX_PICKLE:,}")
        report = scan.check(
            file.read_bytes(),
            code_modules=modules | ({"__main__"} if modules else frozenset()),
            trust=source.trust,
            source=str(file),
        )
        names |= set(report.globals)
    return names


def _looks_pickled(path: Path) -> bool:
    if path.suffix.lower() not in sniff.PICKLE_SUFFIXES:
        with path.open("rb") as file:
            head = file.read(2)
        return len(head) == 2 and head[0] == 0x80 and head[1] <= 5
    try:
        return sniff.sniff(path).pickled
    except SetupError:
        return False


def _provenance(path: Path, who: tuple[str, str]) -> Provenance:
    folder = path if path.is_dir() else path.parent
    commit = _git(folder, "rev-parse", "HEAD")
    dirty = commit is not None and bool(_git(folder, "status", "--porcelain", "--untracked-files=no"))
    return Provenance(
        who=who[0],
        host=who[1],
        at=time.time(),
        source=path.name,
        lagar=lagar.__version__,
        git_commit=commit,
        git_dirty=dirty,
    )


def _git(folder: Path, *arguments: str) -> str | None:
    """What git says of a folder; None where it is in no repository, or git is not there or slow."""
    try:
        done = subprocess.run(
            ["git", "-c", "core.fsmonitor=false", "-C", str(folder), *arguments],
            capture_output=True,
            text=True,
            timeout=5,
            env=settings.child_environment({"GIT_OPTIONAL_LOCKS": "0", "LC_ALL": "C"}),
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
