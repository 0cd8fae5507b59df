"""Paths on disk → model sources: names, versions, kinds and `lagar.toml`; nothing is opened with a model library.

`survey` lists the places where a version should be, by their names alone; `source_at` reads what lies at one.

Names: `--name`, else `name` of lagar.toml, else the folder of `NAME/VERSION/` or `NAME-vVERSION/`, else the file's
stem; a file called `model.*` takes the name of its folder when it was given with one (`wine/model.joblib` is `wine`),
else it is `model`. Versions: `version` of lagar.toml, else the folder of `NAME/VERSION/` or `NAME-vVERSION/`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from pathlib import Path

import msgspec

from lagar.errors import SetupError, UnsafePickle, UnsupportedModel
from lagar.intake import folder as lagar_toml
from lagar.intake import mlmodel, mlserver, mlserver_server
from lagar.intake.allowlist import EXTRAS
from lagar.intake.sniff import MODEL_SUFFIXES, UNSUPPORTED_SUFFIXES, is_model_file, sniff, unsupported
from lagar.registry.model import ModelSource
from lagar.registry.versions import greatest, is_name, natural_key

_VERSION_FOLDER = re.compile(r"[vV]?\d+([._-][A-Za-z0-9]+)*")
_NAME_AND_VERSION = re.compile(r"(?P<name>[A-Za-z0-9][A-Za-z0-9._-]*?)-(?P<version>[vV]\d+([._-][A-Za-z0-9]+)*)")
_GENERIC_STEM = "model"
_LIBRARIES = frozenset(EXTRAS) | {"cloudpickle", "mlflow", "mlserver", "onnx", "onnxruntime", "skops", "threadpoolctl"}
"""What runtimes import: code of the user's in front of it would break them far from where it was given."""


class Place(msgspec.Struct, frozen=True):
    """Where one version should be: a model file, or the folder that is it."""

    path: Path
    name: str
    version: str = ""
    """What the path says; "" when it says none."""
    given: bool = False
    """True for a path that was given itself, false for what a given folder holds."""
    root: Path | None = None
    """The folder of MLServer that it was found in."""
    refusal: str = ""
    """Why it cannot be served, where looking for it has told."""


class Common(msgspec.Struct, frozen=True):
    """What the command line says about every path."""

    name: str | None = None
    code: tuple[str, ...] = ()
    example: str | None = None
    trust: bool = False


class FoundModels(msgspec.Struct, frozen=True):
    """What a server is to load."""

    sources: tuple[ModelSource, ...]
    live: dict[str, str]
    """Model → its greatest version in natural order: the one that answers when none is named."""
    skipped: tuple[str, ...] = ()
    """One line per file of a folder that looks like a model and is not served."""


def find_models(
    paths: list[Path],
    *,
    name: str | None = None,
    code: list[Path] | None = None,
    example: Path | None = None,
    trust: bool = False,
) -> FoundModels:
    """Every model version under the paths, with the live version of each model; a version without a label is "1".

    Raises SetupError (or a subclass) with one line that says which path, what is wrong and what to do.
    """
    common = common_of(name=name, code=code or (), example=example, trust=trust)
    places, skipped = survey(paths)
    sources = []
    for place in places:
        source = source_at(place, common)
        sources.append(msgspec.structs.replace(source, version=source.version or "1"))
    refuse_together(places, sources, common)
    names = {source.name for source in sources}
    live = {model: greatest(source.version for source in sources if source.name == model) for model in sorted(names)}
    ordered = sorted(sources, key=lambda source: (source.name, natural_key(source.version)))
    return FoundModels(tuple(ordered), live, skipped)


def common_of(*, name: str | None, code: Iterable[Path], example: Path | None, trust: bool) -> Common:
    """What was said about every path, with the files that it names looked for; raises SetupError."""
    if name is not None:
        _check_name("--name", name)
    return Common(
        name=name,
        code=tuple(str(_importable(_existing(path, "--code"))) for path in code),
        example=str(_existing(example, "--example")) if example is not None else None,
        trust=trust,
    )


def survey(paths: Iterable[Path]) -> tuple[tuple[Place, ...], tuple[str, ...]]:
    """The places under the paths, and a line for each file whose format is not served.

    Raises SetupError for a path that is not there, and for a folder without a model.
    """
    places: list[Place] = []
    skipped: list[str] = []
    for path in paths:
        places.extend(places_at(path.expanduser().absolute(), skipped))
    if not places:
        raise SetupError("no model was given; name a model file or a folder: lagar serve model.joblib")
    return tuple(places), tuple(skipped)


