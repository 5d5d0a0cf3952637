"""Seals what the MOM keeps on its way into the database, and opens it on its way out.

A vault belongs to an engine: `guarded(engine, vault)` gives the engine whose connections have it, and every function of the
store asks its connection. Without a vault rows are written plain. A row names the key that it was sealed with, or none, so
both kinds lie side by side.

One box holds what is secret of an accepted message: request, principal, metadata and fingerprint (which would tell
whether a guess is right). Another holds its outcome. Each is bound to its column and to what the row says in the clear, so
that no row can be given another's box, and none another lane, method or owner. A box that cannot be opened is no end of
its message: the message is told with the reason as its `fault`, and stays.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from threading import Lock
from typing import Any, Final

import msgspec
from sqlalchemy import Connection, Engine, bindparam, func, select, update

from bookd.mom import seals
from bookd.mom.machine import MessageState
from bookd.mom.records import Draft, Kept, Outcome
from bookd.mom.schema import events, messages, queues
from bookd.mom.seals import Broken, Seal, SealsError
from bookd.storage.prepared import Prepared

_OPTION: Final = "bookd_vault"
# Seconds between two looks into the folder.
GLANCE = 1.0
# What a row says in the clear and is not to be changed.
_CLEAR: Final = ("message_id", "method", "destination", "lane", "subject", "reply_to")
_NAMES: Final = Prepared(select(*(messages.c[name] for name in _CLEAR)).where(messages.c.seq == bindparam("b_seq")))
_Content = tuple[bytes, bytes, dict[str, str], bytes]


class Vault:
    """The keys of `folder` as they lie there now: a new one needs no restart. Raises `SealsError` when they cannot be used
    at first; a folder that cannot be used later leaves them as they were. `seconds` is any clock that only goes forward,
    `now` answers microseconds since the epoch. May be used from several threads."""

    def __init__(self, folder: Path, seconds: Callable[[], float], now: Callable[[], int]) -> None:
        self._folder = folder
        self._seconds = seconds
        self._now = now
        self._lock = Lock()
        self._looked = seconds()
        self._seals = seals.load(folder)

    def close(self, content: bytes, bound: bytes) -> tuple[str, bytes]:
        """The id of the key that seals now, and a box."""
        seal = seals.sealing(self._current(), self._now())
        return seal.key_id, seals.close(seal.key, content, bound)

    def open(self, key_id: str, box: bytes, bound: bytes) -> bytes:
        """What is in a box. Raises `Broken`, which names the key and its file."""
        seal = self._seals.get(key_id) or self._current().get(key_id)
        if seal is None:
            raise Broken(
                f"it is sealed with the key {key_id}, and {self._folder / (key_id + seals.ENDING)} is not there"
            )
        try:
            return seals.open_(seal.key, box, bound)
        except Broken as broken:
            raise Broken(f"the key {key_id} does not open it: {broken}") from None

    def _current(self) -> Mapping[str, Seal]:
        with self._lock:
            if self._seconds() - self._looked >= GLANCE:
                self._looked = self._seconds()
                # What was there stays: only a restart forgets a key, so that a slip of the hand harms nobody.
                with suppress(SealsError):
                    self._seals = {**self._seals, **seals.load(self._folder)}
            return self._seals


def guarded(engine: Engine, vault: Vault) -> Engine:
    """The engine with this vault."""
    return engine.execution_options(**{_OPTION: vault})


def vault_of(connection: Connection) -> Vault | None:
    """The vault of a connection."""
    found: Vault | None = connection.get_execution_options().get(_OPTION)
    return found


def accepted(connection: Connection, draft: Draft) -> dict[str, Any]:
    """The columns of a message that is kept which may be sealed."""
    vault = vault_of(connection)
    plain = {
        "request": draft.request,
        "principal": draft.principal,
        "metadata": dict(draft.metadata),
        "fingerprint": draft.fingerprint,
        "key_id": None,
    }
    if vault is None:
        return plain
    return _closed(vault, plain, [getattr(draft, name) for name in _CLEAR])


def ended(connection: Connection, seq: int, outcome: Outcome) -> dict[str, Any]:
    """The columns of the outcome, with `b_` before their names."""
    vault = vault_of(connection)
    values = {"b_status": outcome.status, "b_response": outcome.response, "b_outcome_key_id": None}
    content = outcome.response if outcome.status is None else outcome.status
    row = None if vault is None or content is None else _NAMES.row(connection, {"b_seq": seq})
    if vault is None or content is None or row is None:
        return values
    column = "response" if outcome.status is None else "status"
    values["b_outcome_key_id"], values["b_" + column] = vault.close(content, _bound(column, row))  # type: ignore[assignment]
    return values


def kept(connection: Connection, row: Mapping[Any, Any]) -> Kept:
    """The message that a row of `messages` is. One that cannot be opened says so as its `fault`."""
    values: dict[str, Any] = dict(row)
    request_key, outcome_key = values.pop("key_id"), values.pop("outcome_key_id")
    if request_key is None and outcome_key is None:
        return Kept(**values)
    clear = [values[name] for name in _CLEAR]
    try:
        if request_key is not None:
            opened = _open(connection, request_key, values["request"], _bound("request", clear))
            fingerprint, principal, metadata, request = msgspec.msgpack.decode(opened, type=_Content)
            values |= {"fingerprint": fingerprint, "principal": principal, "metadata": metadata, "request": request}
        if outcome_key is not None:
            column = "response" if values["status"] is None else "status"
            values[column] = _open(connection, outcome_key, values[column], _bound(column, clear))
    except Broken as broken:
        hidden: dict[str, Any] = {"request": b"", "principal": b"", "metadata": {}, "response": None, "status": None}
        return Kept(**{**values, **hidden}, fault=f"message {values['message_id']}: {broken}")
    return Kept(**values)


def published(connection: Connection, event: bytes, clear: Sequence[str]) -> tuple[str | None, bytes]:
    """An event as it is written, and by which key; `clear` is its source, id, type and subject."""
    vault = vault_of(connection)
    return (None, event) if vault is None else vault.close(event, _bound("event", clear))


def read(connection: Connection, key_id: str | None, box: bytes, clear: Sequence[str]) -> bytes:
    """The event that was written so. Raises `Broken`."""
    return box if key_id is None else _open(connection, key_id, box, _bound("event", clear))


def seal_plain(connection: Connection, after: int, limit: int) -> int | None:
    """Seal the plain ones among at most `limit` messages behind `after`; answers how far that went, None when there are no
    more. An outcome that is there already stays as it is."""
    vault = vault_of(connection)
    if vault is None:
        return None
    upto = None
    some = select(messages.c.seq, messages.c.key_id).where(messages.c.seq > after).order_by(messages.c.seq).limit(limit)
    for seq, key_id in connection.execute(some).all():
        upto = seq
        if key_id is not None:
            continue
        row = connection.execute(select(messages).where(messages.c.seq == seq)).one()
        closed = _closed(vault, row._mapping, [row._mapping[name] for name in _CLEAR])
        connection.execute(update(messages).where(messages.c.seq == seq).values(closed))
        if row.state == MessageState.QUEUED:
            more = len(closed["request"]) - len(row.request)
            here = queues.c.destination == row.destination
            connection.execute(update(queues).where(here).values(bytes=queues.c.bytes + more))
    return upto


def count(connection: Connection, key_id: str) -> int:
    """How many messages and events cannot be read without this key. Reads all of them."""
    of_messages = select(func.count()).where((messages.c.key_id == key_id) | (messages.c.outcome_key_id == key_id))
    of_events = select(func.count()).where(events.c.key_id == key_id)
    return int(sum(connection.execute(each).scalar_one() for each in (of_messages, of_events)))


def _closed(vault: Vault, plain: Mapping[Any, Any], clear: list[Any]) -> dict[str, Any]:
    content = (plain["fingerprint"], plain["principal"], dict(plain["metadata"]), plain["request"])
    key_id, box = vault.close(msgspec.msgpack.encode(content), _bound("request", clear))
    return {"request": box, "principal": b"", "metadata": {}, "fingerprint": bytes(32), "key_id": key_id}


def _open(connection: Connection, key_id: str, box: bytes, bound: bytes) -> bytes:
    vault = vault_of(connection)
    if vault is None:
        raise Broken(f"it is sealed with the key {key_id}, and the configuration names no sealing_keys")
    return vault.open(key_id, box, bound)


def _bound(column: str, clear: Any) -> bytes:
    return msgspec.msgpack.encode((column, *clear))
