"""Reads a descriptor set: every rpc with its types, HTTP rules and policies, and every topic.

A descriptor set is a serialized google.protobuf.FileDescriptorSet, as `protoc --include_imports --include_source_info
--descriptor_set_out` writes it. The options are read from the file descriptors, where the extensions of google.api and
bookd.policy.v1 are known; the message classes come from a pool of the set's own, so that a set may bring protos that
this process never imported.
"""

from collections.abc import Iterable, Mapping
from importlib.resources import files
from typing import Any

from attrs import field, frozen
from google.api import annotations_pb2, http_pb2
from google.protobuf import descriptor_pb2, duration_pb2, message_factory
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import DecodeError, Message
from google.rpc import error_details_pb2

from bookd.contract.comments import of_files
from bookd.wire.policy.v1 import policy_pb2

# Field numbers in descriptor.proto, of which a SourceCodeInfo path is made.
_MESSAGE, _SERVICE, _METHOD = 4, 6, 2
# Field 1 of the request of an rpc that takes events.
EVENT = "bookd.mom.v1.Event"


class ContractError(Exception):
    """A descriptor set cannot be used; the message names the rpc or the file."""


@frozen
class Method:
    """One rpc."""

    path: str  # "/package.Service/Method", as HTTP/2 sees it
    service: str  # full name of the service
    name: str
    request: type[Message]
    response: type[Message]
    client_streaming: bool
    server_streaming: bool
    access: policy_pb2.Access
    delivery: policy_pb2.Delivery  # all defaults when the rpc has none
    rest: policy_pb2.Rest  # likewise
    http: tuple[http_pb2.HttpRule, ...]  # the rule, then its additional bindings
    comment: str  # what stands above the rpc
    subscription: policy_pb2.Subscription = field(factory=policy_pb2.Subscription)  # likewise


@frozen
class Topic:
    """One kind of event."""

    name: str  # full name of the message, the CloudEvents type
    message: type[Message]
    subject_field: str
    roles: tuple[str, ...]
    comment: str  # what stands above the message


@frozen
class Contract:
    """All rpcs of one or more descriptor sets, by method path, and all topics, by type."""

    methods: Mapping[str, Method]
    pool: DescriptorPool
    topics: Mapping[str, Topic] = field(factory=dict)
    comments: Mapping[str, str] = field(factory=dict)  # by full name, as bookd.contract.comments has them

    def services(self) -> dict[str, list[Method]]:
        """The methods of each service, by the service's full name."""
        found: dict[str, list[Method]] = {}
        for method in self.methods.values():
            found.setdefault(method.service, []).append(method)
        return found


def shipped() -> bytes:
    """The descriptor set of the bookstore itself."""
    return (files("bookd.wire") / "bookd.binpb").read_bytes()


def load(sets: Iterable[bytes]) -> Contract:
    """The contract that the descriptor sets describe together; a file that several hold is taken once.

    Services without a single bookd policy (those of imported google protos) are left out. Raises `ContractError` for a
    set that cannot be parsed, for an rpc that has no access rule though another of its service has one, and for an rpc
    that subscribes to what is no topic, or is stale after what is none.
    """
    pool = DescriptorPool()
    methods: dict[str, Method] = {}
    topics: dict[str, Topic] = {}
    seen: set[str] = set()
    texts: dict[str, str] = {}
    for number, data in enumerate(sets):
        try:
            parsed = descriptor_pb2.FileDescriptorSet.FromString(data)
        except DecodeError as error:
            raise ContractError(f"descriptor set {number}: {error}") from error
        fresh = [file for file in parsed.file if file.name not in seen]
        for file in fresh:
            seen.add(file.name)
            try:
                pool.Add(file)
            except TypeError as error:
                raise ContractError(f"{file.name}: {error}") from error
        texts |= of_files(fresh)
        for file in fresh:
            comments = _comments(file)
            methods.update(_methods(file, comments, pool))
            topics.update(_topics(file, comments, pool))
    for method in methods.values():
        _check_subscription(method, topics)
        _check_staleness(method, topics)
    _know_details(pool, seen)
    return Contract(methods, pool, topics, texts)


def _know_details(pool: DescriptorPool, seen: set[str]) -> None:
    """Let the pool know what errors bear (google/rpc/error_details.proto). No rpc names these types, so a set lacks them;
    but the error of an operation is told as JSON, details included."""
    for known in (duration_pb2.DESCRIPTOR, error_details_pb2.DESCRIPTOR):
        if known.name not in seen:
            file = descriptor_pb2.FileDescriptorProto()
            known.CopyToProto(file)
            pool.Add(file)


