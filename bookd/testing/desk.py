"""A desk without threads: each unit is run and committed at once."""

from collections.abc import Callable
from typing import Any, Concatenate, ParamSpec, TypeVar

from sqlalchemy import Connection, Engine
from twisted.internet.defer import Deferred, maybeDeferred

from bookd.storage.engine import reading
from bookd.storage.inbox import Refused

P = ParamSpec("P")
T = TypeVar("T")


class ImmediateDesk:
    """`bookd.bridge.desk.Desk` as tests want it: when a verb returns, its Deferred has fired."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._reading = reading(engine)

    def write(self, work: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> Deferred[T]:
        """Run `work(connection, …)` in a transaction of its own and commit it."""
        return _run(self._engine, work, *args, **kwargs)

    def jot(self, work: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> Deferred[T]:
        """Run `work(connection, …)` in a transaction of its own and commit it."""
        return _run(self._engine, work, *args, **kwargs)

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