def source_at(place: Place, common: Common) -> ModelSource:
    """What lies at a place; its `version` is "" where neither the path nor lagar.toml says one. Raises SetupError."""
    try:
        if place.refusal:
            raise SetupError(place.refusal)
        if place.root is not None:
            return _settled(place, place.root, common)
        if place.path.is_file():
            return _file(place.path, common, place)
        if _is_model_folder(place.path):
            return _model_folder(place.path, common, place)
        return _file(_only_file(place.path), common, place)
    except PermissionError as error:
        raise SetupError(f"{place.path} cannot be read: {error.strerror}: {error.filename}") from None


def refuse_together(places: Iterable[Place], sources: Iterable[ModelSource], common: Common) -> None:
    """Raise SetupError when what was found cannot be served by one server with what was said about it."""
    sources = list(sources)
    if common.name is not None:
        names = {_own_name(place) for place in places}
        if len(names) > 1:
            raise SetupError(f"--name names one model, and {len(names)} were found: {', '.join(sorted(names))}")
    seen: dict[tuple[str, str], ModelSource] = {}
    for source in sources:
        other = seen.setdefault((source.name, source.version), source)
        if other is not source:
            label = f"{source.name}@{source.version}" if source.version else source.name
            raise SetupError(
                f"{other.path} and {source.path} are both {label}; give them other names, or folders NAME/VERSION/"
            )
    names = {source.name for source in sources}
    if common.example is not None and len(names) > 1:
        raise SetupError(f"--example belongs to one model, and {len(names)} were found: {', '.join(sorted(names))}")


def _own_name(place: Place) -> str:
    toml = place.path / lagar_toml.NAME
    return (lagar_toml.read(place.path).name if toml.is_file() else None) or place.name


def _existing(path: Path, flag: str) -> Path:
    path = path.expanduser().absolute()
    if not path.exists():
        raise SetupError(f"{flag} {path}: no such file or folder")
    return path


def _importable(path: Path) -> Path:
    """A file of --code that a pickle can name; a folder may hold anything beside it."""
    if path.suffix == ".py" and not path.stem.isidentifier():
        raise SetupError(
            f"--code {path}: no pickle can import a module of this name; call it as the training script imports it"
        )
    if path.suffix == ".py" and path.stem in _LIBRARIES:
        raise SetupError(f"--code {path} would hide the library {path.stem!r}; give the file another name")
    return path


def places_at(path: Path, skipped: list[str]) -> list[Place]:
    """The places at or under one path; raises SetupError where there is none."""
    try:
        if path.is_dir():
            return _in_folder(path, skipped)
        if path.is_file():
            given_in_folder = is_name(path.parent.name)
            name = path.parent.name if path.stem == _GENERIC_STEM and given_in_folder else path.stem
            return [Place(path, name, given=True)]
    except PermissionError as error:
        raise SetupError(f"{path} cannot be read: {error.strerror}: {error.filename}") from None
    if path.exists():
        raise SetupError(f"{path} is a pipe, a socket or a device; a model is a file or a folder")
    raise SetupError(f"{path}: no such file or folder")


def _in_folder(folder: Path, skipped: list[str]) -> list[Place]:
    """A folder that is a model, a model with versions, or a folder of models."""
    if not (folder / lagar_toml.NAME).is_file() and mlserver_server.is_folder(folder):
        return _in_mlserver_folder(folder, skipped)
    if _is_model_folder(folder):
        return [_named(folder, given=True)]
    if (folder / "saved_model.pb").exists():
        raise UnsupportedModel(
            f"{folder} is a TensorFlow SavedModel, which Lagar does not serve; convert it: "
            f"python -m tf2onnx.convert --saved-model {folder.name} --output model.onnx"
        )
    places: list[Place] = []
    for child in _folders(folder):
        places.extend(_child(folder, child))
    files, refused = _files(folder)
    if len(files) == 1 and files[0].stem == _GENERIC_STEM and not places:
        named = _named(folder, given=True)
        places.append(msgspec.structs.replace(named, path=files[0]))
    else:
        places.extend(Place(file, file.stem) for file in files)
    if not places:
        if refused:
            sniff(refused[0])  # says by name what the file is
            raise unsupported(f"a {refused[0].suffix} file", refused[0])
        raise SetupError(
            f"{folder} holds no model: expected a model file ({' '.join(sorted(MODEL_SUFFIXES))}), a lagar.toml, "
            "an MLmodel, or folders NAME/VERSION/ with one of them"
        )
    skipped.extend(f"{path} is not served: {path.suffix} is not supported" for path in refused)
    return places


