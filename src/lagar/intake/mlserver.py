"""MLServer's model folders: `model-settings.json` at any depth, or one model by `MLSERVER_MODEL_*` variables alone.

What a settings file says becomes the facts of a version: `options["mlserver"]` of its source, which the protocols, the
documentation and a custom runtime read. Nothing is opened here but the settings.
"""

from __future__ import annotations

import ast
import os
import re
import shutil
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

import msgspec

from lagar import settings
from lagar.errors import SetupError, UnsupportedModel
from lagar.intake.mlserver_fields import Fields, read_json, variables_of
from lagar.registry.model import Kind
from lagar.registry.signature import Tensor

NAME: Final = "model-settings.json"
OPTION: Final = "mlserver"
"""The key of a source's options under which the facts of the settings file stand."""
MAX_FOLDERS: Final = 10_000
"""More folders than this under one path are not looked at."""

_BUILT_IN: Final[dict[str, tuple[Kind, tuple[str, ...]]]] = {
    "SKLearnModel": ("sklearn", ("model.joblib", "model.pickle", "model.pkl")),
    "XGBoostModel": ("xgboost", ("model.bst", "model.json", "model.ubj")),
    "LightGBMModel": ("lightgbm", ("model.bst",)),
    "CatboostModel": ("catboost", ("model.cbm", "model.bin")),
    "MLflowRuntime": ("mlflow", ()),
}
_PACKAGES: Final = {
    f"mlserver_{package}.{part}{name}": name
    for package, name, inner in (
        ("sklearn", "SKLearnModel", "sklearn"),
        ("xgboost", "XGBoostModel", "xgboost"),
        ("lightgbm", "LightGBMModel", "lightgbm"),
        ("catboost", "CatboostModel", "catboost"),
        ("mlflow", "MLflowRuntime", "runtime"),
    )
    for part in ("", f"{inner}.")
} | {"mlserver.models.SKLearnModel": "SKLearnModel", "mlserver.models.XGBoostModel": "XGBoostModel"}
"""Every name under which MLServer finds its own runtimes → the class."""
_REFUSED: Final = {
    "mlserver_huggingface": "a Hugging Face pipeline; wrap it in a class of your own (lagar.toml: class), or export it "
    "to ONNX with optimum and serve the .onnx file",
    "mlserver_alibi_detect": "an alibi-detect detector; watch inputs with `lagar monitor`, or wrap the detector in a "
    "class of your own (lagar.toml: class)",
    "mlserver_alibi_explain": "an alibi explainer; wrap it in a class of your own (lagar.toml: class)",
    "mlserver_mllib": "a Spark MLlib model; export it to ONNX with onnxmltools and serve the .onnx file",
}
_CONTENT_TYPES: Final = ("np", "pd", "str", "base64", "datetime", "pd_json", "dict")
_PATH: Final = re.compile(r"[A-Za-z_][\w-]*(\.[A-Za-z_][\w-]*)*\.[A-Za-z_]\w*")
_SKIPPED: Final = {"__pycache__", "node_modules"}
_MODEL: Final = (
    "name", "implementation", "implementation_", "platform", "versions", "inputs", "outputs", "parallel_workers",
    "warm_workers", "max_batch_size", "max_batch_time", "cache_enabled", "parameters",
)  # fmt: skip
_PARAMETERS: Final = (
    "uri", "version", "environment_path", "environment_tarball", "inference_pool_gid",
    "autogenerate_inference_pool_gid", "format", "content_type", "extra",
)  # fmt: skip
_SILENT: Final = {
    "parallel_workers": "MLServer has it in settings.json now; `lagar serve --workers` too",
    "cache_enabled": "every answer is computed",
}
_SILENT_PARAMETERS: Final = {
    "inference_pool_gid": "a model that must not share a process gets its own",
    "autogenerate_inference_pool_gid": "a model that must not share a process gets its own",
}
_ENVIRONMENT: Final = (
    "put its requirements.txt beside the model, and `lagar push --requirements` makes the environment from it: "
    "docs/environments.md"
)


