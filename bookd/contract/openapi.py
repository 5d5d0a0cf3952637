"""The OpenAPI 3.1 document of a contract: every HTTP route of it, and nothing else.

All of it comes from the descriptors: paths from the templates, parameters and bodies from the request's fields, schemas
from the messages, prose from the comments, who may call and how from bookd.policy.v1. A verb and path here is one
binding of `bookd.contract.binding`, which is what the gateway serves.
OpenAPI knows no parameter with slashes in it, so `**` is told in words.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

from google.longrunning import operations_pb2
from google.protobuf.descriptor import FieldDescriptor

from bookd.contract import openapi_parts as parts
from bookd.contract.binding import Binding
from bookd.contract.codec_decode import is_map
from bookd.contract.comments import prose, sentence
from bookd.contract.descriptors import Contract
from bookd.contract.openapi_paths import Place, place
from bookd.contract.openapi_rules import is_required
from bookd.contract.openapi_schemas import Schema, Schemas, Way, comment_name, one_value, text
from bookd.contract.template import ANY_VERB
from bookd.wire.policy.v1 import policy_pb2

VERSION: Final = "3.1.1"
_FIXED: Final = ("get", "put", "post", "delete", "options", "head", "patch", "trace")
# What a rule for all verbs stands for.
_ALL: Final = ("get", "put", "post", "delete", "patch")
_READS: Final = frozenset({"get", "head"})
JSON: Final = "application/json"
NDJSON: Final = "application/x-ndjson"
EVENTS: Final = "text/event-stream"
# How deep into nested messages query parameters are listed.
_DEEPEST: Final = 4
_OPERATION: Final[Any] = operations_pb2.Operation.DESCRIPTOR


def document(contract: Contract, bindings: Iterable[Binding], *, title: str, version: str) -> Schema:
    """The document, ready to be written as JSON."""
    return _Document(contract).of(list(bindings), title, version)


class _Document:
    def __init__(self, contract: Contract) -> None:
        self._contract = contract
        self._schemas = Schemas(contract.comments)
        self._ids: set[str] = set()

    def of(self, bindings: Sequence[Binding], title: str, version: str) -> Schema:
        paths: dict[str, Schema] = {}
        places: dict[str, str] = {}
        services: dict[str, None] = {}
        for binding in bindings:
            if binding.method.access.audience == policy_pb2.AUDIENCE_INTERNAL:
                continue
            services.setdefault(binding.method.service)
            placed = place(binding.template)
            placed = placed.renamed(places.setdefault(placed.anonymous, placed.path))
            item = paths.setdefault(placed.path, {})
            for verb in _ALL if binding.verb == ANY_VERB else [binding.verb.lower()]:
                key = verb if verb in _FIXED else f"x-{verb}"
                item.setdefault(key, self._operation(binding, placed, verb))
        return {
            "openapi": VERSION,
            "info": {"title": title, "version": version, "description": parts.INTRODUCTION},
            "servers": [{"url": "/"}],
            "tags": [self._tag(service) for service in services],
            "paths": paths,
            "components": {
                "schemas": {**dict(sorted(self._schemas.components.items())), "problem": parts.PROBLEM},
                "responses": parts.problems(),
                "headers": parts.HEADERS,
                "parameters": {
                    name: {"name": name, "in": "header", **parameter} for name, parameter in parts.PARAMETERS.items()
                },
                "securitySchemes": parts.SECURITY,
            },
        }

    def _tag(self, service: str) -> Schema:
        about = prose(self._contract.comments, service)
        return {"name": service, "description": about} if about else {"name": service}

    def _operation(self, binding: Binding, where: Place, verb: str) -> Schema:
        method = binding.method
        operation: Schema = {"operationId": self._id(binding), "tags": [method.service]}
        if method.comment:
            operation["summary"] = sentence(method.comment)
        operation["description"] = "\n\n".join(
            filter(None, [" ".join(method.comment.split()), _who(method.access), _how(binding)])
        )
        operation["parameters"] = [
            *self._path_parameters(binding, where),
            *self._query_parameters(binding),
            *({"$ref": f"#/components/parameters/{name}"} for name in _request_headers(binding, verb)),
        ]
        body = self._body(binding)
        if body is not None:
            operation["requestBody"] = body
        operation["responses"] = self._responses(binding, verb)
        operation["security"] = _security(method.access)
        return operation

    def _id(self, binding: Binding) -> str:
        name = wanted = f"{binding.method.service.rpartition('.')[2]}_{binding.method.name}"
        number = 1
        while name in self._ids:
            number += 1
            name = f"{wanted}_{number}"
        self._ids.add(name)
        return name

    def _path_parameters(self, binding: Binding, where: Place) -> Iterator[Schema]:
        for index, (name, (variable, whole)) in enumerate(zip(where.names, where.variables, strict=True)):
            field = _at(_request(binding), variable) if variable else None
            plain = {"type": "string"}
            schema: Schema = text(field, self._schemas.enum) if field is not None and whole else plain
            last = index == len(where.names) - 1
            if schema.get("type") == "string" and not (last and where.rest):
                # A part of a resource's name stands between slashes; a value of its own may have them, percent-encoded.
                schema |= {"minLength": 1} if whole else {"pattern": "^[^/]+$"}
            about = self._about(field) if field is not None else ""
            if not whole and variable:
                about = f"Part of `{variable}`. {about}".strip()
            if last and where.rest:
                about = f"{about} The rest of the path: it may have slashes, or be empty.".strip()
            parameter: Schema = {"name": name, "in": "path", "required": True, "schema": schema}
            yield {**parameter, "description": about} if about else parameter

    def _query_parameters(self, binding: Binding) -> Iterator[Schema]:
        rule, request = binding.rule, _request(binding)
        if rule.body == "*":
            return
        taken = {*binding.template.variables, rule.body}
        for name, field in _leaves(request, "", taken, ()):
            schema = text(field, self._schemas.enum)
            needed = is_required(field) and "." not in name
            if field.is_repeated:
                schema = {"type": "array", "items": schema}
            parameter: Schema = {"name": name, "in": "query", "schema": schema}
            if needed:
                parameter["required"] = True
            about = self._about(field)
            yield {**parameter, "description": about} if about else parameter

    def _body(self, binding: Binding) -> Schema | None:
        rule, request = binding.rule, _request(binding)
        if not rule.body:
            return None
        if rule.body == "*":
            bound = frozenset(binding.template.variables)
            left = [field for field in request.fields if field.name not in bound]
            needed = any(map(is_required, left))
            plain = bound.isdisjoint(request.fields_by_name)
            schema = self._schemas.message(request, Way.IN) if plain else self._schemas.members(request, Way.IN, bound)
        else:
            field = request.fields_by_name[rule.body]
            needed = is_required(field)
            if binding.derives_mask:
                inner = frozenset(name.removeprefix(f"{rule.body}.") for name in binding.template.variables)
                schema = self._schemas.members(field.message_type, Way.IN, inner, partial=True)
            else:
                schema = self._schemas.field(field, Way.IN)
        return {"required": needed, "content": {JSON: {"schema": schema}}}

    def _responses(self, binding: Binding, verb: str) -> Schema:
        method, read = binding.method, verb in _READS
        responses: dict[int, Schema] = {}
        status = method.rest.success_status or 200
        etag = read and (method.rest.cacheable or "etag" in _response(binding).fields_by_name)
        success: Schema = {"description": "Done." if not read else "What was asked for.", "headers": parts.headers()}
        if "etag" in _response(binding).fields_by_name or etag:
            success["headers"] = parts.headers("ETag")
        if status != 204:
            success["content"] = self._content(binding)
        responses[status] = success
        if etag:
            responses[304] = {"description": "The client has it already.", "headers": parts.headers("ETag")}
        if method.delivery.deferrable and not read:
            schema = self._schemas.message(_OPERATION, Way.OUT)
            responses[202] = {
                "description": "Kept on disk; the operation tells what becomes of it.",
                "headers": parts.headers("Location", "Retry-After", "Preference-Applied"),
                "content": {JSON: {"schema": schema}},
            }
        found = {str(each): responses[each] for each in sorted(responses)}
        kinds: list[tuple[int, ...]] = [parts.ANY]
        if method.access.audience != policy_pb2.AUDIENCE_PUBLIC:
            kinds.append(parts.USER)
        if not read:
            kinds.append(parts.WRITE)
            if _holds_etag(_request(binding)):
                kinds.append(parts.CONDITIONAL)
        for each in sorted(problem for kind in kinds for problem in kind):
            found[str(each)] = {"$ref": f"#/components/responses/{parts.problem_name(each)}"}
        return found

    def _content(self, binding: Binding) -> Schema:
        response = _response(binding)
        name = binding.rule.response_body
        if name:
            schema = self._schemas.field(response.fields_by_name[name], Way.OUT)
        else:
            schema = self._schemas.message(response, Way.OUT)
        if not binding.method.server_streaming:
            return {JSON: {"schema": schema}}
        # OpenAPI 3.1 cannot describe the items of a stream, so the schema says what a line or the data of an event is.
        return {NDJSON: {"schema": schema}, EVENTS: {"schema": {"type": "string"}}}

    def _about(self, field: FieldDescriptor) -> str:
        return prose(self._contract.comments, comment_name(field))


def _request(binding: Binding) -> Any:
    return binding.method.request.DESCRIPTOR


def _response(binding: Binding) -> Any:
    return binding.method.response.DESCRIPTOR


def _at(kind: Any, path: str) -> FieldDescriptor:
    *parents, last = path.split(".")
    for name in parents:
        kind = kind.fields_by_name[name].message_type
    found: FieldDescriptor = kind.fields_by_name[last]
    return found


def _leaves(kind: Any, prefix: str, taken: set[str], above: tuple[Any, ...]) -> Iterator[tuple[str, FieldDescriptor]]:
    """What the query may give: scalars and values of one text, also those inside of plain messages."""
    for field in kind.fields:
        name, inner = prefix + field.name, field.message_type
        if name in taken or is_map(field):
            continue
        if inner is None or one_value(inner):
            yield name, field
        elif not (
            field.is_repeated
            or inner.full_name.startswith("google.protobuf.")
            or inner in (*above, kind)
            or len(above) >= _DEEPEST
        ):
            yield from _leaves(inner, f"{name}.", taken, (*above, kind))


def _holds_etag(request: Any) -> bool:
    """Whether If-Match has a place to go to: an etag of the request or of a resource in it."""
    holders = [
        request,
        *(field.message_type for field in request.fields if field.message_type and not field.is_repeated),
    ]
    return any("etag" in holder.fields_by_name for holder in holders if holder is not None)


def _request_headers(binding: Binding, verb: str) -> Iterator[str]:
    method = binding.method
    yield "X-Request-Id"
    if verb in _READS:
        if method.rest.cacheable or "etag" in _response(binding).fields_by_name:
            yield "If-None-Match"
        if method.rest.resume_field:
            yield "Last-Event-ID"
        return
    yield "Idempotency-Key"
    if method.delivery.deferrable:
        yield "Prefer"
    if _holds_etag(_request(binding)):
        yield "If-Match"


def _security(access: policy_pb2.Access) -> list[Schema]:
    if access.audience == policy_pb2.AUDIENCE_PUBLIC:
        return []
    if access.owned_resource or access.owner_field or not access.roles:
        return [{parts.BEARER: []}]
    return [{parts.BEARER: [role]} for role in access.roles]


def _who(access: policy_pb2.Access) -> str:
    if access.audience == policy_pb2.AUDIENCE_PUBLIC:
        return "For anybody."
    owner = (
        "the owner" if access.owned_resource else f"the owner (`{access.owner_field}`)" if access.owner_field else ""
    )
    may = [*([owner] if owner else []), *(f"`{role}`" for role in access.roles)]
    return (
        f"For {', '.join(may[:-1])}{' and ' if len(may) > 1 else ''}{may[-1]}." if may else "For whoever is logged in."
    )


def _how(binding: Binding) -> str:
    method = binding.method
    if method.server_streaming:
        return f"A stream that has no end of its own: a JSON text a line, or server-sent events for `Accept: {EVENTS}`."
    return "Kept and delivered later while its service is down." if method.delivery.deferrable else ""
