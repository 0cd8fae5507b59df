"""The shape of the package: who may import whom, what stays unloaded, how large things get.

Imports run one way: cli → server → protocols → engine → runtimes → intake → registry → leaves. `control`, the web
application, uses the registry and the runtimes, and of the server only what all its processes share. `client` is the
Python API: HTTP to a server, or straight to the registry and the intake of this machine's home.
"""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SRC = ROOT / "src"
PACKAGE = SRC / "lagar"
LEAVES = {"types", "errors", "settings", "platforms", "logs", "memory", "metrics", "native"}
BELOW = {
    "mlserver": LEAVES,
    "registry": LEAVES,
    "intake": LEAVES | {"registry"},
    "runtimes": LEAVES | {"registry", "intake", "mlserver"},
    "forms": LEAVES | {"registry", "intake", "runtimes"},
    "engine": LEAVES | {"registry", "intake", "runtimes"},
    "protocols": LEAVES | {"registry", "intake", "runtimes", "engine"},
    "server": LEAVES | {"registry", "intake", "runtimes", "engine", "protocols"},
    "control": LEAVES | {"registry", "intake", "runtimes"},
    "client": LEAVES | {"registry", "intake"},
    "cli": LEAVES | {"registry", "intake", "runtimes", "engine", "protocols", "server", "client"},
}
"""Package → what it may import beside itself."""
PIPELINE = {
    f"lagar.intake.{name}" for name in ("push", "sandbox", "trial", "golden", "profile", "compilation", "paths")
}
"""Of intake what opens models and makes versions of them: it stands above the runtimes, which use the rest."""
PIPELINE_BELOW = LEAVES | {"registry", "intake", "runtimes", "protocols", "forms"}
SHARED = {"lagar.server.channel", "lagar.server.process", "lagar.server.auth"}
"""What every process of a server has: its messages, how it begins and ends, who may do what. Control is one of them."""
MODEL_LIBRARIES = {"sklearn", "joblib", "pandas", "xgboost", "lightgbm", "catboost", "onnxruntime", "onnx", "mlflow"}
ONLY_IN = {
    "fastapi": {"control"},
    "starlette": {"control"},
    "jinja2": {"control"},
    "prometheus_client": {"control"},
    "sqlalchemy": {"registry"},
    "alembic": {"registry"},
    "typer": {"cli"},
    "rich": {"cli"},
    "httpx": {"client"},
    "python_multipart": {"control"},
    "hpack": {"server"},
}
"""Library → the packages that may import it."""
MAX_MODULE_LINES = 800
MAX_FUNCTION_LINES = 80
MIN_DOCUMENTED = 0.75
"""Share of the public classes and functions that have a docstring; the rest say it all by name and types."""


@dataclass(frozen=True)
class Import:
    """One imported name as it stands in the source."""

    module: str
    """Dotted, absolute."""
    line: int
    at_load: bool
    """True when importing the file executes it: not in a function, not under TYPE_CHECKING."""
    typing_only: bool


@dataclass(frozen=True)
class Source:
    path: Path
    module: str
    tree: ast.Module
    text: str

    @property
    def part(self) -> str:
        """The package, or the leaf, that it belongs to; "" for lagar itself."""
        return self.module.split(".")[1] if "." in self.module else ""

    def __str__(self) -> str:
        return str(self.path.relative_to(ROOT))


@cache
def sources() -> tuple[Source, ...]:
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        module = ".".join(path.relative_to(SRC).with_suffix("").parts).removesuffix(".__init__")
        text = path.read_text()
        found.append(Source(path, module, ast.parse(text), text))
    return tuple(found)