class Facts(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a model's settings say beside its name and files."""

    implementation: str
    version: str = ""
    uri: str = ""
    """Relative to the settings file; "" for its folder."""
    platform: str = ""
    versions: tuple[str, ...] = ()
    inputs: tuple[Tensor, ...] = ()
    outputs: tuple[Tensor, ...] = ()
    content_type: str = ""
    """Of whole requests that name none."""
    max_batch_size: int = 0
    max_batch_time: float = 0.0
    extra: dict[str, Any] = {}
    others: dict[str, Any] = {}
    """Further parameters, for a custom runtime."""

    @property
    def predict_fn(self) -> str:
        """The output that answers when none is asked for; "" for the runtime's own."""
        return str(self.extra.get("predict_fn") or "")


class Settled(msgspec.Struct, frozen=True):
    """A folder with a settings file: what a version is made of."""

    folder: Path
    name: str
    facts: Facts
    kind: Kind
    """The word "mlserver" for a custom runtime."""
    path: Path
    """The model file; the folder of an MLflow model or of a custom runtime."""
    class_name: str | None = None
    code: tuple[str, ...] = ()


class Place(msgspec.Struct, frozen=True):
    """A folder with a settings file, before its model is looked at."""

    folder: Path
    name: str
    version: str
    refusal: str = ""
    """Why it cannot be served, where its settings alone tell."""


def facts_of(options: dict[str, Any]) -> Facts | None:
    """The facts in the options of a source; None where it came from no MLServer folder."""
    found = options.get(OPTION)
    return None if found is None else msgspec.convert(found, Facts)


def said_version(options: dict[str, Any]) -> str:
    """The label that a settings file gives its model; "" for none, and for a source of another kind."""
    found = options.get(OPTION)
    return "" if found is None else str(found.get("version", ""))


def is_folder(folder: Path) -> bool:
    """Whether MLServer would find a model in a folder."""
    return next(_settings_files(folder), None) is not None or _named_by_variables(folder)


def places(folder: Path, skipped: list[str]) -> list[Place]:
    """Every model of a folder, and in `skipped` a line for each word of a settings file that says nothing."""
    files = list(_settings_files(folder))
    found: list[Place] = []
    taken: dict[tuple[str, str], Path] = {}
    for where in [file.parent for file in files] or [folder]:
        try:
            place = _place(where, folder, skipped)
        except SetupError as error:
            place = Place(where, where.name, "", error.message)
        other = taken.setdefault((place.name, place.version), where)
        if other is not where and not place.refusal:
            label = f"{place.name}@{place.version}" if place.version else place.name
            why = f"{where / NAME} and {other / NAME} are both {label}; give them other names or versions"
            place = msgspec.structs.replace(place, refusal=why)
        found.append(place)
    return found


def read(folder: Path, root: Path) -> Settled:
    """What the settings in a folder say; `root` is the folder that is served. Raises SetupError."""
    model, parameters = _fields(folder, root)
    facts = _facts(folder, model, parameters)
    name = model.text("name") or folder.name
    _refuse(model, parameters)
    built_in = _PACKAGES.get(facts.implementation)
    if built_in is None:
        class_name, code = _custom(facts.implementation, folder, root)
        if facts.uri:
            _inside(folder, facts.uri)
        return Settled(folder, name, facts, "mlserver", folder, class_name, code)
    _refuse_content_types(folder, facts)
    kind, files = _BUILT_IN[built_in]
    code = _beside(folder) if kind == "sklearn" else ()
    return Settled(folder, name, facts, kind, _artifact(folder, facts, kind, files), code=code)


# Settings.


def _settings_files(folder: Path) -> Iterator[Path]:
    been: set[tuple[int, int]] = set()
    for seen, (where, folders, files) in enumerate(os.walk(folder, followlinks=True)):  # as MLServer's glob does
        try:
            here = os.stat(where)
        except OSError:  # it has just gone
            continue
        if (here.st_dev, here.st_ino) in been:  # a link to where the walk has been, or is
            folders.clear()
            continue
        been.add((here.st_dev, here.st_ino))
        folders[:] = sorted(name for name in folders if name[0] != "." and name not in _SKIPPED)
        if NAME in files:
            yield Path(where) / NAME
        if seen >= MAX_FOLDERS:
            return


def _named_by_variables(folder: Path) -> bool:
    try:
        return bool(_variables(folder).get("mlserver_model_implementation"))
    except SetupError:  # a .env that is not text may be anybody's
        return False


def _variables(root: Path) -> dict[str, str]:
    return variables_of(root, settings.mlserver_variables())


def _fields(folder: Path, root: Path) -> tuple[Fields, Fields]:
    """The fields of a model, and its parameters."""
    path, variables = folder / NAME, _variables(root)
    content = read_json(path) if path.is_file() else {}
    model = Fields(path, content, variables, "mlserver_model_")
    parameters = content.get("parameters")
    if parameters is not None and not isinstance(parameters, dict):
        raise SetupError(f"{path}: parameters must be an object, got {parameters!r}")
    return model, Fields(path, parameters or {}, variables, "mlserver_model_")


def _place(folder: Path, root: Path, skipped: list[str]) -> Place:
    model, parameters = _fields(folder, root)
    skipped.extend(model.unknown(_MODEL) + model.silent(_SILENT) + parameters.silent(_SILENT_PARAMETERS))
    return Place(folder, model.text("name") or folder.name, parameters.text("version"))


def _facts(folder: Path, model: Fields, parameters: Fields) -> Facts:
    implementation = model.text("implementation") or model.text("implementation_")
    if not implementation:
        raise SetupError(
            f"{folder / NAME}: implementation is missing; name the runtime, such as "
            '"mlserver_sklearn.SKLearnModel", or your class, "module.Class"'
        )
    return Facts(
        implementation=implementation,
        version=parameters.text("version"),
        uri=parameters.text("uri"),
        platform=model.text("platform"),
        versions=tuple(map(str, model.listed("versions"))),
        inputs=_tensors(model, "inputs"),
        outputs=_tensors(model, "outputs"),
        content_type=parameters.text("content_type"),
        max_batch_size=model.whole("max_batch_size"),
        max_batch_time=model.number("max_batch_time"),
        extra=parameters.table("extra"),
        others=_others(model, parameters),
    )


def _others(model: Fields, parameters: Fields) -> dict[str, Any]:
    """Parameters of the person's own, and MLServer's that only a custom runtime may look at."""
    known = {name: parameters.text(name) for name in ("format", "inference_pool_gid") if parameters.given(name)}
    own = {name: value for name, value in model.table("parameters").items() if name not in _PARAMETERS}
    return own | known


def _tensors(model: Fields, key: str) -> tuple[Tensor, ...]:
    found = []
    for position, given in enumerate(model.listed(key)):
        try:
            name, datatype, shape = str(given["name"]), str(given["datatype"]), tuple(map(int, given["shape"]))
        except (TypeError, KeyError, ValueError):
            raise SetupError(
                f"{model.origin(key)}: {key}[{position}] must have a name, a datatype and a shape of whole numbers, "
                f"got {given!r}"
            ) from None
        tags = given.get("parameters") or given.get("tags") or {}
        found.append(Tensor(name, datatype, shape, str(tags.get("content_type") or "")))
    return tuple(found)


def _refuse(model: Fields, parameters: Fields) -> None:
    """Raise SetupError for what is said and cannot be honoured; check the types of what says nothing here."""
    parameters.refuse("environment_tarball", _ENVIRONMENT)
    parameters.refuse("environment_path", _ENVIRONMENT)
    parameters.boolean("autogenerate_inference_pool_gid")
    model.boolean("warm_workers")
    model.boolean("cache_enabled")
    model.whole("parallel_workers")


def _refuse_content_types(folder: Path, facts: Facts) -> None:
    """Raise SetupError for a content type that only a codec of one's own could know."""
    named = {tensor.name: tensor.content_type for tensor in (*facts.inputs, *facts.outputs)}
    for owner, content_type in {"parameters": facts.content_type, **named}.items():
        if content_type and content_type not in _CONTENT_TYPES:
            raise SetupError(
                f"{folder / NAME}: content_type {content_type!r} of {owner} is not known; there are "
                f"{', '.join(_CONTENT_TYPES)}"
            )


# Files.


def _artifact(folder: Path, facts: Facts, kind: Kind, files: tuple[str, ...]) -> Path:
    """The file or folder that a runtime of MLServer's own opens; raises SetupError."""
    path = _resolved(folder, facts)
    if kind == "mlflow":
        if not (path / "MLmodel").is_file():
            raise SetupError(f"{folder / NAME}: parameters.uri leads to {path}, where no MLmodel file is")
        return path
    if path.is_dir():
        known = [path / name for name in files]
        found = next((file for file in known if file.is_file()), None)
        if found is None:
            raise SetupError(
                f"{folder / NAME} names no model file, and {path} has none of {', '.join(files)}; name it: "
                '"parameters": {"uri": "./FILE"}'
            )
        return found
    if not path.is_file():
        raise SetupError(f"{folder / NAME}: parameters.uri = {facts.uri!r}, and {path} does not exist")
    return path


def _resolved(folder: Path, facts: Facts) -> Path:
    if "://" in facts.uri or re.match(r"(models|runs|mlflow-artifacts):/", facts.uri):
        what = "`lagar import mlflow` fetches it" if facts.uri.startswith("models:/") else "fetch it to the folder"
        raise SetupError(f"{folder / NAME}: parameters.uri = {facts.uri!r} is no path on this machine; {what}")
    return Path(os.path.normpath(folder / facts.uri)) if facts.uri else folder


def _inside(folder: Path, uri: str) -> None:
    path = Path(os.path.normpath(folder / uri))
    if "://" not in uri and not path.is_relative_to(folder):
        raise SetupError(
            f"{folder / NAME}: parameters.uri = {uri!r} lies outside of {folder}; a version is made of the folder "
            "alone, so put it there"
        )


def _beside(folder: Path) -> tuple[str, ...]:
    """Modules beside a pickled model, which it may need; those with the name of one of Python's own are none."""
    files = sorted(folder.glob("*.py"))
    packages = sorted(init.parent for init in folder.glob("*/__init__.py"))
    return tuple(str(path) for path in (*files, *packages) if _is_module(path.stem))


def _is_module(name: str) -> bool:
    return name.isidentifier() and not name.startswith("__") and name not in sys.stdlib_module_names


# Custom runtimes.


def _custom(implementation: str, folder: Path, root: Path) -> tuple[str, tuple[str, ...]]:
    """`module:Class` and the code that it needs: the model's folder, modules of the served one. Raises SetupError."""
    where, top = folder / NAME, implementation.partition(".")[0]
    if top in _REFUSED:
        raise UnsupportedModel(f"{where}: implementation {implementation} is {_REFUSED[top]}")
    if top == "mlserver" or top.startswith("mlserver_"):
        known = ", ".join(name for name in _PACKAGES if name.count(".") == 1)
        raise UnsupportedModel(f"{where}: implementation {implementation} is none that Lagar serves: {known}")
    if not _PATH.fullmatch(implementation):
        raise SetupError(f'{where}: implementation must be "module.Class", got {implementation!r}')
    module, _, name = implementation.rpartition(".")
    own = _module(folder, top)
    shared = None if own is not None else _module(root, top)
    if own is None and shared is None:
        raise SetupError(
            f"{where}: implementation {implementation} needs {top}.py or a package {top}, and neither {folder} nor "
            f"{root} has it"
        )
    start = list(folder.glob("*.py")) + list(folder.glob("*/*.py")) + _files(shared)
    needed = dict.fromkeys([*([shared] if shared is not None else []), *_imported(start, folder, root)])
    return f"{module}:{name}", (*map(str, needed), str(folder))


def _module(folder: Path, name: str) -> Path | None:
    file, package = folder / f"{name}.py", folder / name
    return file if file.is_file() else package if package.is_dir() and any(package.glob("*.py")) else None


def _files(path: Path | None) -> list[Path]:
    return [] if path is None else [path] if path.is_file() else list(path.rglob("*.py"))


def _imported(start: Iterable[Path], folder: Path, root: Path) -> Iterator[Path]:
    """Modules of the served folder that code imports, and what they import: MLServer has it on its path."""
    if folder == root:
        return
    waiting, seen = list(start), set[str]()
    while waiting:
        for name in _names(waiting.pop()):
            if name in seen or not _is_module(name) or _module(folder, name) is not None:
                continue
            seen.add(name)
            found = _module(root, name)
            if found is not None:
                yield found
                waiting += _files(found)


def _names(file: Path) -> Iterator[str]:
    """The top-level modules that a file imports."""
    try:
        tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError, OSError):
        return  # importing it says so
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.partition(".")[0]


