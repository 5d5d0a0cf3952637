"""What schemathesis does not ask: to delete the very user, or to end the sessions, that it asks as."""

import os
from typing import Any

import schemathesis

SELF = "BOOKD_FUZZ_SELF"


@schemathesis.hook
def filter_case(context: Any, case: Any) -> bool:
    """Whether to ask this."""
    named = (case.path_parameters or {}).get("user_id")
    return case.method == "GET" or named is None or named != os.environ.get(SELF)