def imports(source: Source) -> Iterator[Import]:
    """Every import of a file, those inside functions too."""
    names = {other.module for other in sources()}

    def walk(node: ast.AST, at_load: bool, typing_only: bool) -> Iterator[Import]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                for alias in child.names:
                    yield Import(alias.name, child.lineno, at_load and not typing_only, typing_only)
            elif isinstance(child, ast.ImportFrom):
                base = absolute(child)
                for alias in child.names:
                    full = f"{base}.{alias.name}"
                    yield Import(
                        full if full in names else base, child.lineno, at_load and not typing_only, typing_only
                    )
            elif isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
                yield from walk(child, False, typing_only)
            elif isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
                for statement in child.body:
                    yield from walk(ast.Module([statement], []), at_load, True)
                for statement in child.orelse:
                    yield from walk(ast.Module([statement], []), at_load, typing_only)
            else:
                yield from walk(child, at_load, typing_only)

    def absolute(node: ast.ImportFrom) -> str:
        if not node.level:
            return node.module or ""
        is_package = source.path.name == "__init__.py"
        parts = source.module.split(".")
        parts = parts[: len(parts) - node.level + (1 if is_package else 0)]
        return ".".join([*parts, *([node.module] if node.module else [])])

    yield from walk(source.tree, True, False)


def top(module: str) -> str:
    return module.split(".")[0]


def loaded_by(code: str) -> set[str]:
    """The modules that are loaded once a fresh interpreter has run code."""
    script = f"import sys, json\n{code}\nprint(json.dumps(sorted(m for m in sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout))


def test_imports_run_one_way() -> None:
    wrong = []
    for source in sources():
        if not source.part:
            continue
        allowed = LEAVES if source.part in LEAVES else BELOW.get(source.part, set()) | {source.part}
        allowed = PIPELINE_BELOW if source.module in PIPELINE else allowed
        for used in imports(source):
            target = used.module.split(".")[1] if used.module.startswith("lagar.") else ""
            excused = used.typing_only or (source.part == "control" and used.module in SHARED)
            if target and target not in allowed and not excused:
                wrong.append(f"{source}:{used.line} imports {used.module}")
    assert not wrong, "\n".join(wrong)


def test_what_runtimes_and_engine_use_of_intake_opens_no_model() -> None:
    wrong = [
        f"{source}:{used.line} imports {used.module}"
        for source in sources()
        if source.module not in PIPELINE
        and source.part in ("registry", "intake", "runtimes", "forms", "engine", "protocols")
        for used in imports(source)
        if used.module in PIPELINE
    ]
    assert not wrong, "\n".join(wrong)


def test_what_the_processes_share_needs_nothing_else_of_the_server() -> None:
    wrong = [
        f"{source}:{used.line} imports {used.module}"
        for source in sources()
        if source.module in SHARED
        for used in imports(source)
        if used.module.startswith("lagar.server.") and used.module not in SHARED
    ]
    assert not wrong, "\n".join(wrong)


def test_every_part_of_the_package_has_its_place_in_the_order() -> None:
    parts = {source.part for source in sources()} - {""}
    assert parts <= LEAVES | set(BELOW), f"say in BELOW what {sorted(parts - LEAVES - set(BELOW))} may import"


def test_packages_are_two_levels_deep() -> None:
    deep = [str(source) for source in sources() if len(source.path.relative_to(PACKAGE).parts) > 2]
    # Migrations are read by Alembic, which wants a folder of its own.
    assert [path for path in deep if "/migrations/" not in path] == []


def test_no_two_modules_import_each_other_at_load() -> None:
    graph = {
        source.module: {
            used.module for used in imports(source) if used.at_load and used.module.startswith("lagar")
        } - {source.module}
        for source in sources()
    }  # fmt: skip
    done: set[str] = set()
    path: list[str] = []
    cycles: list[str] = []

    def visit(module: str) -> None:
        if module in path:
            cycles.append(" → ".join([*path[path.index(module) :], module]))
        elif module not in done:
            path.append(module)
            for used in sorted(graph.get(module, ())):
                visit(used)
            path.pop()
            done.add(module)

    for module in sorted(graph):
        visit(module)
    assert not cycles, "\n".join(cycles)


