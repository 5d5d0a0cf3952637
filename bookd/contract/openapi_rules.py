"""What is known of a field beyond its type: from google.api.field_behavior, from bookd.policy.v1.bounds, from standards."""

from collections.abc import Mapping
from typing import Any, Final

from google.api import field_behavior_pb2
from google.protobuf.descriptor import FieldDescriptor

from bookd.wire.policy.v1 import policy_pb2

Schema = dict[str, Any]

# What the comments of google.type say, as rules. By the field's full name.
_KNOWN: Final[Mapping[str, Schema]] = {
    "google.type.Money.currency_code": {"pattern": "^[A-Z]{3}$", "examples": ["EUR"]},
    "google.type.Money.nanos": {"minimum": -999_999_999, "maximum": 999_999_999},
}


def behaves(field: FieldDescriptor, behavior: int) -> bool:
    """Whether a field has a google.api.field_behavior."""
    options: Any = field.GetOptions()
    return behavior in options.Extensions[field_behavior_pb2.field_behavior]


def is_required(field: FieldDescriptor) -> bool:
    """Whether a request must have the field, and not at its default."""
    return behaves(field, field_behavior_pb2.REQUIRED)


def standards(field: FieldDescriptor) -> Schema:
    """What google.type says of the field, and AIP-158 of page_size, whichever way it goes."""
    holder = field.containing_type
    if field.name == "page_size" and holder is not None and "page_token" in holder.fields_by_name:
        return {"minimum": 0}
    return dict(_KNOWN.get(field.full_name, {}))


def asked(field: FieldDescriptor, *, required: bool) -> Schema:
    """What a request may say in a value of the field that is no list. What is not `required` may be empty."""
    bounds = _bounds(field)
    found: Schema = {}
    if field.type == FieldDescriptor.TYPE_STRING and not field.is_repeated:
        least = max(1, bounds.min_length) if required else 0
        found |= {"minLength": least} if least else {}
        found |= {"maxLength": bounds.max_length} if bounds.max_length else {}
        if bounds.pattern:
            found["pattern"] = bounds.pattern if required else f"^$|{bounds.pattern}"
    found |= {"minimum": bounds.min} if bounds.HasField("min") else {}
    found |= {"maximum": bounds.max} if bounds.HasField("max") else {}
    return found


def items(field: FieldDescriptor, *, required: bool) -> Schema:
    """How many items a request may give a list."""
    bounds = _bounds(field)
    least = max(1, bounds.min_length) if required else 0
    return ({"minItems": least} if least else {}) | ({"maxItems": bounds.max_length} if bounds.max_length else {})


def _bounds(field: FieldDescriptor) -> policy_pb2.Bounds:
    options: Any = field.GetOptions()
    bounds: policy_pb2.Bounds = options.Extensions[policy_pb2.bounds]
    return bounds
