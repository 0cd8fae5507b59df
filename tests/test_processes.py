"""Supervisor, workers and control as real processes: deaths, drains, signals, readiness, reload."""

from __future__ import annotations

import http.client
import json
import os
import re
import resource
import signal
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import httpx
import pytest

from conftest import Serve, Trained
from lagar.settings import ServerSettings
from support.models import SCRIPTED, is_running, scripted_model
from support.server import LagarServer, children_of, is_alive, lagar, wait_gone
from support.wait import eventually


@pytest.fixture
def scripted(tmp_path: Path) -> Path:
    """A model that waits as long as its rows say: loads at once, needs no library."""
    return scripted_model(tmp_path / "scripted")


@pytest.fixture(scope="module")
def four_workers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LagarServer]:
    """A server with four workers that the tests only look at."""
    folder = tmp_path_factory.mktemp("four")
    with LagarServer(
        scripted_model(folder / "m"), home=folder / "home", workers=4, env={"OMP_NUM_THREADS": "64"}
    ) as server:
        yield server


def predict(server: LagarServer, seconds: float, tag: int) -> Any:
    """The predictions for one row, on a connection of its own; OSError or HTTPException when it is lost."""
    with closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)) as connection:
        return predict_on(connection, seconds, tag)


def predict_on(connection: http.client.HTTPConnection, seconds: float, tag: int) -> Any:
    body = json.dumps({"seconds": seconds, "tag": tag})
    connection.request("POST", "/predict", body, {"Content-Type": "application/json"})
    with closing(connection.getresponse()) as response:
        answer = json.loads(response.read())
        assert response.status == 200, answer
        return answer["predictions"]


IN_A_WORKER = '        if str(__import__("__main__").__file__).endswith("worker.py"):\n'
"""Code of a model that intake, in its own process, passes over."""


def below(pid: int) -> dict[int, str]:
    """pid → command line of all descendants of a process."""
    found = children_of(pid)
    for child in list(found):
        found |= below(child)
    return found


LOST = (OSError, http.client.HTTPException, AssertionError)
"""How a request ends that was not answered, or not with a prediction."""


def request_bytes(seconds: float, tag: int) -> bytes:
    body = json.dumps({"seconds": seconds, "tag": tag}).encode()
    head = f"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def read_answer(sock: socket.socket) -> tuple[int, Any]:
    """Status and decoded body of one answer; raises when the connection ends before it."""
    response = http.client.HTTPResponse(sock)
    response.begin()
    with closing(response):
        return response.status, json.loads(response.read())


def worker_of_connections(server: LagarServer) -> Counter[int]:
    """Worker pid → established connections of the server's port that it holds."""
    wanted = f":{server.port:04X}"
    inodes = set()
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[1].endswith(wanted) and fields[3] == "01":
            inodes.add(f"socket:[{fields[9]}]")
    counts: Counter[int] = Counter()
    for pid in server.workers():
        for fd in Path(f"/proc/{pid}/fd").iterdir():
            try:
                counts[pid] += os.readlink(fd) in inodes
            except OSError:
                continue
    return counts


# Readiness and restarts


def test_a_killed_worker_is_restarted_while_the_others_answer(serve: Serve, scripted: Path) -> None:
    server = serve(scripted, workers=2)
    killed, survivor = server.workers()
    with ExitStack() as stack:
        held = [http.client.HTTPConnection("127.0.0.1", server.port, timeout=60) for _ in range(16)]
        for connection in held:
            stack.callback(connection.close)
            assert status_of(connection, "/readyz") == 200
        assert worker_of_connections(server)[survivor] > 0
        os.kill(killed, signal.SIGKILL)
        wait_gone([killed])
        alive = [connection for connection in held if status_of(connection, "/healthz") == 200]
        assert alive, "the other worker's connections go on"
        eventually(lambda: status_of(alive[0], "/readyz") == 503, 60, "readiness to be false")
        assert predict_on(alive[0], 0.0, 7) == [7]
        eventually(lambda: status_of(alive[0], "/readyz") == 200, 60, "readiness to be true again")
    assert len(server.workers()) == 2
    assert survivor in server.workers()
    assert "worker 0 is restarted" in server.stderr() or "worker 1 is restarted" in server.stderr()
    assert "SIGKILL" in server.stderr()


