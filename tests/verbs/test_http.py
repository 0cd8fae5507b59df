"""The verbs over HTTP: the answers of the command line, behind keys; pushes that stream to disk or leave nothing."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest

from lagar import Client
from lagar.errors import SettingsError
from lagar.registry.releases import open_releases
from support.keys import keys_for_each_scope
from support.models import scripted_model
from support.server import LagarServer, children_of
from support.wait import eventually
from support.wire import Wire
from verbs.conftest import Stock, answer, endless_model, interrupted, quick_model, refusal, run

NDJSON = "application/x-ndjson"
UPLOAD_BYTES = 300_000_000


class Keyed(NamedTuple):
    stock: Stock
    server: LagarServer
    keys: dict[str, str]
    client: httpx.Client
    """With the admin key."""

    def remote(self) -> list[str]:
        """The flags with which a verb goes to this server."""
        return ["--to", self.server.url, "--key", self.keys["admin"]]


@contextlib.contextmanager
def served(stock: Stock, folder: Path) -> Iterator[Keyed]:
    """A server on the home, with a key for each scope, which itself serves another model."""
    keys = keys_for_each_scope(stock.home)
    with (
        LagarServer(scripted_model(folder / "m"), home=stock.home) as server,
        httpx.Client(base_url=server.url, headers={"X-Api-Key": keys["admin"]}, timeout=120) as client,
    ):
        yield Keyed(stock, server, keys, client)


@pytest.fixture
def keyed(stock: Stock, tmp_path: Path) -> Iterator[Keyed]:
    """A server of the test's own."""
    with served(stock, tmp_path) as running:
        yield running


@pytest.fixture(scope="module")
def shared(pushed: Stock, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Keyed]:
    """One for all tests in which every change is refused."""
    folder = tmp_path_factory.mktemp("shared")
    shutil.copytree(pushed.home, folder / "home", ignore=shutil.ignore_patterns("run"))
    with served(pushed._replace(home=folder / "home"), folder) as running:
        yield running


def error_of(reply: httpx.Response, status: int) -> dict[str, Any]:
    """The error of an answer, in the one shape of all errors."""
    assert reply.status_code == status, reply.text
    error: dict[str, Any] = reply.json()["error"]
    assert {"code", "message", "field", "row", "request_id"} <= error.keys()
    assert error["request_id"] == reply.headers["x-request-id"]
    return error


def uploads(home: Path) -> list[Path]:
    """What lies in the home of pushes that are on their way."""
    return list((home / "uploads").glob("*")) if (home / "uploads").exists() else []


# The same answers


def test_the_command_line_and_http_give_the_same_answers(keyed: Keyed) -> None:
    home, client = keyed.stock.home, keyed.client
    answer("promote", "wine", "v1.0.9", "--note", "first", home=home)
    looks = {
        "/api/models": ["models"],
        "/api/models/wine/versions": ["versions", "wine"],
        "/api/models/wine/versions/candidate": ["show", "wine@candidate"],
        "/api/models/wine/history": ["history", "wine"],
        "/api/models/wine/diff?before=v1.0.9&after=candidate": ["diff", "wine", "v1.0.9", "candidate"],
    }
    for path, args in looks.items():
        told = client.get(path)
        assert told.status_code == 200, told.text
        assert told.json() == answer(*args, home=home) == answer(*args, *keyed.remote(), home=home)
        assert run(*args, home=home) == run(*args, *keyed.remote(), home=home)
    assert client.get("/api/models/wine").json() in client.get("/api/models").json()
    assert client.get("/api/models/wine/traffic").json() == {"weights": {"v1.0.9": 100}, "shadow": None}
    assert client.get("/api/models/wine/aliases").json() == {"candidate": "v1.0.10"}
    assert client.get("/api/generations/1").json()["state"] == "committed"