def _in_mlserver_folder(folder: Path, skipped: list[str]) -> list[Place]:
    """What MLServer would find in a folder: models with a settings file, at any depth, and nothing else."""
    skipped.extend(mlserver_server.unheard(folder))
    root = mlserver_server.root_of(folder)
    found = mlserver.places(root, skipped)
    alone = len(found) == 1 and found[0].folder == folder
    return [Place(one.folder, one.name, one.version, alone, root, one.refusal) for one in found]


def is_bare(path: Path) -> bool:
    """Whether a path is a folder with neither a model nor a file of a format that is refused: one may be put there."""
    if not path.is_dir() or _is_model_folder(path) or (path / "saved_model.pb").exists():
        return False
    return not any(_files(path)) and not any(_child(path, child) for child in _folders(path))


def _child(parent: Path, child: Path) -> list[Place]:
    """A folder inside a folder of models: NAME with a model or with VERSIONs in it, or a VERSION of its parent."""
    if _holds_model(child):
        if _VERSION_FOLDER.fullmatch(child.name):
            return [Place(child, parent.name, child.name)]
        return [_named(child)]
    return [Place(version, child.name, version.name) for version in _folders(child) if _holds_model(version)]


def _named(folder: Path, *, given: bool = False) -> Place:
    """The place of a folder that is one model, called NAME or NAME-v1.0.1."""
    both = _NAME_AND_VERSION.fullmatch(folder.name)
    if both is None:
        return Place(folder, folder.name, given=given)
    return Place(folder, both["name"], both["version"], given)


def _is_model_folder(folder: Path) -> bool:
    return (folder / lagar_toml.NAME).is_file() or (folder / mlmodel.NAME).is_file()


def _holds_model(folder: Path) -> bool:
    return _is_model_folder(folder) or bool(_files(folder)[0])


def _folders(folder: Path) -> list[Path]:
    return sorted(child for child in folder.iterdir() if child.is_dir() and child.name[0] not in "._")


def _files(folder: Path) -> tuple[list[Path], list[Path]]:
    """The model files of a folder, and the files that look like models of formats that are refused."""
    files = sorted(child for child in folder.iterdir() if child.is_file() and not child.name.startswith("."))
    return [file for file in files if is_model_file(file)], [
        file for file in files if file.suffix.lower() in UNSUPPORTED_SUFFIXES
    ]


def _only_file(folder: Path) -> Path:
    """The one model file of a folder; of several, the one called `model`."""
    files = _files(folder)[0]
    if not files:
        refused = _files(folder)[1]
        if refused:
            sniff(refused[0])
        raise SetupError(f'{folder} holds no model file; name it in {lagar_toml.NAME}: model = "FILE"')
    generic = [file for file in files if file.stem == _GENERIC_STEM]
    if len(files) > 1 and len(generic) != 1:
        names = ", ".join(file.name for file in files)
        raise SetupError(
            f'{folder} holds {len(files)} model files ({names}); name one in {lagar_toml.NAME}: model = "…"'
        )
    return generic[0] if len(files) > 1 else files[0]


def _settled(place: Place, root: Path, common: Common) -> ModelSource:
    """What the settings of MLServer at a place make a version of."""
    found = mlserver.read(place.path, root)
    facts = {mlserver.OPTION: msgspec.to_builtins(found.facts)}
    source = ModelSource(
        name=_name(place, common, found.name),
        version=_version(place.path / mlserver.NAME, found.facts.version),
        path=str(found.path),
        kind=found.kind,
        code=common.code + found.code,
        class_name=found.class_name,
        options=facts,
        example=common.example,
        trust=common.trust,
    )
    if found.kind == "mlserver":
        return msgspec.structs.replace(source, folder=str(found.folder))
    if found.kind == "mlflow":
        return _with_mlflow(source, found.path)
    kind = sniff(found.path)
    if kind.kind != found.kind:
        raise SetupError(
            f"{place.path / mlserver.NAME}: implementation is {found.facts.implementation}, and {found.path.name} is a "
            f"model of {kind.kind}"
        )
    return msgspec.structs.replace(source, pickled=kind.pickled, sha256=_sha256(found.path))