def status_of(connection: http.client.HTTPConnection, path: str) -> int | None:
    """The status of a GET on this very connection; None when it is dead (it is not opened again)."""
    try:
        if connection.sock is None:
            connection.connect()
        connection.auto_open = 0
        connection.request("GET", path)
        with closing(connection.getresponse()) as response:
            response.read()
            return response.status
    except (OSError, http.client.HTTPException):
        return None


def test_connections_to_a_dead_worker_wait_for_its_successor(serve: Serve, scripted: Path) -> None:
    server = serve(scripted, workers=1)
    os.kill(server.workers()[0], signal.SIGKILL)
    # not a single refused or reset connection, though nobody is there to accept it at first
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda tag: predict(server, 0.0, tag), range(32)))
    assert answers == [[tag] for tag in range(32)]


def test_the_successor_of_a_dead_worker_goes_on_with_its_counts(serve: Serve, tmp_path: Path) -> None:
    # a process that the model has forked keeps the dead worker's channel open
    fork = "def load(self, path):\n        os.fork() or time.sleep(600)\n"
    model = scripted_model(tmp_path / "m", SCRIPTED.replace("def load(self, path):\n        pass\n", fork))
    server = serve(model)

    def is_counted(times: int) -> bool:
        text = httpx.get(f"{server.url}/metrics", timeout=60).text
        return bool(re.search(rf'^lagar_requests_total{{model="scripted".*status="200".*}} {times}\.0$', text, re.M))

    assert predict(server, 0.0, 1) == [1]
    eventually(lambda: is_counted(1), 60, "the request to be counted")
    os.kill(server.workers()[0], signal.SIGKILL)
    assert predict(server, 0.0, 2) == [2]
    eventually(lambda: is_counted(2), 60, "the counts of both processes, added up")
    (successor,) = server.workers()
    assert "/slot-0.values" in Path(f"/proc/{successor}/maps").read_text()


def test_a_killed_control_process_is_restarted_and_predictions_go_on(serve: Serve, scripted: Path) -> None:
    server = serve(scripted, workers=1)
    before = server.control()
    os.kill(before, signal.SIGKILL)
    assert predict(server, 0.0, 3) == [3]
    eventually(lambda: not server.is_ready() or server.control() != before, 60, "readiness to be false")
    assert predict(server, 0.0, 4) == [4]
    eventually(server.is_ready, 60, "readiness to be true again")
    assert server.control() != before
    assert httpx.get(f"{server.url}/docs", timeout=60).status_code == 200


def test_readiness_says_which_process_is_away(serve: Serve, scripted: Path) -> None:
    server = serve(scripted, workers=1)
    os.kill(server.control(), signal.SIGKILL)
    answer = eventually(lambda: unready(server), 60, "an unready answer")
    assert answer["reason"] == "control is restarting"
    eventually(server.is_ready, 60)


def unready(server: LagarServer) -> Any:
    answer = httpx.get(f"{server.url}/readyz", timeout=60)
    return answer.json() if answer.status_code == 503 else None


@pytest.mark.parametrize("name", ["worker 1", pytest.param("control", marks=pytest.mark.slow)])
def test_a_process_that_stands_still_is_not_ready_and_is_replaced(serve: Serve, scripted: Path, name: str) -> None:
    server = serve(scripted, workers=2, args=["--request-timeout-s", "1"])
    pid = server.control() if name == "control" else server.workers()[1]
    os.kill(pid, signal.SIGSTOP)

    def reason() -> str | None:
        try:  # every second connection goes to the worker that stands still
            return str(httpx.get(f"{server.url}/readyz", timeout=0.5).json().get("reason"))
        except httpx.TimeoutException:
            return None

    eventually(lambda: reason() == f"{name} does not respond", 60, "readiness to fall")
    server.wait_line(f"{name} is restarted: it did not respond for 13 s", 90)
    eventually(server.is_ready, 60, "a successor")
    assert not is_alive(pid)


