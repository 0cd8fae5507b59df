"""The libraries of a version: what its model imported as one hashed lock, and the user's own list of requirements.

`read` takes requirements.txt, Pipfile, Pipfile.lock, pyproject.toml with the lock beside it (uv.lock, poetry.lock),
conda.yaml and python_env.yaml, and gives requirement lines that any installer of Python packages takes.
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
from packaging.markers import Marker
from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.utils import canonicalize_name

from lagar import settings
from lagar.errors import MissingLibrary, SetupError

FILE: Final = "lock.txt"
UV_TIMEOUT_S: Final = 20.0
_MAX_BYTES: Final = 32 * 1024**2
_MAX_INCLUDES: Final = 20
_BUILD_TOOLS: Final = frozenset({"pip", "setuptools", "wheel"})
_FROM_CONDA: Final = {
    "pytorch": "torch", "pytorch-cpu": "torch", "py-xgboost": "xgboost", "py-xgboost-cpu": "xgboost-cpu",
    "matplotlib-base": "matplotlib", "msgpack-python": "msgpack", "pytables": "tables", "dask-core": "dask",
    "opencv": "opencv-python-headless", "tensorflow-base": "tensorflow", "seaborn-base": "seaborn",
    "pandas-base": "pandas", "scikit-learn-intelex": "scikit-learn-intelex", "skl2onnx": "skl2onnx",
    "python-flatbuffers": "flatbuffers", "ipython_genutils": "ipython-genutils", "pyarrow-core": "pyarrow",
    "numpy-base": "numpy", "snappy-python": "python-snappy", "python-xxhash": "xxhash", "py-lightgbm": "lightgbm",
}  # fmt: skip
"""Conda's name → PyPI's, where they are not the same."""
_CONDA_ONLY: Final = re.compile(
    r"lib(?!cst$|sass$|rosa$|rt$)[\w.+-]*|_[\w.-]+|r-[\w.-]+|cuda[\w.-]*|cudnn|nccl|blas|openblas|liblas|mkl_?\w*"
    r"|openssl|ca-certificates|gcc[\w-]*|gxx[\w-]*|clang[\w-]*|compilers|binutils[\w-]*|llvm-openmp|intel-openmp|ncurses"
    r"|readline|sqlite|tk|xz|zlib|bzip2|zstd|lz4-c|openjdk|nodejs|git|make|graphviz|ld_impl[\w-]*|tzdata|krb5|arrow-cpp"
    r"|snappy|re2|icu|perl|nspr|nss|glib|gmp|mpfr|mpc|pcre2?|jpeg|libpng|freetype|sysroot[\w-]*|kernel-headers[\w-]*"
)
"""Conda packages that are no Python packages: tools, and libraries of C."""


class Requirements(msgspec.Struct, frozen=True):
    """What a version's environment must hold."""

    lines: tuple[str, ...]
    """One requirement each, as pip takes them; markers that are false here are left out with their lines."""
    source: str
    """Name of the file they come from."""
    python: str | None = None
    """A version specifier, like ==3.10.*"""


class Lock(msgspec.Struct, frozen=True):
    """The text of a lock file, and what to say about it."""

    text: str
    words: str
    hashed: bool


def unmet(requirements: Requirements, installed: Mapping[str, str], python: str) -> tuple[str, ...]:
    """What of the requirements an environment does not meet, each with what is there; () when it meets all.

    `installed`: distribution → version; `python`: its version.
    """
    here = {canonicalize_name(name): version for name, version in installed.items()}
    wrong: list[str] = []
    if requirements.python is not None and python not in SpecifierSet(requirements.python, prereleases=True):
        wrong.append(f"Python{requirements.python} (this is {python})")
    for line in requirements.lines:
        wanted = Requirement(line)
        version = here.get(canonicalize_name(wanted.name))
        if wanted.url is not None:
            wrong.append(f"{wanted.name} from an address")
        elif version is None:
            wrong.append(f"{wanted.name}{wanted.specifier} (not installed)")
        elif not wanted.specifier.contains(version, prereleases=True):
            wrong.append(f"{wanted.name}{wanted.specifier} (installed is {version})")
    return tuple(wrong)


# The lock of what was imported.


