"""Asynchronous queries for guests; imported by Superset, from its setting."""

from __future__ import annotations

from typing import Any

import jwt

# Superset is not installed where this is type-checked.
from superset.async_events.async_query_manager import (  # type: ignore[import-not-found,unused-ignore]
    AsyncQueryManager,
    AsyncQueryTokenException,
)


class GuestAsyncQueryManager(AsyncQueryManager):  # type: ignore[misc,unused-ignore]
    """Superset's, which guests can use.

    A guest has no account, so the channel token's ``sub`` is null, and PyJWT 2.10 and later
    refuse that: each of a guest's charts answers 401 (apache/superset#34611). The channel is
    what is read from the token, and the signature is verified as before.
    """

    def parse_channel_id_from_request(self, req: Any) -> str:
        """The channel that this browser's events arrive on."""
        token = req.cookies.get(self._jwt_cookie_name)
        if not token:
            raise AsyncQueryTokenException("Token not preset")
        try:
            claims = jwt.decode(
                token, self._jwt_secret, algorithms=["HS256"], options={"verify_sub": False}
            )
            return str(claims["channel"])
        except Exception as error:
            raise AsyncQueryTokenException("Failed to parse token") from error
