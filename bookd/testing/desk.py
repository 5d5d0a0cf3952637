"""A desk without threads: each unit is run and committed at once."""

from collections.abc import Callable, Sequence
from typing import Any, Concatenate, ParamSpec, TypeVar

from sqlalchemy import Connection, Engine
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.python.failure import Failure

from bookd.storage import outbox
from bookd.storage.engine import reading
from bookd.storage.inbox import Refused
from bookd.storage.outbox import Row

P = ParamSpec("P")
T = TypeVar("T")


class ImmediateDesk:
    """`bookd.bridge.desk.Desk` as tests want it: when a verb returns, its Deferred has fired."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._reading = reading(engine)
        self.alone = True
        self.taker: Callable[[Sequence[Row]], Any] = lambda put: None

    def write(self, work: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> Deferred[T]:
        """Run `work(connection, …)` in a transaction of its own and commit it; then tell `taker` what it has put."""
        put: list[Row] = []

        def noting(connection: Connection) -> T:
            noted = outbox.note(connection)
            result = work(connection, *args, **kwargs)
            put.extend(noted)
            return result

        written = _run(self._engine, noting)
        if put and not isinstance(written.result, Failure):
            self.taker(put)
        return written

    def jot(self, work: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> Deferred[T]:
        """The same."""
        return self.write(work, *args, **kwargs)

    def read(self, work: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> Deferred[T]:
        """Run `work(connection, …)`."""
        return _run(self._reading, work, *args, **kwargs)

    def glance(self, work: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> Deferred[T]:
        """Run `work(connection, …)`."""
        return _run(self._reading, work, *args, **kwargs)


def _run(engine: Engine, work: Callable[..., T], *args: Any, **kwargs: Any) -> Deferred[T]:
    def run() -> T:
        try:
            with engine.connect() as connection, connection.begin() as transaction:
                try:
                    return work(connection, *args, **kwargs)
                except Refused:
                    transaction.commit()
                    raise
        except Refused as refused:
            raise refused.error from refused

    return maybeDeferred(run)
