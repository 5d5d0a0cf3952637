"""One HTTP rule, compiled against its rpc: path, query and body become a request, a response becomes JSON.

The rules are those of google/api/http.proto. Path variables and query parameters name fields, nested ones by dotted
paths. A field has one source: what the path or the body binds is no query parameter, and a body that repeats what the
path says has to agree with it (one that is at its default says nothing). An empty body is an absent one.

PATCH (AIP-134): when the body is a message field and the query gives no `update_mask`, the mask is what the body
mentions, null included, which clears a field. Plain messages are descended into; lists, maps and messages of
google.protobuf and google.type are whole values. What the path binds is not in the mask.

Violations name body fields as the body spells them, from the body's own top.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from typing import Any, Final
from urllib.parse import parse_qsl

import msgspec
from google.api import http_pb2
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from bookd.contract import codec_text, template
from bookd.contract.codec import Encoder, decode_json
from bookd.contract.codec_decode import MAX_DEPTH, Report, filler, is_map, store
from bookd.contract.codec_encode import Write, field_writer
from bookd.contract.descriptors import Contract, ContractError, Method
from bookd.errors import BookdError, InvalidArgument, Violation

MAX_PARAMETERS: Final = 200
_MASK = "update_mask"
_BODILESS = frozenset({"GET", "HEAD", "DELETE"})
# Messages that are one value: their JSON form has no members, or is changed as a whole.
_WELL_KNOWN = "google.protobuf."
_VALUES = (_WELL_KNOWN, "google.type.")
_IN_TEXT = frozenset({"google.protobuf.Timestamp", "google.protobuf.Duration", "google.protobuf.FieldMask"})
_WRAPPERS = "google/protobuf/wrappers.proto"

# The fields along a dotted path, the outermost first.
_Path = Sequence[FieldDescriptor]


class Binding:
    """A rule that fits its rpc. `verb` is the HTTP verb ("*" for all), `template` the path."""

    def __init__(self, method: Method, rule: http_pb2.HttpRule, max_depth: int = MAX_DEPTH) -> None:
        """Compile. Raises `ContractError` that names the rpc when the rule does not fit it."""
        self.method = method
        self.rule = rule
        self._max_depth = max_depth
        request: Any = method.request.DESCRIPTOR
        response: Any = method.response.DESCRIPTOR
        self._pool = request.file.pool
        self.verb, path = _pattern(method, rule)
        try:
            self.template = template.compile(path)
        except template.TemplateError as error:
            raise template.TemplateError(f"{method.path}: {error}") from error
        self._variables = {name: _variable(method, request, name) for name in self.template.variables}
        self._body = _top_field(method, request, "body", rule.body if rule.body != "*" else "")
        if rule.body and self.verb in _BODILESS:
            raise ContractError(f"{method.path}: {self.verb} has no body")
        if self._body is not None and rule.body in self._variables:
            raise ContractError(f"{method.path}: {rule.body} is bound by the path and by the body")
        answer = _top_field(method, response, "response_body", rule.response_body)
        self._encode: Callable[[Any], bytes]
        if answer is None:
            self._encode = Encoder(method.response).encode_bytes
        else:
            self._encode = _field_encoder(answer, field_writer(answer, self._pool))
        self._derives_mask = self.verb == "PATCH" and _is_plain(self._body) and _has_mask(request)

    def bind(self, variables: Mapping[str, str], query: str, body: bytes) -> Message:
        """The request. Raises `InvalidArgument` with every violation found.

        `variables` are what the template matched, decoded; `query` is what stands after the question mark, encoded.
        """
        message, report = self.method.request(), Report(self._max_depth)
        content: object = None
        if body.strip():
            content = decode_json(body)
            self._bind_body(message, content, report)
        for name, text in variables.items():
            self._bind_variable(message, name, text, report)
        given = self._bind_query(message, query, report) if query else set()
        report.done()
        if self._derives_mask and isinstance(content, dict) and _MASK not in given:
            self._derive_mask(message, content)
        return message

    @property
    def derives_mask(self) -> bool:
        """Whether the body says what is changed, when the query does not: then none of its fields is required."""
        return self._derives_mask

    def encode(self, response: Message) -> bytes:
        """The JSON text of the response, or of the field of it that the rule names."""
        return self._encode(response)

    def spelled(self, error: BookdError) -> BookdError:
        """The error of a call, with its violations named as the client spelled the fields: those of a body that is one
        field of the request are named from the body's own top."""
        top = f"{self.rule.body}."
        if self._body is None or not any(each.field.startswith(top) for each in error.violations):
            return error
        return type(error)(
            error.message.removeprefix(top),
            reason=error.reason,
            violations=[Violation(each.field.removeprefix(top), each.description) for each in error.violations],
            retry_after=error.retry_after,
            details=error.details,
            info=error.info,
        )

    def _bind_body(self, message: Any, content: object, report: Report) -> None:
        if not self.rule.body:
            report.add("", "must be empty for this request")
        elif self._body is None:
            filler(message.DESCRIPTOR, self._pool)(message, content, "", report, 1)
        elif self._body.message_type is not None and not self._body.is_repeated:
            inner = getattr(message, self._body.name)
            inner.SetInParent()
            filler(self._body.message_type, self._pool)(inner, content, "", report, 1)
        elif content is None:
            report.add("", "must not be null")
        else:
            store(self._body, self._pool)(message, content, "", report, 1)

    def _bind_variable(self, message: Any, name: str, text: str, report: Report) -> None:
        *parents, last = self._variables[name]
        for parent in parents:
            message = getattr(message, parent.name)
        try:
            value = codec_text.text_reader(last)(text)
        except ValueError as error:
            report.add(name, str(error))
            return
        before = getattr(message, last.name)
        if before not in (value, last.default_value):
            inner = name.removeprefix(f"{self.rule.body}.")
            report.add(inner, "must be absent or equal to what the path says")
        setattr(message, last.name, value)

    def _bind_query(self, message: Any, query: str, report: Report) -> set[str]:
        """Set what the query says; answers with the paths of the fields that it gave."""
        try:
            pairs = parse_qsl(query, keep_blank_values=True, errors="strict", max_num_fields=MAX_PARAMETERS)
        except UnicodeDecodeError:
            raise InvalidArgument("the query must be UTF-8, percent-encoded", reason="BAD_QUERY") from None
        except ValueError:
            raise InvalidArgument(f"more than {MAX_PARAMETERS} query parameters", reason="BAD_QUERY") from None
        given: set[str] = set()
        for name, text in pairs:
            path = _walk(message.DESCRIPTOR, name)
            spelled = ".".join(field.name for field in path)
            if not path or self.rule.body == "*":
                report.add(name, "is not a query parameter of this request")
            elif spelled in self._variables:
                report.add(name, "comes from the path and must not be given in the query")
            elif path[0].name == self.rule.body:
                report.add(name, "comes from the body and must not be given in the query")
            elif spelled in given and not path[-1].is_repeated:
                report.add(name, "is given twice")
            else:
                given.add(spelled)
                self._bind_parameter(message, path, name, text, report)
            if report.full:
                break
        return given

    def _bind_parameter(self, message: Any, path: _Path, name: str, text: str, report: Report) -> None:
        for depth, field in enumerate(path):
            oneof = field.containing_oneof
            other = message.WhichOneof(oneof.name) if oneof is not None else None
            if other not in (None, field.name):
                report.add(name, f"must not be given together with {other}")
                return
            if depth < len(path) - 1:
                message = getattr(message, field.name)
        last = path[-1]
        kind = last.message_type
        try:
            if kind is None:
                value = codec_text.text_reader(last)(text)
                if last.is_repeated:
                    getattr(message, last.name).append(value)
                else:
                    setattr(message, last.name, value)
                return
            if is_map(last) or not (kind.full_name in _IN_TEXT or kind.file.name == _WRAPPERS):
                raise ValueError("is not a single value and cannot be given in the query")
            inner = getattr(message, last.name)
            inner = inner.add() if last.is_repeated else inner
            inner.SetInParent()
            if kind.file.name == _WRAPPERS:
                inner.value = codec_text.text_reader(kind.fields_by_name["value"])(text)
            else:
                filler(kind, self._pool)(inner, text, name, report, 1)
        except ValueError as error:
            report.add(name, str(error))

    def _derive_mask(self, message: Any, content: dict[str, object]) -> None:
        body: Any = self._body
        paths = _mentioned(body.message_type, content, f"{body.name}.")
        mask = getattr(message, _MASK)
        mask.SetInParent()
        mask.paths.extend(path.removeprefix(f"{body.name}.") for path in paths if path not in self._variables)


