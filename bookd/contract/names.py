"""Ids that follow from something else, so that whoever makes one again makes the same: UUIDs (RFC 9562), as text.

The standard library makes an object of each first, which costs several times what is done here.
"""

from hashlib import sha1, sha256
from uuid import UUID

_VARIANT = {digit: "89ab"[int(digit, 16) & 3] for digit in "0123456789abcdef"}


def named(namespace: UUID, name: str) -> str:
    """The UUIDv5 of a name in a namespace (section 5.5)."""
    text = sha1(namespace.bytes + name.encode(), usedforsecurity=False).hexdigest()
    return f"{text[:8]}-{text[8:12]}-5{text[13:16]}-{_VARIANT[text[16]]}{text[17:20]}-{text[20:32]}"


def following(first: str, name: str) -> str:
    """A UUIDv8 (section 5.8) of another UUID and a name, which begins with the 48 bits that the other begins with. If those
    are a time, as in a UUIDv7, what is written close to one another lies close to one another in every index."""
    text = sha256(f"{first}\n{name}".encode()).hexdigest()
    return f"{first[:13]}-8{text[:3]}-{_VARIANT[text[3]]}{text[4:7]}-{text[7:19]}"