def compiled(
    imported: Mapping[str, str],
    installed: Mapping[str, str],
    local: Sequence[str],
    python: str | None = None,
    uv: str | None = None,
) -> Lock:
    """A lock of the imported distributions and what they need, at the installed versions, with hashes.

    `local` are imported ones that no index has; they are named in the lock as comments. `python`: the interpreter it
    is for. Without uv, or where the index does not answer, versions only; `words` says why.
    """
    wanted = [f"{name}=={version}" for name, version in imported.items() if name not in local]
    head = "".join(f"# {name} {imported[name]} was installed from a folder or an address\n" for name in local)
    if not wanted:
        return Lock(f"{head}# nothing but Lagar's own libraries\n", "no libraries beside Lagar's own", True)
    command = uv or uv_command()
    why = "uv is not installed"
    if command is not None:
        pins = [f"{name}=={version}" for name, version in installed.items()]
        text, why = _uv_compile(command, wanted, pins, python or sys.executable)
        if text is not None:
            return of_environment(head + text)
    head += f"# versions without hashes: {why}\n"
    return Lock(head + "".join(f"{line}\n" for line in wanted), f"{len(wanted)} versions without hashes: {why}", False)


def of_environment(text: str) -> Lock:
    """The lock that an environment of its own was installed of."""
    count = len(re.findall(r"^[A-Za-z0-9]", text, re.MULTILINE))
    hashed = "--hash=" in text
    return Lock(text, f"{count} libraries with{' their' if hashed else 'out'} hashes", hashed)


def uv_command() -> str | None:
    """The uv beside this Python, else the one on the PATH; None where there is none."""
    beside = Path(sys.executable).with_name("uv")
    return str(beside) if beside.is_file() else shutil.which("uv")


def _uv_compile(uv: str, wanted: Sequence[str], pins: Sequence[str], python: str) -> tuple[str | None, str]:
    """The compiled text, or None and why: what the cache has is tried before the index."""
    import tempfile

    with tempfile.TemporaryDirectory(prefix="lagar-lock-") as folder:
        constraints = Path(folder) / "constraints.txt"
        constraints.write_text("\n".join(pins))
        command = [uv, "pip", "compile", "-", "--constraint", str(constraints), "--generate-hashes", "--no-header",
                   "--no-annotate", "--quiet", "--no-config", "--python", python]  # fmt: skip
        why = ""
        for extra in (["--offline"], []):
            try:
                done = subprocess.run(
                    command + extra,
                    input="\n".join(wanted),
                    capture_output=True,
                    text=True,
                    timeout=UV_TIMEOUT_S,
                    cwd=folder,
                    env=settings.child_environment({"UV_NO_PROGRESS": "1", "NO_COLOR": "1"}),
                    check=False,
                )
            except (OSError, subprocess.TimeoutExpired) as error:
                return None, f"uv did not answer: {type(error).__name__}"
            if done.returncode == 0 and "--hash=" in done.stdout:
                return done.stdout, ""
            why = " ".join(done.stderr.split())[:300] or f"uv gave exit code {done.returncode}"
    return None, f"uv could not lock them: {why}"


# The user's file.


def read(path: Path) -> Requirements:
    """The requirements in a file, whatever its format; SetupError names the file, the entry and what to write."""
    path = path.expanduser().absolute()
    name = path.name.lower()
    if name == "pyproject.toml":
        lines, python = _pyproject(path)
    elif name == "pipfile":
        lines, python = _pipfile(path)
    elif name == "pipfile.lock":
        lines, python = _pipfile_lock(path)
    elif path.suffix in (".yaml", ".yml"):
        lines, python = _yaml(path)
    elif path.suffix in (".txt", ".in"):
        lines, python = _requirements_txt(path), None
    else:
        raise SetupError(
            f"--requirements {path}: expected requirements.txt, Pipfile, Pipfile.lock, pyproject.toml, conda.yaml or "
            f"python_env.yaml, got {path.name!r}"
        )
    if python is not None:
        python = _python(path, python)
    return Requirements(tuple(_checked(path, line) for line in _that_apply(path, lines)), path.name, python)


def _text(path: Path) -> str:
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise SetupError(f"--requirements {path} has more than {_MAX_BYTES:,} bytes; name the requirements only")
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise SetupError(f"--requirements {path} cannot be read: {getattr(error, 'strerror', None) or error}") from None


def _toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(_text(path))
    except tomllib.TOMLDecodeError as error:
        raise SetupError(f"--requirements {path} is not valid TOML: {error}") from None


