"""What the driver raises becomes ours at this edge. Its texts hold keys and signatures: none of them goes further."""

from __future__ import annotations

import re

from obstore.exceptions import AlreadyExistsError, BaseError, PermissionDeniedError, UnauthenticatedError

from dicomnode.errors import ConfigError, Full, NodeError, NotFound, Unavailable

NAME = "s3"
DRIVER = (BaseError, OSError)

_STATUS = re.compile(r"status code: (\d{3})")
_CODE = re.compile(r"<Code>([A-Za-z]{1,60})</Code>")
_NO_ROOM = frozenset({"413", "507"})
_NO_ROOM_CODES = frozenset(
    {"QuotaExceeded", "EntityTooLarge", "InsufficientCapacity", "XMinioStorageFull", "XMinioAdminBucketQuotaExceeded"}
)
_NO_BUCKET = frozenset({"NoSuchBucket", "ContainerNotFound"})
_WRONG_PLACE = frozenset(
    {"InvalidBucketName", "PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException"}
)
_CREDENTIALS = ("latest/api/token", "security-credentials", "metadata.google.internal")


def is_absent(error: BaseException) -> bool:
    """Tell whether there is nothing under the key, in a bucket that is there."""
    return isinstance(error, FileNotFoundError) and _code(error) not in _NO_BUCKET


def is_past_the_end(error: BaseException) -> bool:
    """Tell whether the range that was asked for begins behind the object's end."""
    return _status(error) == "416"


def is_in_use(error: BaseException) -> bool:
    """Tell whether there is something under the key already."""
    return isinstance(error, AlreadyExistsError)


def is_without_conditions(error: BaseException) -> bool:
    """Tell whether the server does not know a put that only creates."""
    return _status(error) == "501"


def told(error: BaseException) -> NodeError:
    """Return what the rest of the house may know of `error`."""
    status, code = _status(error), _code(error)
    if is_absent(error):
        return NotFound("there is no such object in the storage")
    if is_in_use(error):
        return Unavailable(NAME, "the key is in use already")
    if status in _NO_ROOM or code in _NO_ROOM_CODES:
        return Full(NAME, f"the server has no room ({code or status})")
    if code in _NO_BUCKET:
        return Unavailable(NAME, "the bucket is gone")
    if status:
        return Unavailable(NAME, f"the server answered {status}{f' ({code})' if code else ''}")
    return Unavailable(NAME, "the server does not answer")


def told_at_start(error: BaseException) -> NodeError:
    """Return the same of an error at start, when some are the operator's."""
    code, text = _code(error), str(error)
    if code in _NO_BUCKET:
        return ConfigError("storage.options.url", "there is no such bucket", "make it, or set create_bucket = true")
    if code in _WRONG_PLACE:
        return ConfigError("storage.options.url", f"the server says {code}", "check bucket, region and endpoint")
    if code == "RequestTimeTooSkewed":
        return ConfigError("storage.options.endpoint", "the server's clock differs", "set this machine's clock")
    if isinstance(error, PermissionDeniedError | UnauthenticatedError):
        return ConfigError(
            "storage.options.access_key_id",
            f"the server refused them{f': {code}' if code else ''}",
            "the keys must be right and may list, read, write and delete",
        )
    if any(place in text for place in _CREDENTIALS):
        return ConfigError(
            "storage.options.access_key_id",
            "there are none, here, in the environment or from the machine's role",
            "set them, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
        )
    return told(error)


def _status(error: BaseException) -> str:
    found = _STATUS.search(str(error))
    return found[1] if found else ""


def _code(error: BaseException) -> str:
    found = _CODE.search(str(error))
    return found[1] if found else ""
