from bookd.wire.inventory.v1 import inventory_pb2 as _inventory_pb2
from bookd.wire.policy.v1 import policy_pb2 as _policy_pb2
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class BookChange(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    BOOK_CHANGE_UNSPECIFIED: _ClassVar[BookChange]
    BOOK_CHANGE_ADDED: _ClassVar[BookChange]
    BOOK_CHANGE_UPDATED: _ClassVar[BookChange]
    BOOK_CHANGE_REMOVED: _ClassVar[BookChange]
BOOK_CHANGE_UNSPECIFIED: BookChange
BOOK_CHANGE_ADDED: BookChange
BOOK_CHANGE_UPDATED: BookChange
BOOK_CHANGE_REMOVED: BookChange

class BookChanged(_message.Message):
    __slots__ = ("change", "book")
    CHANGE_FIELD_NUMBER: _ClassVar[int]
    BOOK_FIELD_NUMBER: _ClassVar[int]
    change: BookChange
    book: _inventory_pb2.Book
    def __init__(self, change: _Optional[_Union[BookChange, str]] = ..., book: _Optional[_Union[_inventory_pb2.Book, _Mapping]] = ...) -> None: ...

class StockLow(_message.Message):
    __slots__ = ("book_id", "title", "stock", "threshold")
    BOOK_ID_FIELD_NUMBER: _ClassVar[int]
    TITLE_FIELD_NUMBER: _ClassVar[int]
    STOCK_FIELD_NUMBER: _ClassVar[int]
    THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    book_id: str
    title: str
    stock: int
    threshold: int
    def __init__(self, book_id: _Optional[str] = ..., title: _Optional[str] = ..., stock: _Optional[int] = ..., threshold: _Optional[int] = ...) -> None: ...