def _that_apply(path: Path, lines: Iterable[str]) -> list[str]:
    """Requirements without their markers, those whose marker is false here left out."""
    found: dict[str, None] = {}
    for line in lines:
        try:
            wanted = Requirement(line)
        except InvalidRequirement as error:
            why, like = str(error).splitlines()[0], f"NAME @ {line}" if "://" in line else "numpy==2.1.0"
            raise SetupError(
                f"--requirements {path}: {line!r} is no requirement ({why}); write it like {like}"
            ) from None
        if wanted.marker is None or wanted.marker.evaluate():
            wanted.marker = None
            found[str(wanted)] = None
    return list(found)


def _checked(path: Path, line: str) -> str:
    url = Requirement(line).url
    if url is not None and url.partition(":")[0] == "file":
        raise SetupError(
            f"--requirements {path}: {line!r} lies on this machine only; publish it, or push its code with --code"
        )
    return line


def _python(path: Path, text: str) -> str:
    text = text.strip()
    try:
        if re.fullmatch(r"\d+(\.\d+){0,2}", text):  # 3.10 means any of its releases
            return f"=={text}.*" if text.count(".") < 2 else f"=={text}"
        return str(SpecifierSet(text))
    except InvalidSpecifier:
        raise SetupError(f"--requirements {path}: {text!r} is no Python version; write it like 3.11") from None


def _requirements_txt(path: Path, depth: int = 0) -> list[str]:
    if depth > _MAX_INCLUDES:
        raise SetupError(f"--requirements {path}: more than {_MAX_INCLUDES} files include each other with -r")
    lines: list[str] = []
    text = re.sub(r"\\\r?\n", " ", _text(path))
    for number, raw in enumerate(text.splitlines(), 1):
        line = re.sub(r"(^|\s)#.*$", "", raw).strip()
        line = re.sub(r"\s+--(hash|config-settings|global-option)[= ]\S+", "", line).strip()
        if not line:
            continue
        include = re.match(r"(?:-r|--requirement)[= ]?\s*(\S+)$", line)
        if include:
            lines += _requirements_txt((path.parent / include[1]).absolute(), depth + 1)
        elif re.match(r"(-e|--editable)\b|\.{0,2}/|\.$|[\w./-]+\.(whl|tar\.gz|zip)$", line):
            raise SetupError(
                f"--requirements {path}, line {number}: {line!r} lies on this machine only; "
                "publish it, or push its code with --code"
            )
        elif not line.startswith("-"):  # options of the installer, such as an index, are its environment's business
            lines.append(line)
    return lines


def _pipfile(path: Path) -> tuple[list[str], str | None]:
    content = _toml(path)
    if "packages" not in content:
        raise SetupError(f"--requirements {path} has no [packages]; a Pipfile names there what the model needs")
    packages = content["packages"]
    lines = [_table_line(path, name, wanted) for name, wanted in packages.items()]
    requires = content.get("requires", {})
    return lines, requires.get("python_full_version") or requires.get("python_version")


def _pipfile_lock(path: Path) -> tuple[list[str], str | None]:
    try:
        content = json.loads(_text(path))
        packages = content["default"]
        requires = content.get("_meta", {}).get("requires", {})
    except (ValueError, KeyError, TypeError, AttributeError):
        raise SetupError(
            f'--requirements {path} is no Pipfile.lock: it has no "default" packages; run pipenv lock'
        ) from None
    lines = [_table_line(path, name, wanted) for name, wanted in packages.items()]
    return lines, requires.get("python_full_version") or requires.get("python_version")


def _table_line(path: Path, name: str, wanted: Any) -> str:
    """A requirement of a Pipfile or a Poetry table: text, or a table with version, extras, markers."""
    table = {"version": wanted} if isinstance(wanted, str) else wanted
    if not isinstance(table, dict):
        raise SetupError(f'--requirements {path}: {name} = {wanted!r} is no version; write it like "==2.1.0"')
    for key in ("path", "file", "editable"):
        if table.get(key):
            raise SetupError(
                f"--requirements {path}: {name} lies on this machine only ({key} = {table[key]!r}); "
                "publish it, or push its code with --code"
            )
    extras = f"[{','.join(table['extras'])}]" if table.get("extras") else ""
    marker = f"; {table['markers']}" if table.get("markers") else ""
    if table.get("git"):
        ref = table.get("ref") or table.get("rev") or table.get("tag") or table.get("branch")
        return f"{name}{extras} @ git+{table['git']}{f'@{ref}' if ref else ''}{marker}"
    return f"{name}{extras}{_specifier(str(table.get('version', '*')))}{marker}"