def test_64_connections_are_spread_over_4_workers(four_workers: LagarServer) -> None:
    server = four_workers
    with ExitStack() as stack:
        for _ in range(64):
            client = stack.enter_context(socket.create_connection(("127.0.0.1", server.port)))
            client.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            assert client.recv(1)
        counts = worker_of_connections(server)
    assert sum(counts.values()) == 64
    assert max(counts.values()) <= 32


def test_libraries_are_told_how_many_threads_they_have(four_workers: LagarServer) -> None:
    most = max(1, len(os.sched_getaffinity(0)) // 4)
    for pid in four_workers.workers():
        variables = Path(f"/proc/{pid}/environ").read_text().split("\0")
        found = {name: value for name, _, value in (entry.partition("=") for entry in variables)}
        for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
            assert 1 <= int(found[name]) <= most


def test_the_supervisor_stays_light(four_workers: LagarServer) -> None:
    maps = Path(f"/proc/{four_workers.pid}/maps").read_text()
    for library in ("numpy", "pyarrow", "onnxruntime", "sklearn"):
        assert f"/{library}/" not in maps, f"the supervisor has loaded {library}"


def test_the_limit_of_open_files_fits_the_connections(four_workers: LagarServer) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for pid in four_workers.workers():
        soft, _ = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        assert soft >= min(ServerSettings().max_connections, hard)


def test_a_key_made_while_the_server_runs_counts_within_seconds(serve: Serve, scripted: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    server = serve(scripted, workers=2, home=home)
    assert predict(server, 0.0, 1) == [1]
    made = lagar("keys", "create", "--name", "app", "--scope", "infer", "--json", home=home)
    assert made.returncode == 0, made.stderr
    key = json.loads(made.stdout)["key"]
    body = {"seconds": 0.0, "tag": 1}

    def closed() -> bool:
        return all(httpx.post(f"{server.url}/predict", json=body, timeout=60).status_code == 401 for _ in range(16))

    eventually(closed, 60, "every worker to ask for the key")
    answer = httpx.post(f"{server.url}/predict", json=body, headers={"Authorization": f"Bearer {key}"}, timeout=60)
    assert answer.status_code == 200


# The end


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "Ctrl-C to the group"])
def test_every_accepted_request_is_answered_before_the_end(serve: Serve, scripted: Path, number: int) -> None:
    server = serve(scripted, workers=2)
    children = list(server.children())
    with ExitStack() as stack:
        clients = []
        for tag in range(24):
            clients.append(stack.enter_context(socket.create_connection(("127.0.0.1", server.port), 60)))
            clients[-1].sendall(request_bytes(0.2, tag))
        server.signal(number, group=number == signal.SIGINT)
        for tag, client in enumerate(clients):
            status, answer = read_answer(client)
            assert (status, answer["predictions"]) == (200, [tag])
    assert server.wait_exit() == 0
    wait_gone(children)
    assert "Traceback" not in server.stderr()
    assert list((server.home / "run").iterdir()) == [], "the run folder is removed"


def test_no_connection_that_was_established_is_lost_by_a_drain(serve: Serve, scripted: Path) -> None:
    server = serve(scripted, workers=2)
    established: list[tuple[int, socket.socket]] = []
    lock, stop = threading.Lock(), threading.Event()

    def flood(start: int) -> None:
        tag = start
        while not stop.is_set():
            client = socket.socket()
            client.settimeout(5)
            try:
                client.connect(("127.0.0.1", server.port))
                client.sendall(request_bytes(0.0, tag))
            except OSError:  # the server takes no more: what counts is what it had taken
                client.close()
                return
            with lock:
                established.append((tag, client))
            tag += 4
            stop.wait(0.002)

    threads = [threading.Thread(target=flood, args=(start,)) for start in range(4)]
    for thread in threads:
        thread.start()
    eventually(lambda: len(established) > 200, 60, "200 connections")
    server.signal(signal.SIGTERM)
    for thread in threads:
        thread.join(10)
    stop.set()
    lost = []
    for tag, client in established:
        client.settimeout(20)
        try:
            status, answer = read_answer(client)
            assert (status, answer["predictions"]) == (200, [tag])
        except OSError as error:
            lost.append((tag, error))
        finally:
            client.close()
    assert not lost, f"{len(lost)} of {len(established)} lost: {lost[:3]}"
    assert server.wait_exit() == 0