def test_changes_over_http_are_those_of_the_command_line(keyed: Keyed) -> None:
    remote = keyed.remote()
    home = keyed.stock.home
    assert answer("promote", "wine", "v1.0.9", *remote, home=home)["weights"] == {"v1.0.9": 100}
    shared = answer("traffic", "wine", "v1.0.9=60", "v1.0.10=40", *remote, home=home)
    assert shared["weights"] == {"v1.0.9": 60, "v1.0.10": 40}
    assert answer("rollback", "wine", "--note", "too slow", *remote, home=home)["weights"] == {"v1.0.9": 100}
    assert answer("alias", "wine", "best", "v1.0.9", *remote, home=home) == {"best": "v1.0.9", "candidate": "v1.0.10"}
    assert answer("alias", "wine", "best", "--drop", *remote, home=home) == {"candidate": "v1.0.10"}
    assert answer("retire", "wine", "v1.0.10", *remote, home=home)["state"] == "retired"
    assert answer("retire", "wine", "v1.0.10", "--undo", *remote, home=home)["state"] == "ready"
    assert answer("gc", "--dry-run", *remote, home=home) == answer("gc", "--dry-run", home=home)
    newest = answer("history", "wine", home=home)[0]
    assert (newest["action"], newest["note"], newest["host"]) == ("rollback", "too slow", "127.0.0.1")
    assert newest["by"].startswith("admin (key ")


def test_refusals_over_http_are_those_of_the_command_line(shared: Keyed) -> None:
    home = shared.stock.home
    for args in (
        ["show", "beer"], ["show", "wine@v9"], ["promote", "wine", "v9"], ["rollback", "wine"],
        ["diff", "wine", "v1.0.9", "v9"], ["alias", "wine", "v1.0.9", "v1.0.10"],
        ["traffic", "wine", "v1.0.9=90"], ["alias", "wine", "nobody", "--drop"], ["history", "beer"],
    ):  # fmt: skip
        assert refusal(*args, home=home) == refusal(*args, *shared.remote(), home=home)


def test_refusals_have_their_status_and_the_one_shape(shared: Keyed) -> None:
    client = shared.client
    assert error_of(client.get("/api/models/beer"), 404)["code"] == "not_found"
    for number in (77, -1, 1 << 40, 1 << 70):
        assert error_of(client.get(f"/api/generations/{number}"), 404)["code"] == "not_found"
    for path, methods in (("aliases/nobody", "DELETE, PUT"), ("traffic", "GET, HEAD, PUT")):
        assert client.patch(f"/api/models/wine/{path}").headers["allow"] == methods
    assert error_of(client.delete("/api/models/wine/aliases/nobody"), 404)["code"] == "not_found"
    assert "'after'" in error_of(client.get("/api/models/wine/diff?before=v1.0.9"), 400)["message"]
    assert error_of(client.get("/api/generations/x"), 400)["code"] == "invalid_input"
    assert error_of(client.get("/api/nothing"), 404)["code"] == "not_found"
    assert error_of(client.delete("/api/models/wine/promote"), 405)["code"] == "method_not_allowed"
    wrong = error_of(client.post("/api/models/wine/promote", json={"version": 1}), 400)
    assert "version" in wrong["message"]
    assert "shadow" in error_of(client.put("/api/models/wine/traffic", content=b"{"), 400)["message"]
    assert error_of(client.post("/api/models/wine/promote", json={"label": "v1"}), 400)["code"] == "invalid_input"


# Keys


def test_read_looks_and_only_admin_changes(keyed: Keyed) -> None:
    def status(method: str, path: str, scope: str | None, body: Any = None) -> int:
        headers = {} if scope is None else {"X-Api-Key": keyed.keys[scope]}
        return httpx.request(method, keyed.server.url + path, headers=headers, json=body, timeout=90).status_code

    for path in ("/api/models", "/api/models/wine/versions/v1.0.9", "/api/models/wine/history"):
        assert [status("GET", path, scope) for scope in (None, "infer", "read", "admin")] == [401, 403, 200, 200]
    change = {"version": "v1.0.9"}
    for scope, expected in ((None, 401), ("infer", 403), ("read", 403), ("admin", 200)):
        assert status("POST", "/api/models/wine/promote", scope, change) == expected
    assert status("POST", "/api/models/wine/versions", "read") == 403


