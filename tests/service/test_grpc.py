"""V2 over gRPC as a client sees it: a real server and grpcio's own channel."""

from __future__ import annotations

import re
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from concurrent import futures
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import httpx
import numpy as np
import pytest

from support.inference import HEALTH, REFLECTION, REPOSITORY, V2, Client, files, message, output, request
from support.keys import keys_for_each_scope
from support.server import LagarServer, is_ready_line
from support.wait import eventually
from wire.conftest import gate_model

MAX_BODY_BYTES = 3_000_000
ROW = [13.2, 2.8, 3.2, 5.6]


class Served(NamedTuple):
    server: LagarServer
    target: str
    client: Client
    http: httpx.Client


def grpc_target(server: LagarServer) -> str:
    found = re.search(r"  grpc: (\S+)  models: ", server.wait_line(is_ready_line))
    assert found
    return found[1]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, logistic: Any, text: Any) -> Iterator[Served]:
    """A matrix model, one that takes text, and one that waits for its gate."""
    folder = tmp_path_factory.mktemp("grpc")
    paths = (logistic.path, text.path, gate_model(folder / "gate"))
    env = {"LAGAR_MAX_BODY_BYTES": str(MAX_BODY_BYTES)}
    with (
        LagarServer(*paths, home=folder / "home", args=["--grpc-port", "0"], env=env) as server,
        Client(grpc_target(server), max_receive_message_length=-1) as client,
        httpx.Client(base_url=server.url, timeout=60) as http,
    ):
        yield Served(server, grpc_target(server), client, http)


def refusal(call: Any, *args: Any, **options: Any) -> grpc.RpcError:
    with pytest.raises(grpc.RpcError) as refused:
        call(*args, **options)
    return refused.value


def rows(n: int) -> tuple[str, str, list[int], list[float]]:
    return ("x", "FP64", [n, 4], ROW * n)


def test_the_server_says_that_it_lives_is_ready_and_what_it_is(served: Served) -> None:
    client, http = served.client, served.http
    assert client.call("ServerLive").live
    assert client.call("ServerReady").ready
    about, told = client.call("ServerMetadata"), http.get("/v2").json()
    assert (about.name, about.version, list(about.extensions)) == (told["name"], told["version"], told["extensions"])


def test_a_model_is_ready_and_described_as_over_http(served: Served) -> None:
    client, http = served.client, served.http
    version = served.server.version("logistic")
    assert client.call("ModelReady", name="logistic").ready
    assert client.call("ModelReady", name="logistic", version=version).ready
    for name in ("logistic", "products"):
        about, told = client.call("ModelMetadata", name=name), http.get(f"/v2/models/{name}").json()
        assert (about.name, list(about.versions), about.platform) == (name, told["versions"], told["platform"])
        for ours, theirs in ((about.inputs, told["inputs"]), (about.outputs, told["outputs"])):
            described = [{"name": t.name, "datatype": t.datatype, "shape": list(t.shape)} for t in ours]
            assert described == [{key: tensor[key] for key in ("name", "datatype", "shape")} for tensor in theirs]


def test_configuration_and_statistics_are_those_of_http(served: Served) -> None:
    client, http = served.client, served.http
    client.infer(request("logistic", rows(2)))
    config, told = client.call("ModelConfig", name="products").config, http.get("/v2/models/products/config").json()
    assert (config.name, config.backend, config.max_batch_size) == ("products", "lagar", told["max_batch_size"])
    assert config.WhichOneof("scheduling_choice") == "dynamic_batching"
    types = config.input[0].DESCRIPTOR.fields_by_name["data_type"].enum_type.values_by_number
    for ours, theirs in ((config.input, told["input"]), (config.output, told["output"])):
        listed = [{"name": t.name, "data_type": types[t.data_type].name, "dims": list(t.dims)} for t in ours]
        assert listed == theirs
    (counted,) = client.call("ModelStatistics", name="logistic").model_stats
    assert counted.version == served.server.version("logistic")
    assert counted.inference_stats.success.count >= 1
    assert counted.inference_count >= 2 * counted.execution_count > 0
    assert {one.name for one in client.call("ModelStatistics").model_stats} == {"logistic", "products", "gate"}
    refused = refusal(client.call, "ModelStatistics", name="tulips")
    assert (refused.code(), refused.details()) == (grpc.StatusCode.NOT_FOUND, "Model tulips not found")


