"""Calls as the parts of the MOM see them, without gRPC."""

from typing import Any

from bookd.bridge.context import Context
from bookd.wire.policy.v1.policy_pb2 import Principal
from tests.mom.room import SEND


class GrpcContext:
    """As much of gRPC's context as a `Context` asks for: the time that is left."""

    def __init__(self, remaining: float | None) -> None:
        self.remaining = remaining

    def time_remaining(self) -> float | None:
        """Seconds."""
        return self.remaining


def context(
    message_id: str | None = None, subject: str = "", *roles: str, remaining: float | None = 5.0, **carried: Any
) -> Context:
    """The context of a call; `carried` is metadata, with _ for -."""
    made = Context(
        SEND, "gateway", {key.replace("_", "-"): value for key, value in carried.items()}, GrpcContext(remaining)
    )
    made.message_id = message_id
    made.principal = Principal(subject=subject, roles=roles) if subject else None
    return made