def test_a_model_of_the_users_own_is_closed_once_everything_is_answered(serve: Serve, tmp_path: Path) -> None:
    code = """
class Noted:
    def load(self, path): self.path = path
    def predict(self, rows): return [row["a"] for row in rows]
    def close(self): open("CLOSED", "a").write("x")
""".replace("CLOSED", str(tmp_path / "closed"))
    folder = tmp_path / "noted"
    folder.mkdir()
    (folder / "noted.py").write_text(code)
    (folder / "lagar.toml").write_text('class = "noted:Noted"\n[fields]\na = { type = "float" }\n')
    server = serve(folder)
    server.signal(signal.SIGTERM)
    assert server.wait_exit() == 0
    assert (tmp_path / "closed").read_text() == "x"


def test_a_second_signal_stops_at_once(serve: Serve, scripted: Path) -> None:
    server = serve(scripted, workers=1)
    with ThreadPoolExecutor(1) as pool:
        answer: Future[Any] = pool.submit(predict, server, 60.0, 1)
        eventually(lambda: is_running(server.home), 60, "a prediction under way")
        children = list(server.children())
        server.signal(signal.SIGTERM)
        server.wait_line("draining")

        def ended() -> bool:
            if server.process.poll() is None:
                server.signal(signal.SIGTERM)
            return server.process.poll() is not None

        eventually(ended, 60, "the end after another SIGTERM")
        assert server.wait_exit() == 128 + signal.SIGTERM
        with pytest.raises(LOST):
            answer.result()
    wait_gone(children)


def test_a_signal_that_arrives_twice_at_once_is_one(serve: Serve, scripted: Path) -> None:
    server = serve(scripted, workers=1)
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(predict, server, 1.0, 5)
        eventually(lambda: is_running(server.home), 60, "a prediction under way")
        server.signal(signal.SIGINT)
        server.signal(signal.SIGTERM, group=True)
        assert answer.result() == [5]
    assert server.wait_exit() == 0


def test_a_drain_that_takes_too_long_ends_with_an_error(serve: Serve, scripted: Path) -> None:
    server = serve(scripted, workers=1, args=["--drain-timeout-s", "0.5"])
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(predict, server, 60.0, 1)
        eventually(lambda: is_running(server.home), 60, "a prediction under way")
        server.signal(signal.SIGTERM)
        assert server.wait_exit(30) == 1
        with pytest.raises(LOST):
            answer.result()
    assert "still unanswered after drain_timeout_s = 0.5" in server.stderr()


def test_a_signal_while_the_models_load_ends_at_once(serve: Serve, tmp_path: Path) -> None:
    slow = SCRIPTED.replace("        pass\n", f"{IN_A_WORKER}            time.sleep(600)\n", 1)
    server = serve(scripted_model(tmp_path / "m", slow), workers=2, wait=False)
    eventually(lambda: len(server.workers()) == 2, 90, "two workers")
    server.signal(signal.SIGTERM)
    assert server.wait_exit(20) == 0


def test_a_closed_terminal_does_not_end_the_server(serve: Serve, scripted: Path) -> None:
    server = serve(scripted, workers=1)
    server.signal(signal.SIGHUP, group=True)
    assert predict(server, 0.0, 1) == [1]
    assert server.process.poll() is None


def test_no_process_outlives_a_killed_supervisor(serve: Serve, scripted: Path) -> None:
    server = serve(scripted, workers=2)
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(predict, server, 60.0, 1)  # one of them is held by its model
        eventually(lambda: is_running(server.home), 60, "a prediction under way")
        children = list(server.children())
        assert len(children) == 3
        server.signal(signal.SIGKILL)
        wait_gone(children, 60)
        with pytest.raises(LOST):
            answer.result()