def test_the_commands_say_which_key_they_want(shared: Keyed) -> None:
    home, url = shared.stock.home, shared.server.url
    missing = refusal("models", "--to", url, home=home)
    assert "API key with scope 'read'" in missing
    assert missing.endswith("a key is given with --key KEY, or in LAGAR_KEY")
    weak = refusal("rollback", "wine", "--to", url, "--key", shared.keys["read"], home=home)
    assert "scope 'admin'" in weak
    assert weak.endswith("that key came from --key")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LAGAR_KEY", "lagar_no_such")
        unknown = refusal("push", "wine", shared.stock.first, "--to", url, home=home)
    assert unknown.endswith("that key came from LAGAR_KEY, and --key KEY gives another")


def test_who_asked_cannot_be_made_up(keyed: Keyed) -> None:
    headers = {"X-Lagar-Key-Id": "nobody", "X-Lagar-Client": "203.0.113.9"}
    body = {"version": "v1.0.9"}
    assert keyed.client.post("/api/models/wine/promote", json=body, headers=headers).status_code == 200
    newest = keyed.client.get("/api/models/wine/history").json()[0]
    assert newest["by"].startswith("admin (key ")
    assert newest["host"] == "127.0.0.1"


def test_a_server_without_keys_shows_what_it_has_and_takes_no_change(serve: Any, stock: Stock, tmp_path: Path) -> None:
    server = serve(scripted_model(tmp_path / "m"), home=stock.home)
    assert {"wine"} < {model["name"] for model in answer("models", "--to", server.url, home=stock.home)}
    line = refusal("promote", "wine", "v1.0.9", "--to", server.url, home=stock.home)
    assert "lagar keys create --name NAME --scope admin" in line
    assert all(model["live"] == {} for model in answer("models", home=stock.home))


# Pushes


def test_a_push_over_http_is_the_push_of_the_command_line(keyed: Keyed) -> None:
    home, stock = keyed.stock.home, keyed.stock
    flags = ["--example", stock.rows, "--training-data", stock.training, "--metric", "auc=0.5", "--note", "n",
             "--version", "x1", "--alias", "a"]  # fmt: skip
    here = run("push", "here", stock.first, *flags, home=home)
    there = run("push", "there", stock.first, *flags, *keyed.remote(), home=home)
    assert (here.code, there.code) == (0, 0), there.stderr
    steps = [line.split()[1] for line in there.stderr.splitlines()]
    assert steps[:7] == ["scan", "load", "signature", "prove", "lock", "profile", "commit"]
    reports = [answer("show", f"{name}@a", home=home) for name in ("here", "there")]
    for report in reports:
        assert report["card"].pop("model") == report["manifest"].pop("model")
        for name in ("created_at", "created_by", "manifest_sha256"):
            report["card"].pop(name)
        for name in ("load_s", "memory_bytes", "steps", "provenance"):
            report["manifest"].pop(name, None)
    assert reports[0] == reports[1]
    assert answer("show", "there", home=home)["card"]["created_by"].startswith("admin (key ")
    assert answer("show", "there", home=home)["manifest"]["provenance"]["source"] == "first.joblib"
    eventually(lambda: uploads(home) == [], 90, "an empty folder of uploads")


def test_when_a_version_is_compiled_is_said_over_http_and_in_python_as_on_the_command_line(keyed: Keyed) -> None:
    first, path = keyed.stock.first, "/api/models/later/versions"
    files = {"model": ("first.joblib", first.read_bytes())}
    later = keyed.client.post(path, files=files, data={"compile": "background"}).json()
    assert later["manifest"]["compile_later"]
    with Client(keyed.server.url, key=keyed.keys["admin"]) as client:
        never = client.push("never", first, compile="off")
        assert not never.manifest.compile_later
        assert never.manifest.proof is None
        with pytest.raises(SettingsError, match="wait, background or off, got 'soon'"):
            client.push("never", first, compile="soon")  # type: ignore[arg-type]