@pytest.mark.parametrize("library", sorted(ONLY_IN))
def test_a_library_is_imported_by_its_own_part_only(library: str) -> None:
    wrong = [
        f"{source}:{used.line}"
        for source in sources()
        for used in imports(source)
        if top(used.module) == library and source.part not in ONLY_IN[library]
    ]
    assert not wrong, f"{library} belongs into {', '.join(ONLY_IN[library])}: {wrong}"


def test_model_libraries_are_imported_inside_functions_only() -> None:
    wrong = [
        f"{source}:{used.line} imports {used.module}"
        for source in sources()
        for used in imports(source)
        if used.at_load and top(used.module) in MODEL_LIBRARIES
    ]
    assert not wrong, "\n".join(wrong)


def test_the_environment_is_read_in_settings_only() -> None:
    wrong = []
    for source in sources():
        if source.part == "settings":
            continue
        for node in ast.walk(source.tree):
            read = isinstance(node, ast.Attribute) and node.attr in ("environ", "environb", "getenv")
            if read and ast.unparse(node).startswith("os."):
                wrong.append(f"{source}:{node.lineno}")
            if isinstance(node, ast.ImportFrom) and node.module == "os":
                wrong += [f"{source}:{node.lineno}" for alias in node.names if alias.name in ("environ", "getenv")]
    assert not wrong, f"os.environ appears in settings.py only: {wrong}"


def test_import_lagar_loads_no_model_library_and_nothing_heavy() -> None:
    loaded = {top(module) for module in loaded_by("import lagar")}
    heavy = MODEL_LIBRARIES | set(ONLY_IN) | {"numpy", "pyarrow", "uvicorn", "asyncio", "scipy"}
    assert not loaded & heavy


def test_the_help_of_the_command_line_loads_little() -> None:
    code = (
        "import contextlib, io\nfrom lagar.cli import main\nsys.argv = ['lagar', '--help']\n"
        "with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):\n    main.run()"
    )
    modules = loaded_by(code)
    heavy = MODEL_LIBRARIES | {"numpy", "pyarrow", "scipy", "fastapi", "uvicorn", "sqlalchemy", "alembic", "jinja2"}
    assert not {top(module) for module in modules} & heavy
    assert len(modules) < 800, f"{len(modules)} modules are loaded for `lagar --help`"


def test_a_worker_loads_no_web_framework_no_sql_and_no_model_library() -> None:
    loaded = {top(module) for module in loaded_by("import lagar.server.worker")}
    unwanted = {
        "fastapi",
        "starlette",
        "sqlalchemy",
        "alembic",
        "pyarrow",
        "jinja2",
        "prometheus_client",
        "typer",
        "hpack",
    }
    assert not loaded & (unwanted | MODEL_LIBRARIES | {"scipy"})


def test_what_runs_in_an_environment_of_its_own_needs_numpy_and_msgspec_alone() -> None:
    code = "import lagar.engine.hosting, lagar.intake.trial, lagar.runtimes.contract, lagar.runtimes.sklearn"
    installed = set(packages_distributions())
    brought = {top(module) for module in loaded_by(code)} - {top(module) for module in loaded_by("")}
    theirs = {"lagar", "typing_extensions"}  # msgspec uses the second where it is there
    assert brought & installed - theirs == {"numpy", "msgspec"}


def test_no_module_is_longer_than_it_can_be_read() -> None:
    long = {str(source): n for source in sources() if (n := len(source.text.splitlines())) > MAX_MODULE_LINES}
    assert not long, f"over {MAX_MODULE_LINES} lines: {long}"


def test_no_function_is_longer_than_it_can_be_read() -> None:
    """Bodies count, not parameter lists: a command's options stand there, one per line with their help."""
    long = [
        f"{source}:{node.lineno} {node.name} has {node.end_lineno - node.body[0].lineno + 1} lines"
        for source in sources()
        for node in ast.walk(source.tree)
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        and node.end_lineno is not None
        and node.end_lineno - node.body[0].lineno + 1 > MAX_FUNCTION_LINES
    ]
    assert not long, "\n".join(long)