def test_the_run_folder_of_a_killed_server_is_swept_by_the_next(serve: Serve, scripted: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    first = serve(scripted, home=home)
    first.kill()
    serve(scripted, home=home)
    assert len(list((home / "run").iterdir())) == 1


# The start


def test_a_signal_during_intake_ends_at_once(serve: Serve, tmp_path: Path) -> None:
    slow = SCRIPTED.replace("        pass\n", "        time.sleep(600)\n", 1)
    server = serve(scripted_model(tmp_path / "m", slow), workers=2, wait=False)
    eventually(lambda: any("sandbox" in line for line in below(server.pid).values()), 90, "the model's process")
    processes = below(server.pid)
    server.signal(signal.SIGTERM)
    assert server.wait_exit() == 0
    wait_gone(processes)


def test_a_worker_that_dies_while_it_loads_ends_the_server(serve: Serve, tmp_path: Path) -> None:
    source = SCRIPTED.replace("        pass\n", f"{IN_A_WORKER}            os._exit(7)\n", 1)
    server = serve(scripted_model(tmp_path / "m", source), workers=2, wait=False)
    assert server.wait_exit() == 1
    last = server.stderr().strip().splitlines()[-1]
    said = r"lagar: worker [01] ended with exit code 7 while it was starting; it had to load scripted@\w+: open that"
    assert re.match(said, last), last
    assert children_of(server.pid) == {}


def test_a_worker_that_keeps_dying_is_given_time(serve: Serve, tmp_path: Path) -> None:
    ill = tmp_path / "ill"
    source = SCRIPTED.replace("        pass\n", f"        if os.path.exists({str(ill)!r}): os._exit(7)\n", 1)
    server = serve(scripted_model(tmp_path / "m", source), workers=1)
    ill.touch()
    os.kill(server.workers()[0], signal.SIGKILL)
    server.wait_line(lambda line: "worker 0 is restarted" in line and "delay_s" in line)
    ill.unlink()
    eventually(server.is_ready, 60, "readiness after the repair")
    assert is_alive(server.pid)


# Reload


def test_debug_reloads_a_changed_model_and_keeps_the_old_one_when_the_new_one_fails(
    serve: Serve, tmp_path: Path
) -> None:
    folder = scripted_model(tmp_path / "m")
    code = folder / "scripted.py"
    server = serve(folder, workers=2, args=["--debug"])
    before = server.workers()
    stop = threading.Event()
    seen: list[Any] = []

    def ask() -> None:
        while not stop.is_set():
            seen.append(predict(server, 0.0, 1))

    with ThreadPoolExecutor(1) as pool:
        asking = pool.submit(ask)
        try:
            code.write_text("this is no Python\n")
            server.wait_line(lambda line: "is not served; scripted@" in line and "goes on" in line)
            assert predict(server, 0.0, 1) == [1]
            assert server.workers() == before

            code.write_text(SCRIPTED.replace("offset = 0", "offset = 100"))
            server.wait_line("switched")
            eventually(lambda: predict(server, 0.0, 1) == [101], 60, "the changed code")
            assert predict(server, 0.0, 1) == [101]
            eventually(lambda: not set(server.workers()) & set(before), 60, "the end of the workers with the old code")
        finally:
            stop.set()
        asking.result()  # no request failed meanwhile
    assert seen[0] == [1]
    assert seen[-1] == [101]
    assert {answer[0] for answer in seen} == {1, 101}


def test_without_debug_a_changed_file_changes_nothing(serve: Serve, wine: Trained, tmp_path: Path) -> None:
    path = tmp_path / "model.joblib"
    path.write_bytes(wine.path.read_bytes())
    server = serve(path, workers=1)
    before = server.workers()
    path.write_bytes(b"rubbish")
    answer = httpx.post(f"{server.url}/predict", json=wine.records[0], timeout=60)
    assert answer.json()["predictions"] == wine.model.predict(wine.rows[:1]).tolist()
    assert server.workers() == before