def bindings(contract: Contract, max_depth: int = MAX_DEPTH) -> list[Binding]:
    """Every HTTP rule of the contract, compiled, in the order of the rpcs; bodies may be nested so deep.

    Raises `ContractError` naming the rpc whose rule does not fit, or both when two rules match the same requests.
    """
    made: list[Binding] = []
    taken: dict[tuple[str, object], Binding] = {}
    for method in contract.methods.values():
        for index, rule in enumerate(method.http):
            if index and rule.additional_bindings:
                raise ContractError(f"{method.path}: an additional binding must not have further ones")
            binding = Binding(method, rule, max_depth)
            other = taken.setdefault((binding.verb, binding.template.shape), binding)
            if other is not binding:
                raise ContractError(
                    f"{method.path}: {binding.verb} {binding.template.text} matches the same requests as "
                    f"{other.template.text} of {other.method.path}"
                )
            made.append(binding)
    return made


def _pattern(method: Method, rule: http_pb2.HttpRule) -> tuple[str, str]:
    kind = rule.WhichOneof("pattern")
    if kind is None:
        raise ContractError(f"{method.path}: its HTTP rule names no verb")
    if kind != "custom":
        return kind.upper(), getattr(rule, kind)
    if not rule.custom.kind:
        raise ContractError(f"{method.path}: its custom HTTP rule names no verb")
    return rule.custom.kind, rule.custom.path