@pytest.mark.parametrize("raw", [False, True])
@pytest.mark.parametrize("datatype", ["FP64", "FP32"])
def test_numbers_are_those_of_http(served: Served, raw: bool, datatype: str) -> None:
    values = [float(np.float32(value)) for value in ROW * 3]
    names = ["predict", "predict_proba"]
    body = {
        "inputs": [{"name": "x", "shape": [3, 4], "datatype": datatype, "data": values}],
        "outputs": [{"name": name} for name in names],
    }
    expected = served.http.post("/v2/models/logistic/infer", json=body).json()
    answer = served.client.infer(request("logistic", ("x", datatype, [3, 4], values), raw=raw, outputs=names))
    assert answer.model_name == "logistic"
    assert answer.model_version == expected["model_version"]
    assert bool(answer.raw_output_contents) is raw
    for position, told in enumerate(expected["outputs"]):
        tensor = answer.outputs[position]
        assert (tensor.name, tensor.datatype, list(tensor.shape)) == (told["name"], told["datatype"], told["shape"])
        assert output(answer, position) == told["data"]


@pytest.mark.parametrize("raw", [False, True])
def test_text_goes_in_and_out(served: Served, text: Any, raw: bool) -> None:
    words = ["boneca de pano", "livro de história", ""]
    expected = served.http.post(
        "/v2/models/products/infer",
        json={"inputs": [{"name": "x", "shape": [3], "datatype": "BYTES", "data": words}]},
    ).json()["outputs"][0]["data"]
    asked = request("products", ("x", "BYTES", [3], [word.encode() for word in words]), raw=raw)
    answer = served.client.infer(asked)
    assert [value.decode() for value in output(answer)] == expected
    assert answer.outputs[0].datatype == "BYTES"


def test_a_version_may_be_named(served: Served) -> None:
    version = served.server.version("logistic")
    answer = served.client.infer(request("logistic", rows(1), version=version))
    assert answer.model_version == version
    refused = refusal(served.client.infer, request("logistic", rows(1), version="none-such"))
    assert refused.code() is grpc.StatusCode.NOT_FOUND
    assert refused.details() == "Model logistic with version none-such not found"


def test_the_id_is_echoed_and_without_one_it_is_the_requests(served: Served) -> None:
    call = served.client.method("ModelInfer").with_call
    answer, about = call(request("logistic", rows(1), id="flower-1"), metadata=[("x-request-id", "r-7")], timeout=60)
    assert answer.id == "flower-1"
    assert dict(about.initial_metadata())["x-request-id"] == "r-7"
    answer, about = call(request("logistic", rows(1)), timeout=60)
    assert answer.id == dict(about.initial_metadata())["x-request-id"]