def _comments(file: descriptor_pb2.FileDescriptorProto) -> dict[tuple[int, ...], str]:
    return {
        tuple(location.path): location.leading_comments.strip()
        for location in file.source_code_info.location
        if location.leading_comments
    }


def _topics(
    file: descriptor_pb2.FileDescriptorProto, comments: Mapping[tuple[int, ...], str], pool: DescriptorPool
) -> dict[str, Topic]:
    found: dict[str, Topic] = {}
    for index, message in enumerate(file.message_type):
        if not _has(message.options, policy_pb2.topic):
            continue
        name = f"{file.package}.{message.name}" if file.package else message.name
        topic: policy_pb2.Topic = _option(message.options, policy_pb2.topic)
        data = _message_class(pool, name)
        _check_path(data, topic.subject_field, name)
        found[name] = Topic(name, data, topic.subject_field, tuple(topic.roles), comments.get((_MESSAGE, index), ""))
    return found


def _check_path(message: type[Message], path: str, topic: str, option: str = "subject_field") -> None:
    """Raise `ContractError` unless `path`, which stands in `option`, names a singular string field."""
    kind = message.DESCRIPTOR
    *parents, last = path.split(".")
    for name in parents:
        field_ = kind.fields_by_name.get(name)
        if field_ is None or field_.message_type is None or field_.is_repeated:
            raise ContractError(f"{topic}: {option} {path} names no field")
        kind = field_.message_type
    field_ = kind.fields_by_name.get(last)
    if field_ is None or field_.type != field_.TYPE_STRING or field_.is_repeated:
        raise ContractError(f"{topic}: {option} {path} names no string field")


def _check_subscription(method: Method, topics: Mapping[str, Topic]) -> None:
    if not method.subscription.types:
        return
    for each in method.subscription.types:
        if each not in topics:
            raise ContractError(f"{method.path} subscribes to {each}, which is no topic")
    taken = method.request.DESCRIPTOR.fields_by_number.get(1)
    kind = None if taken is None else taken.message_type
    unary = not (method.client_streaming or method.server_streaming)
    if kind is None or kind.full_name != EVENT or not unary or not method.delivery.deferrable:
        raise ContractError(
            f"{method.path} cannot take events: it must be unary, deferrable, and have {EVENT} as field 1"
        )


def _check_staleness(method: Method, topics: Mapping[str, Topic]) -> None:
    rest = method.rest
    for each in rest.stale_after:
        if each not in topics:
            raise ContractError(f"{method.path} is stale after {each}, which is no topic")
    if rest.stale_after and not rest.cacheable:
        raise ContractError(f"{method.path} says when it is stale, but is not cacheable")
    if rest.stale_after_subject:
        _check_path(method.request, rest.stale_after_subject, method.path, "stale_after_subject")


def _methods(
    file: descriptor_pb2.FileDescriptorProto, comments: Mapping[tuple[int, ...], str], pool: DescriptorPool
) -> dict[str, Method]:
    found: dict[str, Method] = {}
    for service_index, service in enumerate(file.service):
        if not any(_option(method.options, policy_pb2.access).audience for method in service.method):
            continue
        service_name = f"{file.package}.{service.name}" if file.package else service.name
        for index, method in enumerate(service.method):
            access: policy_pb2.Access = _option(method.options, policy_pb2.access)
            if access.audience == policy_pb2.AUDIENCE_UNSPECIFIED:
                raise ContractError(f"{service_name}.{method.name} has no access rule (bookd.policy.v1.access)")
            path = f"/{service_name}/{method.name}"
            found[path] = Method(
                path=path,
                service=service_name,
                name=method.name,
                request=_message_class(pool, method.input_type),
                response=_message_class(pool, method.output_type),
                client_streaming=method.client_streaming,
                server_streaming=method.server_streaming,
                access=access,
                delivery=_option(method.options, policy_pb2.delivery),
                rest=_option(method.options, policy_pb2.rest),
                http=_bindings(method.options),
                comment=comments.get((_SERVICE, service_index, _METHOD, index), ""),
                subscription=_option(method.options, policy_pb2.subscription),
            )
    return found


def _option(options: Any, extension: Any) -> Any:
    return options.Extensions[extension]  # protoc's stubs give extensions no type


def _has(options: Any, extension: Any) -> bool:
    return bool(options.HasExtension(extension))


def _message_class(pool: DescriptorPool, type_name: str) -> type[Message]:
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(type_name.lstrip(".")))


def _bindings(options: descriptor_pb2.MethodOptions) -> tuple[http_pb2.HttpRule, ...]:
    if not options.HasExtension(annotations_pb2.http):
        return ()
    rule: http_pb2.HttpRule = _option(options, annotations_pb2.http)
    return (rule, *rule.additional_bindings)
