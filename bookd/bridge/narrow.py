"""A channel for streams whose readers may be slow.

gRPC widens the window of a stream to megabytes, so that a fast reader is never waited for; what the sender has put into it
lies in this process until it is read. With many streams that nobody reads that is all of the memory. On this channel the
window stays narrow: what is not read waits at the sender, which holds one message back.

It is a connection beside the usual one, so that however many streams there are, calls find room on the other.
"""

from typing import Any

from bookd.bridge.channel import Channel

# Bytes of a stream that may lie here unread.
WINDOW = 65_535
_NARROW = (("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", WINDOW))


class NarrowChannel(Channel):
    """As `Channel`, but no trunk, and streams that are not read hold little."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs, trunk=False)
        self._options = [*self._options, *_NARROW]
