"""What schemathesis does not do: delete the very user, or end the sessions, that it asks as."""

import os
from typing import Any

import schemathesis

SELF = "BOOKD_FUZZ_SELF"


@schemathesis.hook
def map_case(context: Any, case: Any) -> Any:
    """A request that would change who asks is made for somebody who is not there."""
    named = case.path_parameters or {}
    if case.method != "GET" and named.get("user_id") == os.environ.get(SELF):
        named["user_id"] = "nobody"
    return case
