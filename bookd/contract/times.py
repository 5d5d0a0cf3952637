"""Times: microseconds since the epoch (UTC) in the services and their databases, google.protobuf.Timestamp in messages."""

from google.protobuf.timestamp_pb2 import Timestamp

_SECOND = 1_000_000


def timestamp(microseconds: int) -> Timestamp:
    """That many microseconds since the epoch."""
    seconds, rest = divmod(microseconds, _SECOND)
    return Timestamp(seconds=seconds, nanos=rest * 1000)
