"""Which access tokens are void although they have not expired.

The users daemon tells when sessions end before their time (`bookd.users.v1.SessionsRevoked`). Each gateway follows these
events (`bookd.gateway.feed`). One that starts, or has lost its place, begins with the oldest event that the MOM keeps.

What is promised: while the MOM runs, a token is refused within seconds of the end of its session. While it does not, the
gateway goes on with what it knows, and catches up afterwards; a token of which it has not heard is then good until it
expires.

The table is bounded. When it is full, the oldest entry is replaced by a line in time: all tokens that were issued until
then are void, whoever they belong to, and their owners get others by their refresh tokens.
"""

from collections import OrderedDict
from collections.abc import Callable

from bookd.wire.mom.v1.event_pb2 import Event
from bookd.wire.users.v1.events_pb2 import SessionsRevoked

TOPIC: str = SessionsRevoked.DESCRIPTOR.full_name
ENTRIES = 100_000


class Revocations:
    """The table. Times are microseconds since the epoch; tokens live no longer than `lifetime` seconds."""

    def __init__(self, lifetime: float, now: Callable[[], int], entries: int = ENTRIES) -> None:
        self._lifetime = round(lifetime * 1e6)
        self._now = now
        self._entries = entries
        self._ended: OrderedDict[str, int] = OrderedDict()  # by session or user, the oldest first
        self._line = 0

    def __len__(self) -> int:
        return len(self._ended)

    def note(self, user_id: str, session_id: str, revoked_at: int) -> None:
        """A session has ended, or, when it is empty, all of the user's."""
        oldest = self._now() - self._lifetime
        while self._ended and next(iter(self._ended.values())) < oldest:
            self._ended.popitem(last=False)
        if revoked_at < oldest:
            return
        key = f"session {session_id}" if session_id else f"user {user_id}"
        self._ended[key] = max(revoked_at, self._ended.get(key, 0))
        self._ended.move_to_end(key)
        while len(self._ended) > self._entries:
            self._line = max(self._line, self._ended.popitem(last=False)[1])

    def heard(self, event: Event) -> None:
        """An event of this topic has come."""
        revoked = SessionsRevoked()
        if event.data.Unpack(revoked):
            self.note(revoked.user_id, revoked.session_id, revoked.revoked_at.ToMicroseconds())

    def void(self, subject: str, session: str, issued: int) -> bool:
        """Whether a token of `subject` and `session` that was issued then is void."""
        if issued <= self._line:
            return True
        return (bool(session) and f"session {session}" in self._ended) or issued <= self._ended.get(
            f"user {subject}", -1
        )