@pytest.mark.slow
def test_a_push_over_http_that_waits_tells_the_race(keyed: Keyed) -> None:
    files = {"model": ("first.joblib", keyed.stock.first.read_bytes())}
    told = keyed.client.post("/api/models/compiled/versions", files=files, data={"compile": "wait"}).json()
    assert told["manifest"].get("proof"), told["manifest"]["steps"]
    assert [attempt for attempt in told["proof"]["attempts"] if attempt["outcome"] == "serves"]
    assert told["proof"] == told["manifest"]["proof"]
    shown = run("show", "compiled", *keyed.remote(), home=keyed.stock.home).stdout
    assert "× as fast; proved on" in shown
    assert "µs at 1,000" in shown


def test_a_folder_is_pushed_over_http_with_what_lies_in_it(keyed: Keyed, tmp_path: Path) -> None:
    folder = scripted_model(tmp_path / "scripted-folder")
    report = answer("push", "scripted2", folder, *keyed.remote(), home=keyed.stock.home)
    paths = {entry["path"] for entry in report["manifest"]["forms"][0]["files"]}
    assert {"model/scripted.py", "model/lagar.toml", "model/example.json"} <= paths
    assert report["card"]["kind"] == "custom"


def test_a_file_by_itself_is_a_push_too(keyed: Keyed) -> None:
    data = keyed.stock.first.read_bytes()
    query = "?filename=first.joblib&version=raw&metric=a=1&metric=b=2"
    told = keyed.client.post(f"/api/models/wine/versions{query}", content=data)
    assert told.status_code == 201, told.text
    assert told.json()["card"]["metrics"] == {"a": 1.0, "b": 2.0}
    assert told.headers["location"] == "/api/models/wine/versions/raw"
    assert keyed.client.get(told.headers["location"]).json() == told.json()


def test_a_push_tells_its_steps_as_lines_when_they_are_asked_for(keyed: Keyed) -> None:
    files = {"model": ("first.joblib", keyed.stock.first.read_bytes())}
    headers = {"Accept": NDJSON}
    with keyed.client.stream("POST", "/api/models/lines/versions", files=files, headers=headers) as told:
        assert (told.status_code, told.headers["content-type"]) == (200, NDJSON)
        lines = [json.loads(line) for line in told.iter_lines()]
    assert [line["step"] for line in lines if line.get("words")][:3] == ["scan", "load", "signature"]
    assert lines[-1]["version"]["card"]["version"] == "1"


def test_a_refused_push_over_http_names_the_step_and_no_folder_of_the_server(shared: Keyed) -> None:
    files = {"model": ("model.joblib", b"this is no model at all")}
    error = error_of(shared.client.post("/api/models/bad/versions", files=files), 422)
    assert (error["code"], error["step"]) == ("refused", "scan")
    assert "model.joblib" in error["message"]
    assert str(shared.stock.home) not in error["message"]
    told = shared.client.post("/api/models/bad/versions", files=files, headers={"Accept": NDJSON})
    last = json.loads(told.text.splitlines()[-1])
    assert (told.status_code, last["error"]["step"]) == (200, "scan")
    assert error_of(shared.client.get("/api/models/bad"), 404)
    taken = {"model": ("other.joblib", shared.stock.second.read_bytes())}
    again = shared.client.post("/api/models/wine/versions", files=taken, data={"version": "v1.0.9"})
    assert error_of(again, 409)["code"] == "version_exists"
    eventually(lambda: uploads(shared.stock.home) == [], 90, "an empty folder of uploads")


@pytest.mark.parametrize(
    ("query", "parts", "words"),
    [
        ("", None, "filename"),
        ("?filename=m.joblib&lable=x", None, "'label'|'lable'"),
        ("?filename=..", None, "a name"),
        ("?filename=m.joblib&trust=perhaps", None, "true or false"),
        ("?filename=m.joblib&compile=later", None, "wait, background or off, got 'later'"),
        ("?filename=m.joblib&metric=high", None, "accuracy=0.98"),
        ("?filename=m.joblib&metric=auc=1&metric=auc=0", None, "'auc' is given twice: 1 and 0"),
        ("?filename=m.joblib&version=1&version=2", None, "'version' is given 2 times"),
        ("", {"modell": ("m.joblib", b"x")}, "did you mean 'model'"),
        ("", {"example": ("rows.csv", b"x")}, "the part 'model'"),
        ("", {"model": (None, b"x")}, "give it a filename"),
    ],
)
def test_a_push_that_is_not_understood_says_what_one_looks_like(
    shared: Keyed, query: str, parts: Any, words: str
) -> None:
    options: dict[str, Any] = {"content": b"x"} if parts is None else {"files": parts}
    error = error_of(shared.client.post(f"/api/models/wine/versions{query}", **options), 400)
    assert any(word in error["message"] for word in words.split("|")), error["message"]


