"""Server reflection in versions v1 and v1alpha. Some clients try v1 first, others v1alpha.

The messages of both versions are the same on the wire. The package grpcio-reflection has only v1alpha. The servicer of
v1alpha therefore also serves v1, with the v1 description that clients request.
"""

from __future__ import annotations

from collections.abc import Iterable

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, text_format
from grpc_reflection.v1alpha import reflection, reflection_pb2

V1 = "grpc.reflection.v1.ServerReflection"
_FILE = "grpc/reflection/v1/reflection.proto"


def enable_reflection(names: Iterable[str], server: grpc.aio.Server) -> None:
    """Adds both versions of server reflection to a server.

    Args:
        names: full names of the server's other services.
        server: the server.
    """
    _describe_v1()
    services = (*names, V1, reflection.SERVICE_NAME)
    reflection.enable_server_reflection(services, server)
    handler = grpc.stream_stream_rpc_method_handler(
        reflection.aio.ReflectionServicer(services).ServerReflectionInfo,
        request_deserializer=reflection_pb2.ServerReflectionRequest.FromString,
        response_serializer=reflection_pb2.ServerReflectionResponse.SerializeToString,
    )
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(V1, {"ServerReflectionInfo": handler})])


def _describe_v1() -> None:
    pool = descriptor_pool.Default()
    try:
        pool.FindFileByName(_FILE)
    except KeyError:
        alpha = descriptor_pb2.FileDescriptorProto()
        reflection_pb2.DESCRIPTOR.CopyToProto(alpha)
        text = text_format.MessageToString(alpha).replace("v1alpha", "v1")
        file = text_format.Parse(text, descriptor_pb2.FileDescriptorProto())
        pool.AddSerializedFile(file.SerializeToString())