def test_modules_are_named_by_nouns_that_mean_something() -> None:
    empty = {"utils", "util", "helpers", "helper", "manager", "handler", "common", "misc"}
    assert [str(source) for source in sources() if source.path.stem in empty] == []


def test_every_module_says_what_it_is_for() -> None:
    silent = [str(s) for s in sources() if not ast.get_docstring(s.tree) and "migrations" not in s.path.parts]
    assert not silent


def test_most_public_classes_and_functions_have_a_docstring() -> None:
    public = [
        (f"{source}:{node.lineno} {node.name}", ast.get_docstring(node) is not None)
        for source in sources()
        if "migrations" not in source.path.parts
        for node in source.tree.body
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)) and not node.name.startswith("_")
    ]
    missing = [name for name, documented in public if not documented]
    share = 1 - len(missing) / len(public)
    assert share >= MIN_DOCUMENTED, f"{share:.0%} have one, {MIN_DOCUMENTED:.0%} should:\n" + "\n".join(missing)


def test_nothing_is_left_to_do_in_comments() -> None:
    marks = re.compile(r"#.*\b(TODO|FIXME|XXX|HACK)\b")
    paths = [*PACKAGE.rglob("*.py"), *(ROOT / "tests").rglob("*.py"), *(ROOT / "bench").rglob("*.py")]
    left = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in paths
        if path != Path(__file__)
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if marks.search(line)
    ]
    assert not left


def test_tests_wait_for_events_and_replace_nothing_of_lagar() -> None:
    wrong = []
    for path in sorted((ROOT / "tests").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call):
                continue
            called = ast.unparse(node.func)
            first = node.args[0].value if node.args and isinstance(node.args[0], ast.Constant) else None
            if called == "time.sleep" or (called.endswith("patch") and str(first).startswith("lagar.")):
                wrong.append(f"{path.relative_to(ROOT)}:{node.lineno} {called}")
    assert not wrong, "\n".join(wrong)


def documented_codes() -> dict[str, int | None]:
    """Code → status in docs/errors.md; None where a status has no meaning."""
    page = (ROOT / "docs" / "errors.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \|(?: (\d{3}) \|)? [^|]+ \| [^|]+ \|$", page, re.MULTILINE)
    return {code: int(status) if status else None for code, status in rows}


def test_every_error_code_is_documented_with_its_status() -> None:
    from lagar.errors import LagarError, SetupError
    from lagar.protocols.base import STATUS

    def tree(kind: type[LagarError]) -> Iterator[type[LagarError]]:
        yield kind
        for below in kind.__subclasses__():
            yield from tree(below)

    kinds = [kind for kind in tree(LagarError) if kind.__module__ == "lagar.errors"]
    expected = {kind.code: None if issubclass(kind, SetupError) else STATUS[kind.code] for kind in kinds}
    assert documented_codes() == expected


def test_every_class_of_error_has_a_code_of_its_own() -> None:
    from lagar import errors

    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.LagarError)]
    assert len({kind.code for kind in kinds}) == len(kinds)


def test_what_threads_load_with_knows_its_classes_since_its_import() -> None:
    """Two threads whose first `decode(…, type=…)` of a class meet build what msgspec knows of it at the same time:
    the process dies of SIGSEGV, as workers did that loaded two forms at once. A module's own Decoder is built once."""
    paths = [
        *(PACKAGE / "runtimes").glob("*.py"),
        *(PACKAGE / "engine").glob("*.py"),
        PACKAGE / "registry" / "compiled.py",
    ]
    late = [
        f"{path.name}:{node.lineno}"
        for path in paths
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and any(keyword.arg == "type" for keyword in node.keywords)
        if isinstance(node.func, ast.Attribute) and node.func.attr == "decode"
    ]
    assert not late