MISTAKES: dict[str, tuple[str, tuple[tuple[str, str, list[int], list[Any]], ...]]] = {
    "unknown model": ("tulips", (("x", "FP64", [1, 4], ROW),)),
    "no inputs": ("logistic", ()),
    "wrong width": ("logistic", (("x", "FP64", [1, 3], ROW[:3]),)),
    "wrong size": ("logistic", (("x", "FP64", [2, 4], ROW),)),
    "no rows": ("logistic", (("x", "FP64", [0, 4], []),)),
    "negative shape": ("logistic", (("x", "FP64", [-1, 4], ROW),)),
    "text for numbers": ("logistic", (("x", "BYTES", [1, 4], [b"a", b"b", b"c", b"d"]),)),
    "numbers for text": ("products", (("x", "FP64", [1], [1.0]),)),
    "out of the range": ("logistic", (("x", "INT8", [1, 4], [1, 2, 3, 400]),)),
    "twice": ("logistic", (("x0", "FP64", [1], [1.0]), ("x0", "FP64", [1], [1.0]))),
    "uneven": ("logistic", (("x0", "FP64", [1], [1.0]), ("x1", "FP64", [2], [1.0, 2.0]))),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_has_the_words_that_it_has_over_http(served: Served, mistake: str) -> None:
    name, tensors = MISTAKES[mistake]
    inputs = [
        {"name": n, "datatype": d, "shape": s, "data": [v.decode() if isinstance(v, bytes) else v for v in values]}
        for n, d, s, values in tensors
    ]
    told = served.http.post(f"/v2/models/{name}/infer", json={"inputs": inputs})
    refused = refusal(served.client.infer, request(name, *tensors))
    wanted = {400: grpc.StatusCode.INVALID_ARGUMENT, 404: grpc.StatusCode.NOT_FOUND}[told.status_code]
    assert (refused.code(), refused.details()) == (wanted, told.json()["error"])


def test_contents_in_the_wrong_place_are_named(served: Served) -> None:
    asked = request("logistic", rows(1))
    asked.inputs[0].contents.int_contents.append(1)
    refused = refusal(served.client.infer, asked)
    assert refused.details() == "input 'x' has datatype FP64, whose values belong into fp64_contents, got int_contents"
    asked = request("logistic", rows(1))
    asked.raw_input_contents.append(b"\0" * 32)
    assert "beside raw_input_contents" in refusal(served.client.infer, asked).details()
    asked = request("logistic", rows(1), raw=True)
    asked.raw_input_contents.append(b"")
    assert refusal(served.client.infer, asked).details() == (
        "raw_input_contents has 2 entries for 1 inputs: one for each, or none"
    )


def test_a_size_beside_raw_contents_says_nothing(served: Served) -> None:
    """KServe's client writes V2's parameters of binary data over gRPC too."""
    asked = request("logistic", rows(2), raw=True, outputs=["predict"])
    plain = served.client.infer(asked)
    asked.inputs[0].parameters["binary_data_size"].int64_param = 64
    asked.outputs[0].parameters["binary_data"].bool_param = True
    assert list(served.client.infer(asked).raw_output_contents) == list(plain.raw_output_contents)


def test_what_is_no_method_and_what_is_no_message_is_said(served: Served) -> None:
    unknown = served.client.channel.unary_unary("/inference.GRPCInferenceService/ModelForget")
    assert refusal(unknown, b"", timeout=60).code() is grpc.StatusCode.UNIMPLEMENTED
    broken = served.client.channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
    refused = refusal(broken, b"\x0a\xff", timeout=60)
    assert refused.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "protocol buffers" in refused.details()
    assert refusal(broken, b"", timeout=60).details() == "'model_name' is missing: the name of the model"


def test_large_messages_and_answers_go_through_whole(served: Served, logistic: Any) -> None:
    n = 20_000
    answer = served.client.infer(request("logistic", rows(n), raw=True, outputs=["predict_proba"]))
    told = np.array(output(answer)).reshape(n, -1)
    assert (told == told[0]).all()
    assert len(served.client.infer(request("logistic", rows(n))).outputs[0].contents.int64_contents) == n


def test_a_message_beyond_the_limit_is_refused_before_it_is_there(served: Served) -> None:
    refused = refusal(served.client.infer, request("logistic", rows(100_000), raw=True))
    assert refused.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert f"the limit is {MAX_BODY_BYTES} bytes" in refused.details()
    assert served.client.infer(request("logistic", rows(1))).outputs


def test_many_calls_share_a_connection(served: Served) -> None:
    call = served.client.method("ModelInfer").future
    sent = [call(request("logistic", rows(1 + number % 5), id=str(number)), timeout=60) for number in range(600)]
    assert [one.result().id for one in sent] == [str(number) for number in range(600)]


def test_compressed_messages_are_read(served: Served) -> None:
    plain = served.client.infer(request("logistic", rows(50)))
    for kind in (grpc.Compression.Gzip, grpc.Compression.Deflate):
        packed = served.client.infer(request("logistic", rows(50), id="z"), compression=kind)
        assert packed.outputs == plain.outputs
    bomb = request("logistic", rows(500_000), raw=True)
    assert len(bomb.SerializeToString()) > 4 * MAX_BODY_BYTES
    refused = refusal(served.client.infer, bomb, compression=grpc.Compression.Gzip)
    assert refused.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "once unpacked" in refused.details()


def waiting(gate: Path) -> tuple[Any, ...]:
    """The inputs of a call that the gated model answers once the gate is there."""
    return ("value", "FP64", [1], [7.0]), ("gate", "BYTES", [1], [str(gate).encode()])


def test_a_deadline_is_kept_and_hurts_nobody_else(served: Served, tmp_path: Path) -> None:
    shut = tmp_path / "shut"
    refused = refusal(served.client.infer, request("gate", *waiting(shut)), timeout=0.5)
    assert refused.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert served.client.infer(request("logistic", rows(1))).outputs
    shut.touch()
    answer = served.client.infer(request("gate", *waiting(shut)), timeout=60)
    assert output(answer) == [7.0]


def test_a_call_that_is_taken_back_leaves_the_queue(served: Served, tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    call = served.client.method("ModelInfer").future
    running = call(request("gate", *waiting(first)), timeout=60)
    eventually(Path(f"{first}.entered").exists, 60, "the model's call")
    behind = call(request("gate", *waiting(second)), timeout=60)
    last = call(request("gate", *waiting(first), id="last"), timeout=60)
    assert not behind.done()
    behind.cancel()
    first.touch()
    assert running.result().outputs
    assert last.result().id == "last"
    assert not Path(f"{second}.entered").exists()


def test_health_is_that_of_the_server_and_of_each_model(served: Served) -> None:
    serving = 1
    for name in ("", "logistic", "gate", V2, REPOSITORY):
        assert served.client.call("Check", HEALTH, service=name).status == serving
    refused = refusal(served.client.call, "Check", HEALTH, service="tulips")
    assert refused.code() is grpc.StatusCode.NOT_FOUND
    assert served.client.call("List", HEALTH).statuses["products"].status == serving
    watch = served.client.method("Watch", HEALTH)
    ask = message("grpc.health.v1.HealthCheckRequest")
    for name, status in (("logistic", serving), ("tulips", 3)):
        stream = watch(ask(service=name), timeout=60)
        assert next(stream).status == status
        stream.cancel()


@pytest.mark.parametrize("package", REFLECTION)
def test_reflection_says_what_the_services_are(served: Served, package: str) -> None:
    ask = message(f"{package}.ServerReflectionRequest")
    questions = [
        ask(list_services=""),
        ask(file_containing_symbol=f"{V2}.ModelInfer"),
        ask(file_by_filename="lagar/health.proto"),
        ask(file_containing_symbol="tulips"),
    ]
    listed, of_v2, of_health, of_nothing = served.client.method("ServerReflectionInfo", f"{package}.ServerReflection")(
        iter(questions), timeout=60
    )
    names = {service.name for service in listed.list_services_response.service}
    assert {V2, REPOSITORY, HEALTH, f"{package}.ServerReflection"} <= names
    described = {file.name: file.descriptor() for file in files()}
    assert list(of_v2.file_descriptor_response.file_descriptor_proto) == [described["lagar/inference.proto"]]
    assert list(of_health.file_descriptor_response.file_descriptor_proto) == [described["lagar/health.proto"]]
    assert of_nothing.error_response.error_code == grpc.StatusCode.NOT_FOUND.value[0]
    assert of_v2.original_request == questions[1]


def test_calls_are_counted_as_those_of_grpc(served: Served) -> None:
    def counted(status: str) -> float:
        labels = f'lagar_requests_total{{model="logistic",protocol="grpc",status="{status}"'
        lines = [line for line in served.http.get("/metrics").text.splitlines() if line.startswith(labels)]
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines)

    good, bad = counted("200"), counted("400")
    served.client.infer(request("logistic", rows(1)))
    refusal(served.client.infer, request("logistic"))
    eventually(lambda: (counted("200"), counted("400")) == (good + 1, bad + 1), 60, "the counters")
    (open_now,) = re.findall(r"^lagar_connections (\d+)", served.http.get("/metrics").text, re.MULTILINE)
    assert int(open_now) >= 2, "one of each protocol"


def test_who_speaks_http_1_is_told_what_this_port_is(served: Served) -> None:
    host, port = served.target.split(":")
    with socket.create_connection((host, int(port)), timeout=60) as sock:
        sock.sendall(b"GET /v2 HTTP/1.1\r\nHost: a\r\n\r\n")
        answer = b""
        while data := sock.recv(4096):
            answer += data
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"gRPC" in answer


def test_one_batch_holds_calls_of_both_protocols(served: Served, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    call = served.client.method("ModelInfer").future
    first = call(request("gate", *waiting(gate)), timeout=60)
    eventually(Path(f"{gate}.entered").exists, 60, "the model's call")
    later = call(request("gate", ("value", "FP64", [1], [8.0])), timeout=60)
    with futures.ThreadPoolExecutor(1) as pool:
        native = pool.submit(served.http.post, "/models/gate/predict", json={"value": 9.0, "gate": ""})
        gate.touch()
        assert [output(first.result()), output(later.result())] == [[7.0], [8.0]]
        assert native.result().json()["predictions"] == [9.0]


# TLS, keys, and the end of a server


@pytest.fixture(scope="module")
def pem(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with cert.pem and key.pem for 127.0.0.1."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is needed to make a certificate")
    folder = tmp_path_factory.mktemp("pem")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout",
         "key.pem", "-out", "cert.pem", "-days", "2", "-subj", "/CN=127.0.0.1", "-addext",
         "subjectAltName=IP:127.0.0.1"],
        cwd=folder, check=True, capture_output=True,
    )  # fmt: skip
    return folder


