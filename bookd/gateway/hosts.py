"""For which host a request is: what `Host` says (RFC 9110, section 7.2), and whether that is served here.

A page whose name was bound to this machine's address asks with its own name in `Host` (DNS rebinding), and so does whoever
hopes that an answer, or a cache before it, is made for a name of his. No answer of the gateway depends on the name, and a
browser believes the certificate for its own names only. Whoever wants no such request answered at all names the hosts that
are served; all others are told 421 (RFC 9110, section 15.5.20). Ports do not count: those in front are nobody's business.
"""

import re
from collections.abc import Iterable
from functools import lru_cache
from ipaddress import IPv6Address

from bookd.errors import BookdError, InvalidArgument, NotFound
from bookd.gateway import problem

# Names as they are in the DNS, with what host names of containers have beyond that; addresses.
_HOST = re.compile(rb"(?:\[([0-9A-Fa-f:.]{2,45})\]|([A-Za-z0-9_.-]{1,254}))(?::([0-9]{0,5}))?")
_ABSOLUTE = re.compile(rb"(?i:https)://([^/?#]+)([/?].*)?")
# Characters of a name with its port, and of a part of it between dots.
_LONGEST, _LONGEST_LABEL = 260, 63
_ANY_BELOW = "*."


class Hosts:
    """The names that are served: "shop.example", "*.shop.example" for all below it, "192.0.2.1", "2001:db8::1". None
    stands for any. Raises ValueError for what is no name."""

    def __init__(self, names: Iterable[str] = ()) -> None:
        self._names: set[str] = set()
        self._below: list[str] = []
        for each in names:
            bare = each.removeprefix(_ANY_BELOW)
            found = _name(f"[{bare}]".encode() if ":" in bare else bare.encode())
            if found is None:
                raise ValueError(f"hosts: {each!r} is no name of a host")
            if bare == each:
                self._names.add(found)
            else:
                self._below.append("." + found)
        # Clients name few hosts; who names many, and long ones, does not fill the memory.
        self._known = lru_cache(maxsize=1024)(self._judged)

    def judge(self, host: bytes | None) -> BookdError | None:
        """What is wrong with a request for `host`, the value of its header; None for nothing."""
        return (
            self._known(host)
            if host is None or len(host) <= _LONGEST
            else InvalidArgument("the Host header is too long")
        )

    def _judged(self, host: bytes | None) -> BookdError | None:
        name = _name(host) if host is not None else ""
        if name is None:
            return InvalidArgument("the Host header cannot be read")
        if not self._names and not self._below:
            return None
        if name in self._names or any(name.endswith(each) for each in self._below):
            return None
        return NotFound("this host is not served here", reason=problem.MISDIRECTED)


def origin_form(target: bytes, host: bytes | None) -> bytes | None:
    """The path and query of a target in absolute form (RFC 9112, section 3.2.2), which everybody has to understand. None when
    it is none, or is for another host than `host`: of two readers each could believe another one."""
    match = _ABSOLUTE.fullmatch(target)
    if match is None or host is None or match[1].lower() != host.lower():
        return None
    rest = match[2] or b"/"
    return rest if rest.startswith(b"/") else b"/" + rest


def _name(host: bytes) -> str | None:
    """The name in `host`, in small letters, without port, brackets and the dot of the root; None when it cannot be read."""
    match = _HOST.fullmatch(host)
    if match is None or int(match[3] or 0) > 65535:
        return None
    if match[1] is not None:
        try:
            return str(IPv6Address(match[1].decode()))
        except ValueError:
            return None
    labels = match[2].decode().lower().removesuffix(".").split(".")
    return ".".join(labels) if all(1 <= len(label) <= _LONGEST_LABEL for label in labels) else None