# A folder of its own.


def gather(settled: Settled, root: Path, into: Path) -> Path:
    """A folder below `into` with all that a model needs: what may be pushed to a server that has nothing of it.

    What lies in the model's folder keeps its place, so that it is the same version wherever it is taken in.
    """
    folder = into / settled.name
    uri = settled.facts.uri
    if settled.kind == "mlserver":
        _copy(settled.folder, folder)
    elif settled.path.is_relative_to(settled.folder):
        _copy(settled.path, folder / settled.path.relative_to(settled.folder))
    else:
        uri = f"./{settled.path.name}"
        _copy(settled.path, folder / settled.path.name)
    for text in settled.code:
        path = Path(text)
        if path != settled.folder:
            _copy(path, folder / path.name)
    file = settled.folder / NAME
    if uri == settled.facts.uri and file.is_file() and not _fills_in(root):
        _copy(file, folder / NAME)
    else:
        document = _document(settled.name, msgspec.structs.replace(settled.facts, uri=uri))
        (folder / NAME).write_bytes(msgspec.json.format(msgspec.json.encode(document)))
    return folder


def _fills_in(root: Path) -> bool:
    """Whether variables say something of models."""
    return any(name.startswith("mlserver_model_") for name in _variables(root))


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns(".*", *_SKIPPED, "*.pyc"), dirs_exist_ok=True)
    else:
        shutil.copyfile(source, target)


def _document(name: str, facts: Facts) -> dict[str, Any]:
    """The settings file that says the same, whatever variables are set."""
    said = {"uri": facts.uri, "version": facts.version, "content_type": facts.content_type, "extra": facts.extra}
    parameters = {key: value for key, value in said.items() if value} | facts.others
    return {
        "name": name,
        "implementation": facts.implementation,
        "platform": facts.platform,
        "versions": facts.versions,
        "inputs": [_described(tensor) for tensor in facts.inputs],
        "outputs": [_described(tensor) for tensor in facts.outputs],
        "max_batch_size": facts.max_batch_size,
        "max_batch_time": facts.max_batch_time,
        "parameters": parameters,
    }


def _described(tensor: Tensor) -> dict[str, Any]:
    parameters = {"content_type": tensor.content_type} if tensor.content_type else {}
    return {"name": tensor.name, "datatype": tensor.datatype, "shape": tensor.shape, "parameters": parameters}