class Locked(NamedTuple):
    client: Client
    keys: dict[str, str]


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory, pem: Path, logistic: Any) -> Iterator[Locked]:
    """A server with a certificate and a key for each scope."""
    home = tmp_path_factory.mktemp("locked") / "home"
    keys = keys_for_each_scope(home)
    args = ["--grpc-port", "0", "--tls-cert", pem / "cert.pem", "--tls-key", pem / "key.pem"]
    trusted = grpc.ssl_channel_credentials((pem / "cert.pem").read_bytes())
    with (
        LagarServer(logistic.path, home=home, args=args) as server,
        Client(grpc_target(server), credentials=trusted) as client,
    ):
        yield Locked(client, keys)


def bearer(key: str) -> list[tuple[str, str]]:
    return [("authorization", f"Bearer {key}")]


def test_inside_tls_a_key_opens_what_its_scope_says(locked: Locked) -> None:
    client, keys = locked
    good = client.infer(request("logistic", rows(1)), metadata=bearer(keys["infer"]))
    assert good.outputs
    assert client.infer(request("logistic", rows(1)), metadata=[("x-api-key", keys["infer"])]).outputs == good.outputs
    assert client.call("ServerMetadata", metadata=bearer(keys["read"])).name == "lagar"
    assert client.call("ModelMetadata", name="logistic", metadata=bearer(keys["admin"])).name == "logistic"
    assert client.infer(request("logistic", rows(20_000), raw=True), metadata=bearer(keys["infer"])).outputs