def test_broken_multipart_is_refused(shared: Keyed) -> None:
    kind = {"Content-Type": "multipart/form-data; boundary=b"}
    whole = b'--b\r\nContent-Disposition: form-data; name="model"; filename="m.joblib"\r\n\r\nx\r\n--b--\r\n'
    for body in (
        b"no boundary here",
        whole[:-12],
        whole.replace(b"form-data", b"attachment"),
        b"--b\r\n\r\nx\r\n--b--",
    ):
        assert error_of(shared.client.post("/api/models/w/versions", content=body, headers=kind), 400)
    empty = {"Content-Type": "multipart/form-data"}
    assert (
        "boundary"
        in error_of(shared.client.post("/api/models/w/versions", content=whole, headers=empty), 400)["message"]
    )
    packed = {"Content-Encoding": "gzip"}
    assert error_of(shared.client.post("/api/models/w/versions?filename=m", content=b"x", headers=packed), 400)


def test_a_folder_that_leads_out_of_itself_is_refused(shared: Keyed, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "evil.tar", "w") as archive:
        archive.add(shared.stock.first, "../../evil.joblib")
    files = {"model": ("evil", (tmp_path / "evil.tar").read_bytes(), "application/vnd.lagar.folder+tar")}
    error = error_of(shared.client.post("/api/models/evil/versions", files=files), 422)
    assert "leads out" in error["message"]
    assert not (shared.stock.home / "uploads").joinpath("evil.joblib").exists()