def _variable(method: Method, request: Descriptor, name: str) -> _Path:
    path = _walk(request, name)
    if not path or ".".join(field.name for field in path) != name:
        raise ContractError(f"{method.path}: {request.full_name} has no field {name} for the path to bind")
    if path[-1].is_repeated or path[-1].message_type is not None:
        raise ContractError(f"{method.path}: {name} is not a single scalar, so the path cannot bind it")
    return path


def _top_field(method: Method, kind: Descriptor, what: str, name: str) -> FieldDescriptor | None:
    if name and name not in kind.fields_by_name:
        raise ContractError(f"{method.path}: {kind.full_name} has no field {name}, which is its {what}")
    return kind.fields_by_name[name] if name else None


def _field_encoder(field: FieldDescriptor, convert: Write | None) -> Callable[[Any], bytes]:
    name = field.name

    def encode(response: Any) -> bytes:
        if field.has_presence and not response.HasField(name):
            return b"null"
        value = getattr(response, name)
        return msgspec.json.encode(value if convert is None else convert(value))

    return encode


def _has_mask(request: Descriptor) -> bool:
    mask = request.fields_by_name.get(_MASK)
    if mask is None or mask.message_type is None:
        return False
    return mask.message_type.full_name == "google.protobuf.FieldMask" and not mask.is_repeated


def _is_plain(field: FieldDescriptor | None, values: str | tuple[str, ...] = _VALUES) -> bool:
    """Whether the field is one message, of none of the packages `values`, whose fields can be spoken of."""
    if field is None or field.is_repeated or field.message_type is None:
        return False
    return not field.message_type.full_name.startswith(values)


@cache
def _names(descriptor: Descriptor) -> Mapping[str, FieldDescriptor]:
    return {field.json_name: field for field in descriptor.fields} | dict(descriptor.fields_by_name)


def _walk(descriptor: Descriptor, name: str) -> _Path:
    """The fields along a dotted path in either spelling; none when there is no such path."""
    found: list[FieldDescriptor] = []
    for part in name.split("."):
        if found:
            if not _is_plain(found[-1], _WELL_KNOWN):
                return ()
            descriptor = found[-1].message_type  # type: ignore[assignment]
        field = _names(descriptor).get(part)
        if field is None:
            return ()
        found.append(field)
    return found


def _mentioned(descriptor: Descriptor, content: dict[str, Any], prefix: str) -> Iterator[str]:
    for name, value in content.items():
        field = _names(descriptor)[name]
        if value and isinstance(value, dict) and _is_plain(field):
            yield from _mentioned(field.message_type, value, f"{prefix}{field.name}.")  # type: ignore[arg-type]
        else:
            yield f"{prefix}{field.name}"
