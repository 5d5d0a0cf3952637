import datetime

from google.protobuf import descriptor_pb2 as _descriptor_pb2
from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Audience(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    AUDIENCE_UNSPECIFIED: _ClassVar[Audience]
    AUDIENCE_PUBLIC: _ClassVar[Audience]
    AUDIENCE_USER: _ClassVar[Audience]
    AUDIENCE_INTERNAL: _ClassVar[Audience]
AUDIENCE_UNSPECIFIED: Audience
AUDIENCE_PUBLIC: Audience
AUDIENCE_USER: Audience
AUDIENCE_INTERNAL: Audience
ACCESS_FIELD_NUMBER: _ClassVar[int]
access: _descriptor.FieldDescriptor
DELIVERY_FIELD_NUMBER: _ClassVar[int]
delivery: _descriptor.FieldDescriptor
REST_FIELD_NUMBER: _ClassVar[int]
rest: _descriptor.FieldDescriptor
SUBSCRIPTION_FIELD_NUMBER: _ClassVar[int]
subscription: _descriptor.FieldDescriptor
BOUNDS_FIELD_NUMBER: _ClassVar[int]
bounds: _descriptor.FieldDescriptor
TOPIC_FIELD_NUMBER: _ClassVar[int]
topic: _descriptor.FieldDescriptor

class Access(_message.Message):
    __slots__ = ("audience", "roles", "owner_field", "owned_resource")
    AUDIENCE_FIELD_NUMBER: _ClassVar[int]
    ROLES_FIELD_NUMBER: _ClassVar[int]
    OWNER_FIELD_FIELD_NUMBER: _ClassVar[int]
    OWNED_RESOURCE_FIELD_NUMBER: _ClassVar[int]
    audience: Audience
    roles: _containers.RepeatedScalarFieldContainer[str]
    owner_field: str
    owned_resource: bool
    def __init__(self, audience: _Optional[_Union[Audience, str]] = ..., roles: _Optional[_Iterable[str]] = ..., owner_field: _Optional[str] = ..., owned_resource: _Optional[bool] = ...) -> None: ...

class Delivery(_message.Message):
    __slots__ = ("deferrable", "ordering_fields", "ordering_subject", "retry", "expire_after", "dead_letter_blocks_lane")
    DEFERRABLE_FIELD_NUMBER: _ClassVar[int]
    ORDERING_FIELDS_FIELD_NUMBER: _ClassVar[int]
    ORDERING_SUBJECT_FIELD_NUMBER: _ClassVar[int]
    RETRY_FIELD_NUMBER: _ClassVar[int]
    EXPIRE_AFTER_FIELD_NUMBER: _ClassVar[int]
    DEAD_LETTER_BLOCKS_LANE_FIELD_NUMBER: _ClassVar[int]
    deferrable: bool
    ordering_fields: _containers.RepeatedScalarFieldContainer[str]
    ordering_subject: bool
    retry: Retry
    expire_after: _duration_pb2.Duration
    dead_letter_blocks_lane: bool
    def __init__(self, deferrable: _Optional[bool] = ..., ordering_fields: _Optional[_Iterable[str]] = ..., ordering_subject: _Optional[bool] = ..., retry: _Optional[_Union[Retry, _Mapping]] = ..., expire_after: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., dead_letter_blocks_lane: _Optional[bool] = ...) -> None: ...

class Retry(_message.Message):
    __slots__ = ("max_attempts", "initial_backoff", "max_backoff")
    MAX_ATTEMPTS_FIELD_NUMBER: _ClassVar[int]
    INITIAL_BACKOFF_FIELD_NUMBER: _ClassVar[int]
    MAX_BACKOFF_FIELD_NUMBER: _ClassVar[int]
    max_attempts: int
    initial_backoff: _duration_pb2.Duration
    max_backoff: _duration_pb2.Duration
    def __init__(self, max_attempts: _Optional[int] = ..., initial_backoff: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., max_backoff: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class Rest(_message.Message):
    __slots__ = ("success_status", "cacheable", "event_id_field", "resume_field", "stale_after", "stale_after_subject")
    SUCCESS_STATUS_FIELD_NUMBER: _ClassVar[int]
    CACHEABLE_FIELD_NUMBER: _ClassVar[int]
    EVENT_ID_FIELD_FIELD_NUMBER: _ClassVar[int]
    RESUME_FIELD_FIELD_NUMBER: _ClassVar[int]
    STALE_AFTER_FIELD_NUMBER: _ClassVar[int]
    STALE_AFTER_SUBJECT_FIELD_NUMBER: _ClassVar[int]
    success_status: int
    cacheable: bool
    event_id_field: str
    resume_field: str
    stale_after: _containers.RepeatedScalarFieldContainer[str]
    stale_after_subject: str
    def __init__(self, success_status: _Optional[int] = ..., cacheable: _Optional[bool] = ..., event_id_field: _Optional[str] = ..., resume_field: _Optional[str] = ..., stale_after: _Optional[_Iterable[str]] = ..., stale_after_subject: _Optional[str] = ...) -> None: ...

class Bounds(_message.Message):
    __slots__ = ("min_length", "max_length", "pattern", "min", "max")
    MIN_LENGTH_FIELD_NUMBER: _ClassVar[int]
    MAX_LENGTH_FIELD_NUMBER: _ClassVar[int]
    PATTERN_FIELD_NUMBER: _ClassVar[int]
    MIN_FIELD_NUMBER: _ClassVar[int]
    MAX_FIELD_NUMBER: _ClassVar[int]
    min_length: int
    max_length: int
    pattern: str
    min: int
    max: int
    def __init__(self, min_length: _Optional[int] = ..., max_length: _Optional[int] = ..., pattern: _Optional[str] = ..., min: _Optional[int] = ..., max: _Optional[int] = ...) -> None: ...

class Topic(_message.Message):
    __slots__ = ("subject_field", "roles")
    SUBJECT_FIELD_FIELD_NUMBER: _ClassVar[int]
    ROLES_FIELD_NUMBER: _ClassVar[int]
    subject_field: str
    roles: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, subject_field: _Optional[str] = ..., roles: _Optional[_Iterable[str]] = ...) -> None: ...

class Subscription(_message.Message):
    __slots__ = ("types",)
    TYPES_FIELD_NUMBER: _ClassVar[int]
    types: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, types: _Optional[_Iterable[str]] = ...) -> None: ...

class Principal(_message.Message):
    __slots__ = ("subject", "roles", "session_id")
    SUBJECT_FIELD_NUMBER: _ClassVar[int]
    ROLES_FIELD_NUMBER: _ClassVar[int]
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    subject: str
    roles: _containers.RepeatedScalarFieldContainer[str]
    session_id: str
    def __init__(self, subject: _Optional[str] = ..., roles: _Optional[_Iterable[str]] = ..., session_id: _Optional[str] = ...) -> None: ...