def _file(path: Path, common: Common, place: Place) -> ModelSource:
    kind = sniff(path)
    return ModelSource(
        name=_name(place, common, place.name),
        version=_version(path, place.version),
        path=str(path),
        kind=kind.kind,
        pickled=kind.pickled,
        code=common.code,
        example=common.example,
        trust=common.trust,
        sha256=_sha256(path),
    )


def _model_folder(folder: Path, common: Common, place: Place) -> ModelSource:
    toml = folder / lagar_toml.NAME
    content = lagar_toml.read(folder) if toml.is_file() else lagar_toml.LagarToml()
    if content.version is not None and place.version and content.version != place.version:
        raise SetupError(
            f"{toml} says version {content.version!r} and lies in the folder {folder.name!r}; let them agree"
        )
    source = ModelSource(
        name=_name(place, common, content.name or place.name),
        version=_version(folder, content.version or place.version),
        path=str(folder),
        kind="custom",
        folder=str(folder) if toml.is_file() else None,
        code=common.code + tuple(str(_inside(toml, folder, code, "code")) for code in content.code),
        handlers=_handlers(toml, folder, content),
        class_name=content.class_name,
        field_rules=lagar_toml.rules(content, toml),
        options={"extra_fields": content.extra_fields} if content.extra_fields else {},
        example=common.example or (str(_inside(toml, folder, content.example, "example")) if content.example else None),
        trust=common.trust,
    )
    return _with_model(source, content, toml, folder)


def _with_model(source: ModelSource, content: lagar_toml.LagarToml, toml: Path, folder: Path) -> ModelSource:
    """The source with what is to be loaded: a class, an MLflow folder or a file."""
    given = _inside(toml, folder, content.model, "model") if content.model else None
    if content.class_name is not None:
        if not re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", content.class_name):
            raise SetupError(f'{toml}: class is "module:Class", got {content.class_name!r}')
        path = given or folder
        code = (*source.code, str(folder))
        return msgspec.structs.replace(
            source, path=str(path), code=code, sha256=_sha256(path) if path.is_file() else ""
        )
    mlflow_folder = given if given is not None and given.is_dir() else folder
    if (mlflow_folder / mlmodel.NAME).is_file() and (given is None or given.is_dir()):
        return _with_mlflow(source, mlflow_folder)
    path = given or _only_file(folder)
    if path.is_dir():
        raise SetupError(
            f"{toml}: model = {content.model!r} is a folder without an {mlmodel.NAME} file; name the model file"
        )
    kind = sniff(path)
    return msgspec.structs.replace(source, kind=kind.kind, path=str(path), pickled=kind.pickled, sha256=_sha256(path))


def _with_mlflow(source: ModelSource, folder: Path) -> ModelSource:
    """The source with what an MLflow folder holds."""
    found = mlmodel.read(folder)
    if found.flavour == "pyfunc" and not source.trust:
        raise UnsafePickle(
            f"{folder} has no native flavour: mlflow itself opens it, which runs the code and the pickles that came "
            "with it. If you know where it comes from: --trust"
        )
    return msgspec.structs.replace(
        source,
        kind="pyfunc" if found.flavour == "pyfunc" else "mlflow",
        path=str(folder),
        pickled=found.pickled,
        sha256=_sha256(found.data),
    )


def _handlers(toml: Path, folder: Path, content: lagar_toml.LagarToml) -> str | None:
    if content.handlers is not None:
        return str(_inside(toml, folder, content.handlers, "handlers"))
    default = folder / "handlers.py"
    return str(default) if toml.is_file() and default.is_file() else None


def _inside(toml: Path, folder: Path, text: str, key: str) -> Path:
    path = (folder / text).absolute()
    if not path.exists():
        raise SetupError(f"{toml}: {key} = {text!r}, and {path} does not exist")
    return path


def _name(place: Place, common: Common, name: str) -> str:
    return common.name or _check_name(str(place.path), name)


def _check_name(where: str, name: str) -> str:
    if not is_name(name):
        raise SetupError(
            f"{where}: a model's name has 1 to 100 of the characters A-Z a-z 0-9 . _ - and begins with a letter or "
            f"digit, got {name!r}; give one with --name"
        )
    return name


def _version(path: Path, version: str) -> str:
    if version and not is_name(version):
        raise SetupError(
            f"{path}: a version has 1 to 100 of the characters A-Z a-z 0-9 . _ - and begins with a letter or digit, "
            f"got {version!r}"
        )
    return version


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise SetupError(f"{path} cannot be read: {error.strerror or error}") from None
