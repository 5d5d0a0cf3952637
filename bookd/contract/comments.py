"""What the protos say in their comments, by the full name of what a comment stands above."""

from collections.abc import Iterable, Iterator, Mapping

from google.protobuf import descriptor_pb2

# Field numbers of descriptor.proto, of which the paths in a SourceCodeInfo are made.
_FILE_MESSAGES, _FILE_ENUMS, _FILE_SERVICES = 4, 5, 6
_MESSAGE_FIELDS, _MESSAGE_MESSAGES, _MESSAGE_ENUMS = 2, 3, 4
_ENUM_VALUES, _SERVICE_METHODS = 2, 2

_Path = tuple[int, ...]


def of_files(files: Iterable[descriptor_pb2.FileDescriptorProto]) -> dict[str, str]:
    """The comments of messages, fields, enums, their values, services and rpcs.

    A value is found under its enum (`package.Colour.RED`), though its own full name has no enum in it.
    """
    found: dict[str, str] = {}
    for file in files:
        texts = {
            tuple(location.path): location.leading_comments.strip()
            for location in file.source_code_info.location
            if location.leading_comments
        }
        if texts:
            found |= {name: texts[path] for name, path in _named(file) if path in texts}
    return found


def sentence(comment: str) -> str:
    """Its first sentence, without the stop at its end; a summary."""
    text = " ".join(comment.split())
    first, stop, _ = text.partition(". ")
    return first if stop else text.removesuffix(".")


def prose(names: Mapping[str, str], name: str) -> str:
    """The comment of `name`, its lines joined into paragraphs; empty when it has none."""
    paragraphs = names.get(name, "").split("\n\n")
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)


def _named(file: descriptor_pb2.FileDescriptorProto) -> Iterator[tuple[str, _Path]]:
    prefix = f"{file.package}." if file.package else ""
    for index, message in enumerate(file.message_type):
        yield from _in_message(message, prefix, (_FILE_MESSAGES, index))
    for index, enum in enumerate(file.enum_type):
        yield from _in_enum(enum, prefix, (_FILE_ENUMS, index))
    for index, service in enumerate(file.service):
        name, path = prefix + service.name, (_FILE_SERVICES, index)
        yield name, path
        for number, method in enumerate(service.method):
            yield f"{name}.{method.name}", (*path, _SERVICE_METHODS, number)


def _in_message(message: descriptor_pb2.DescriptorProto, prefix: str, path: _Path) -> Iterator[tuple[str, _Path]]:
    name = prefix + message.name
    yield name, path
    for index, field in enumerate(message.field):
        yield f"{name}.{field.name}", (*path, _MESSAGE_FIELDS, index)
    for index, inner in enumerate(message.nested_type):
        yield from _in_message(inner, f"{name}.", (*path, _MESSAGE_MESSAGES, index))
    for index, enum in enumerate(message.enum_type):
        yield from _in_enum(enum, f"{name}.", (*path, _MESSAGE_ENUMS, index))


def _in_enum(enum: descriptor_pb2.EnumDescriptorProto, prefix: str, path: _Path) -> Iterator[tuple[str, _Path]]:
    name = prefix + enum.name
    yield name, path
    for index, value in enumerate(enum.value):
        yield f"{name}.{value.name}", (*path, _ENUM_VALUES, index)
