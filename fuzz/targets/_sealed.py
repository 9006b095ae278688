"""Records with a checksum of themselves: a fuzzer changes what is in them, and would otherwise get no further."""

from __future__ import annotations

import json

from cotune.checksums import sealed


def sealed_again(data: bytes) -> bytes | None:
    """Return a JSON object with the checksum that it should have, None for anything else."""
    try:
        value = json.loads(data)
        if not isinstance(value, dict):
            return None
        value.pop("checksum", None)
        return json.dumps(sealed(value)).encode()
    except (ValueError, RecursionError):
        return None