def pss_mb(pid: int) -> float:
    """What a process holds."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024


def noise(count: int) -> Iterator[bytes]:
    """Bytes that are no model, a megabyte at a time."""
    piece = os.urandom(1_000_000)
    for _ in range(count // len(piece)):
        yield piece


def test_three_hundred_megabytes_go_to_disk_without_being_held(shared: Keyed) -> None:
    pids = [*shared.server.workers(), shared.server.control()]
    before = sum(map(pss_mb, pids))
    most = 0.0

    def watched() -> Iterator[bytes]:
        nonlocal most
        for number, piece in enumerate(noise(UPLOAD_BYTES)):
            if number % 20 == 0:
                most = max(most, sum(map(pss_mb, pids)))
            yield piece

    path = "/api/models/noise/versions?filename=noise.joblib"
    told = shared.client.post(path, content=watched(), headers={"Accept": NDJSON})
    last = json.loads(told.text.splitlines()[-1])
    assert last["error"]["step"] == "scan", last
    assert most - before < 60
    assert sum(map(pss_mb, pids)) - before < 60
    eventually(lambda: uploads(shared.stock.home) == [], 90, "an empty folder of uploads")


def test_a_push_over_the_limit_is_413_and_other_bodies_keep_their_own(serve: Any, stock: Stock, tmp_path: Path) -> None:
    key = keys_for_each_scope(stock.home)["admin"]
    env = {"LAGAR_MAX_BODY_BYTES": "1000", "LAGAR_MAX_UPLOAD_BYTES": "200000"}
    server = serve(scripted_model(tmp_path / "m"), home=stock.home, env=env)
    headers = {"X-Api-Key": key}
    path = f"{server.url}/api/models/wine/versions?filename=big.joblib"
    announced = httpx.post(path, content=bytes(200_001), headers=headers, timeout=60)
    assert "max_upload_bytes" in error_of(announced, 413)["message"]
    unannounced = httpx.post(path, content=noise(1_000_000), headers=headers, timeout=60)
    assert "max_upload_bytes" in error_of(unannounced, 413)["message"]
    assert error_of(httpx.post(path, content=bytes(150_000), headers=headers, timeout=60), 422)["step"] == "scan"
    other = httpx.post(f"{server.url}/predict", content=b" " * 1001, headers=headers, timeout=60)
    assert "max_body_bytes" in error_of(other, 413)["message"]
    eventually(lambda: uploads(stock.home) == [], 90, "an empty folder of uploads")


def head(path: str, length: int, key: str) -> bytes:
    lines = (f"POST {path} HTTP/1.1", "Host: a", f"Accept: {NDJSON}", f"Content-Length: {length}", f"X-Api-Key: {key}")
    return "\r\n".join((*lines, "", "")).encode()


@pytest.mark.parametrize("end", [Wire.finish, lambda wire: wire.sock.close()], ids=["half-closed", "closed"])
def test_an_upload_that_is_cut_in_the_middle_leaves_nothing(shared: Keyed, end: Callable[[Wire], None]) -> None:
    home = shared.stock.home
    with Wire(shared.server.port) as wire:
        wire.send(head("/api/models/cut/versions?filename=cut.joblib", 10_000_000, shared.keys["admin"]))
        wire.send(bytes(2_000_000))
        eventually(lambda: uploads(home), 90, "a folder for the upload")
        end(wire)
        eventually(lambda: uploads(home) == [], 90, "an empty folder of uploads")
    assert error_of(shared.client.get("/api/models/cut"), 404)
    with open_releases(home) as releases:
        assert releases.audit("cut") == []


def intakes(control: int) -> list[int]:
    return [pid for pid, command in children_of(control).items() if "lagar.control.pushing" in command]


def test_whoever_leaves_during_the_intake_leaves_nothing_and_nobody_waits(shared: Keyed, tmp_path: Path) -> None:
    data = quick_model(tmp_path / "slow.joblib").read_bytes()
    control = shared.server.control()
    with Wire(shared.server.port) as wire:
        path = "/api/models/left/versions?filename=slow.joblib"
        wire.send(head(path, len(data), shared.keys["admin"]) + data)
        eventually(lambda: intakes(control), 90, "the intake")
        assert shared.client.get("/api/models").status_code == 200  # control answers meanwhile
    eventually(lambda: not intakes(control), 90, "the end of the intake")
    eventually(lambda: uploads(shared.stock.home) == [], 90, "an empty folder of uploads")
    assert error_of(shared.client.get("/api/models/left"), 404)


def test_ctrl_c_ends_a_push_to_a_server_too(shared: Keyed, tmp_path: Path) -> None:
    model = endless_model(tmp_path / "m")
    last = interrupted("endless", model, *shared.remote(), home=tmp_path / "home")
    assert re.fullmatch("lagar: interrupted at (scan|load): nothing of it was kept", last)
    eventually(lambda: uploads(shared.stock.home) == [], 90, "an empty folder of uploads")
    assert error_of(shared.client.get("/api/models/endless"), 404)


def test_uploads_of_a_killed_server_are_removed_by_the_next_push(stock: Stock) -> None:
    from lagar.registry.home import Home

    left = stock.home / "uploads" / "push-left"
    left.mkdir(parents=True)
    (left / "owner.lock").touch()
    with Home(stock.home).upload_folder() as folder:
        assert uploads(stock.home) == [folder]
    assert uploads(stock.home) == []


def test_a_promote_over_http_waits_for_servers_as_the_command_does(keyed: Keyed) -> None:
    with open_releases(keyed.stock.home) as releases:
        releases.lease("s1", "http://one:8080", 0, True)
        told = keyed.client.post("/api/models/wine/promote", json={"version": "v1.0.9"})
        assert (told.status_code, told.json()["waiting"]) == (202, ["http://one:8080"])
        number = told.json()["number"]
        late = keyed.client.get(f"/api/generations/{number}?wait=0.2").json()
        assert late["state"] == "prepare"
        releases.report(number, "s1", False, "it does not load")
        ended = keyed.client.get(f"/api/generations/{number}?wait=20").json()
    assert (ended["state"], ended["reason"]) == ("failed", "http://one:8080: it does not load")
    assert keyed.client.get("/api/models/wine/traffic").json()["weights"] == {}
