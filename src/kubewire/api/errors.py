"""metav1.Status as an exception: one error type from the API server's validation to the client.

Reasons and codes are those of apimachinery ``pkg/api/errors`` (API conventions, "Response Status
Kind").
"""

from collections.abc import Sequence

from kubewire.api.meta import JSON, Wire

CODES = {
    "BadRequest": 400,
    "Unauthorized": 401,
    "Forbidden": 403,
    "NotFound": 404,
    "MethodNotAllowed": 405,
    "NotAcceptable": 406,
    "AlreadyExists": 409,
    "Conflict": 409,
    "Gone": 410,
    "Expired": 410,
    "RequestEntityTooLarge": 413,
    "UnsupportedMediaType": 415,
    "Invalid": 422,
    "TooManyRequests": 429,
    "InternalError": 500,
    "ServiceUnavailable": 503,
    "Timeout": 504,
}


def system_text(error: Exception) -> str:
    """What the system says of a file or an address, without repeating its name."""
    return error.strerror if isinstance(error, OSError) and error.strerror else str(error)


class Cause(Wire, frozen=True, kw_only=True):
    """details.causes[]: one wrong field."""

    reason: str = ""
    message: str = ""
    field: str = ""


class StatusError(Exception):
    """A refused request; ``reason`` is a key of CODES, ``message`` is for people."""

    def __init__(
        self,
        reason: str,
        message: str,
        *,
        group: str = "",
        kind: str = "",
        name: str = "",
        causes: Sequence[Cause] = (),
        code: int = 0,
        retry_after: int = 0,
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.group = group
        self.kind = kind
        self.name = name
        self.causes = tuple(causes)
        self.code = code or CODES.get(reason, 500)
        self.retry_after = retry_after

    def to_wire(self) -> JSON:
        """Render as a v1 Status object."""
        details: JSON = {}
        if self.name:
            details["name"] = self.name
        if self.group:
            details["group"] = self.group
        if self.kind:
            details["kind"] = self.kind
        if self.causes:
            details["causes"] = [
                {"reason": c.reason, "message": c.message, "field": c.field} for c in self.causes
            ]
        if self.retry_after:
            details["retryAfterSeconds"] = self.retry_after
        status: JSON = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.message,
            "reason": self.reason,
            "code": self.code,
        }
        if details:
            status["details"] = details
        return status

    @classmethod
    def from_wire(cls, status: JSON) -> "StatusError":
        """Read a v1 Status object; missing parts become empty."""
        details = status.get("details") or {}
        return cls(
            status.get("reason") or "InternalError",
            status.get("message") or "unknown error",
            group=details.get("group", ""),
            kind=details.get("kind", ""),
            name=details.get("name", ""),
            causes=[
                Cause(
                    reason=c.get("reason", ""),
                    message=c.get("message", ""),
                    field=c.get("field", ""),
                )
                for c in details.get("causes") or ()
            ],
            code=int(status.get("code") or 0),
            retry_after=int(details.get("retryAfterSeconds") or 0),
        )


class InputError(Exception):
    """Wrong use or bad input of a person: one line that names place, object, field and fault.

    The command line prints it on stderr and exits with 2.
    """