def test_without_a_key_only_health_is_answered(locked: Locked) -> None:
    client, _ = locked
    assert client.call("ServerLive").live
    assert client.call("ServerReady").ready
    assert client.call("ModelReady", name="logistic").ready
    assert client.call("Check", HEALTH, service="logistic").status == 1
    closed = [
        (client.infer, (request("logistic", rows(1)),), {}),
        *((client.call, (name,), {}) for name in ("ServerMetadata", "RepositoryIndex", "ModelStatistics")),
        *(
            (client.call, (name,), {"model_name": "logistic"})
            for name in ("RepositoryModelLoad", "RepositoryModelUnload")
        ),
        (client.call, ("ModelMetadata",), {"name": "logistic"}),
        (client.call, ("List", HEALTH), {}),
        (client.call, ("RepositoryIndex", REPOSITORY), {}),
    ]
    for call, given, fields in closed:
        refused = refusal(call, *given, **fields)
        assert refused.code() is grpc.StatusCode.UNAUTHENTICATED, given
    ask = message("grpc.reflection.v1.ServerReflectionRequest")(list_services="")
    stream = client.method("ServerReflectionInfo", "grpc.reflection.v1.ServerReflection")(iter([ask]), timeout=60)
    assert refusal(next, stream).code() is grpc.StatusCode.UNAUTHENTICATED


