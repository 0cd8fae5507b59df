"""What grpc's own tools ask: reflection, and the health of server and models."""

from __future__ import annotations

import grpc
from google.protobuf import json_format
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from verdicts import Case, Judge, refusal

judge = Judge("V2 over gRPC")
SERVICE = "inference.GRPCInferenceService"


@judge.feature("reflection: services, messages and a call made of them")
def reflection(case: Case) -> None:
    with grpc.insecure_channel(case.grpc) as channel:
        database = ProtoReflectionDescriptorDatabase(channel)
        services = set(database.get_services())
        assert {SERVICE, "grpc.health.v1.Health"} <= services, services
        pool = DescriptorPool(database)
        method = pool.FindServiceByName(SERVICE).methods_by_name["ModelInfer"]
        asked, told = GetMessageClass(method.input_type), GetMessageClass(method.output_type)
        row = case.wine["rows"][0]
        tensor = {"name": "x", "datatype": "FP64", "shape": [1, len(row)], "contents": {"fp64Contents": row}}
        request = json_format.ParseDict({"modelName": "wine", "inputs": [tensor]}, asked())
        call = channel.unary_unary(
            f"/{SERVICE}/ModelInfer", request_serializer=asked.SerializeToString, response_deserializer=told.FromString
        )
        answer = call(request, timeout=60)
        assert list(answer.outputs[0].contents.int64_contents) == case.wine["labels"][:1]


@judge.feature("`grpc.health.v1`: Check and Watch")
def health(case: Case) -> None:
    serving = health_pb2.HealthCheckResponse.SERVING
    with grpc.insecure_channel(case.grpc) as channel:
        asked = health_pb2_grpc.HealthStub(channel)
        for service in ("", "wine"):
            assert asked.Check(health_pb2.HealthCheckRequest(service=service), timeout=60).status == serving
            watched = asked.Watch(health_pb2.HealthCheckRequest(service=service), timeout=60)
            assert next(iter(watched)).status == serving
            watched.cancel()
        nobody = health_pb2.HealthCheckRequest(service="nobody")
        error = refusal(grpc.RpcError, lambda: asked.Check(nobody, timeout=60))
        assert error.code() is grpc.StatusCode.NOT_FOUND


@judge.feature("a method that is not there")
def unknown(case: Case) -> None:
    with grpc.insecure_channel(case.grpc) as channel:
        call = channel.unary_unary(f"/{SERVICE}/ModelForget")
        error = refusal(grpc.RpcError, lambda: call(b"", timeout=60))
        assert error.code() is grpc.StatusCode.UNIMPLEMENTED


if __name__ == "__main__":
    judge.main()