def _specifier(text: str) -> str:
    """PEP 440 of what Pipenv and Poetry write: *, 1.2, ^1.2, ~1.2, >=1,<2."""
    parts = [part.strip() for part in text.split(",") if part.strip() not in ("", "*")]
    return ",".join(_caret(part) for part in parts)


def _caret(part: str) -> str:
    match = re.fullmatch(r"([\^~])\s*v?(\d+(?:\.\d+)*)", part)
    if match is None:
        return part if re.match(r"[=<>!~]", part) else f"=={part}"
    numbers = [int(number) for number in match[2].split(".")]
    if match[1] == "~":
        last = min(1, len(numbers) - 1)
    else:
        last = next((index for index, number in enumerate(numbers) if number), len(numbers) - 1)
    upper = [*numbers[:last], numbers[last] + 1]
    return f">={match[2]},<{'.'.join(map(str, upper))}"


# pyproject.toml, with the lock beside it.


def _pyproject(path: Path) -> tuple[list[str], str | None]:
    content = _toml(path)
    project, poetry = content.get("project", {}), content.get("tool", {}).get("poetry", {})
    tables = {name: wanted for name, wanted in poetry.get("dependencies", {}).items() if name.lower() != "python"}
    lines = list(project.get("dependencies", [])) or [
        _table_line(path, name, wanted)
        for name, wanted in tables.items()
        if not (isinstance(wanted, dict) and wanted.get("optional"))
    ]
    python = project.get("requires-python")
    if python is None and "python" in poetry.get("dependencies", {}):
        python = _specifier(str(poetry["dependencies"]["python"]))
    if not project and not poetry:
        raise SetupError(f"--requirements {path} has neither [project] nor [tool.poetry]; give a requirements.txt")
    roots = [canonicalize_name(Requirement(line).name) for line in _that_apply(path, lines)]
    for name, pinned in (("uv.lock", _uv_lock), ("poetry.lock", _poetry_lock)):
        lock = path.with_name(name)
        if lock.is_file():
            return pinned(lock, roots), python
    return lines, python


def _uv_lock(path: Path, roots: Sequence[str]) -> list[str]:
    packages = _packages(path)
    return _reached(path, roots, packages, lambda package: [
        (dependency["name"], dependency.get("marker")) for dependency in package.get("dependencies", [])
    ])  # fmt: skip


def _poetry_lock(path: Path, roots: Sequence[str]) -> list[str]:
    def needed(package: Mapping[str, Any]) -> list[tuple[str, str | None]]:
        found: list[tuple[str, str | None]] = []
        for name, wanted in package.get("dependencies", {}).items():
            for table in wanted if isinstance(wanted, list) else [wanted]:
                optional = isinstance(table, dict) and table.get("optional")
                marker = table.get("markers") if isinstance(table, dict) else None
                if not optional:
                    found.append((name, marker))
        return found

    return _reached(path, roots, _packages(path), needed)


def _packages(path: Path) -> dict[str, dict[str, Any]]:
    packages = _toml(path).get("package")
    if not isinstance(packages, list) or not all(isinstance(item, dict) and "name" in item for item in packages):
        raise SetupError(f"--requirements {path} has no [[package]] entries; lock the project again")
    found: dict[str, dict[str, Any]] = {}
    for package in packages:  # several of one name: the one whose markers hold here
        markers = package.get("resolution-markers") or []
        if not markers or any(_holds(marker) for marker in markers):
            found.setdefault(canonicalize_name(package["name"]), package)
    return found


def _reached(path: Path, roots: Sequence[str], packages: Mapping[str, dict[str, Any]], needed: Any) -> list[str]:
    """The pins of everything that the roots need here."""
    lines: dict[str, str] = {}
    open_names = list(roots)
    while open_names:
        name = canonicalize_name(open_names.pop())
        if name in lines:
            continue
        package = packages.get(name)
        if package is None or "version" not in package:
            raise SetupError(f"--requirements {path} does not lock {name}; lock the project again")
        lines[name] = f"{name}=={package['version']}"
        open_names += [other for other, marker in needed(package) if _holds(marker)]
    return [lines[name] for name in sorted(lines)]