def test_every_method_needs_the_key_of_its_twin(locked: Locked) -> None:
    """A method that nobody listed would be open; here each one that is described is tried without a key."""
    client, _ = locked
    open_to_all = {"ServerLive", "ServerReady", "ModelReady", "Check", "Watch"}
    for file in files():
        for service, methods in file.services.items():
            for one in methods:
                if one.name in open_to_all or one.requests_stream:
                    continue
                refused = refusal(client.call, one.name, service)
                assert refused.code() is grpc.StatusCode.UNAUTHENTICATED, one.name


def test_the_repository_is_that_of_http(locked: Locked) -> None:
    client, keys = locked
    admin, infer = bearer(keys["admin"]), bearer(keys["infer"])
    (entry,) = client.call("RepositoryIndex", metadata=bearer(keys["read"])).models
    assert (entry.name, entry.state) == ("logistic", "READY")
    assert client.call("RepositoryIndex", REPOSITORY, ready=True, metadata=admin).models
    done = client.call("RepositoryModelUnload", model_name="logistic", metadata=admin)
    assert (done.model_name, done.isUnloaded) == ("logistic", True)
    assert client.call("RepositoryIndex", metadata=admin).models[0].state == "UNAVAILABLE"
    refused = refusal(client.infer, request("logistic", rows(1)), metadata=infer)
    assert refused.code() is grpc.StatusCode.NOT_FOUND
    # as the client of KServe says it: the name in the first field
    assert client.call("RepositoryModelLoad", repository_name="logistic", metadata=admin).isLoaded
    assert client.infer(request("logistic", rows(1)), metadata=infer).outputs
    refused = refusal(client.call, "RepositoryModelLoad", model_name="tulips", metadata=admin)
    assert refused.code() is grpc.StatusCode.NOT_FOUND
    file = message("inference.ModelRepositoryParameter")(bytes_param=b"x")
    refused = refusal(
        client.call, "RepositoryModelLoad", model_name="logistic", parameters={"file:1/m": file}, metadata=admin
    )
    assert refused.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_a_wrong_scope_and_a_wrong_key_are_told_apart(locked: Locked) -> None:
    client, keys = locked
    refused = refusal(client.infer, request("logistic", rows(1)), metadata=bearer(keys["read"]))
    assert refused.code() is grpc.StatusCode.PERMISSION_DENIED
    assert "scope 'infer'" in refused.details()
    refused = refusal(client.infer, request("logistic", rows(1)), metadata=bearer("lagar_0_none"))
    assert refused.code() is grpc.StatusCode.UNAUTHENTICATED


def test_sigterm_answers_every_call_that_was_begun(serve: Any, tmp_path: Path) -> None:
    gate = tmp_path / "gate-of-the-first"
    server = serve(gate_model(tmp_path / "m"), args=["--grpc-port", "0"])
    target = grpc_target(server)
    with ExitStack() as stack:
        # a pool of its own gives each client its own connection
        clients = [stack.enter_context(Client(target, use_local_subchannel_pool=1)) for _ in range(4)]
        first = clients[0].method("ModelInfer").future(request("gate", *waiting(gate)), timeout=120)
        eventually(Path(f"{gate}.entered").exists, 60, "the model's call")
        calls = [
            client.method("ModelInfer").future(request("gate", ("value", "FP64", [1], [number])), timeout=120)
            for number, client in enumerate(clients * 3)
        ]
        eventually(lambda: waiting_rows(server) == len(calls), 60, "all calls to wait for the model")
        server.signal(signal.SIGTERM)
        server.wait_line("draining")
        gate.touch()
        assert output(first.result()) == [7.0]
        assert [output(call.result()) for call in calls] == [[float(number)] for number in range(len(calls))]
        assert server.wait_exit() == 0


def waiting_rows(server: LagarServer) -> int:
    """Rows that wait for their batch."""
    text = httpx.get(server.url + "/metrics", timeout=60).text
    return sum(int(float(line.rsplit(" ", 1)[1])) for line in text.splitlines() if line.startswith("lagar_queue_rows{"))