def _holds(marker: str | None) -> bool:
    if not marker:
        return True
    return Marker(marker).evaluate({"extra": ""})


# conda.yaml and python_env.yaml.


def _yaml(path: Path) -> tuple[list[str], str | None]:
    try:
        import yaml  # type: ignore[import-untyped]
    except ImportError:
        raise MissingLibrary(f"{path} is YAML; install its parser with: pip install 'lagar[mlflow]'") from None
    try:
        content = yaml.safe_load(_text(path))
    except yaml.YAMLError as error:
        raise SetupError(f"--requirements {path} is not valid YAML: {' '.join(str(error).split())[:200]}") from None
    says = isinstance(content, dict) and {"dependencies", "python", "build_dependencies"} & content.keys()
    if not says or not isinstance(content.get("dependencies") or [], list):
        raise SetupError(f"--requirements {path} has no list of dependencies; write conda.yaml or python_env.yaml")
    if "python" in content or "build_dependencies" in content:
        return _python_env(path, content)
    return _conda(path, content.get("dependencies") or [])


def _python_env(path: Path, content: Mapping[str, Any]) -> tuple[list[str], str | None]:
    lines: list[str] = []
    for entry in content.get("dependencies") or []:
        lines += _pip_entry(path, str(entry))
    python = content.get("python")
    return lines, None if python is None else str(python)


def _pip_entry(path: Path, entry: str) -> list[str]:
    include = re.match(r"\s*(?:-r|--requirement)[= ]?\s*(\S+)\s*$", entry)
    if include:
        return _requirements_txt((path.parent / include[1]).absolute(), 1)
    return [entry.strip()] if not entry.strip().startswith("-") else []


def _conda(path: Path, entries: Sequence[Any]) -> tuple[list[str], str | None]:
    lines: list[str] = []
    python: str | None = None
    refused: list[str] = []
    for entry in entries:
        if isinstance(entry, dict):
            for line in entry.get("pip") or []:
                lines += _pip_entry(path, str(line))
            continue
        name, version = _conda_entry(str(entry))
        if name == "python":
            python = version or None
        elif _CONDA_ONLY.fullmatch(name) and name not in _FROM_CONDA:
            refused.append(name)
        elif name not in _BUILD_TOOLS:
            lines.append(f"{_FROM_CONDA.get(name, name)}{version}")
    if refused:
        raise SetupError(
            f"--requirements {path}: {', '.join(refused)} {'is' if len(refused) == 1 else 'are'} no Python package and "
            "cannot be installed from PyPI; leave out what the model does not need, and list the rest under pip:"
        )
    return lines, python


def _conda_entry(text: str) -> tuple[str, str]:
    """`channel::name[version='…']`, `name=1.2=build`, `name 1.2.*`, `name>=1` → the name and a PEP 440 specifier."""
    text = text.strip().rpartition("::")[2]
    bracket = re.fullmatch(r"([\w.-]+)\[.*?version=['\"]?([^'\"\]]+)['\"]?.*\]", text)
    match = bracket or re.match(r"([\w.-]+)\s*(.*)$", text)
    assert match is not None, text
    name, rest = match[1].lower(), match[2].strip()
    if not rest:
        return name, ""
    if rest.startswith("=") and not rest.startswith("=="):
        version = rest[1:].split("=")[0].strip()  # one "=" is a prefix in conda
        exact = rest.count("=") > 1 or version.endswith("*")
        return name, f"=={version}" if exact else f"=={version}.*"
    parts = [part for part in re.split(r"\s+(?![<>=!])", rest) if part]
    return name, ",".join(part if re.match(r"[<>=!~]", part) else f"=={part}" for part in parts[0].split(","))


def names(lines: Iterable[str]) -> tuple[str, ...]:
    """The distributions that requirement lines name."""
    found: list[str] = []
    for line in lines:
        with contextlib.suppress(InvalidRequirement):
            found.append(str(canonicalize_name(Requirement(line).name)))
    return tuple(found)


def here() -> tuple[dict[str, str], str]:
    """This environment: distribution → version, and the version of its Python."""
    import platform
    from importlib import metadata

    return {found.name: found.version for found in metadata.distributions()}, platform.python_version()
