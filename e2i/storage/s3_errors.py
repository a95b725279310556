"""What S3 servers and botocore say, in the words of `e2i.errors`.

Conventions: s3fs turns botocore's `ClientError` into an `OSError` and keeps the original as its
cause; the original's code and HTTP status decide.

Source: https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html, and the codes that
MinIO and SeaweedFS add.
"""

from __future__ import annotations

from collections.abc import Iterable

import aiohttp
from botocore import exceptions as boto

from e2i.errors import ConfigError, E2IError, StorageError, StorageUnavailableError
from e2i.storage import translation

_NOT_FOUND = {"NoSuchKey", "NoSuchBucket", "NotFound", "404"}
_FULL = {"InsufficientStorage", "QuotaExceeded", "XMinioStorageFull", "507"}
_NOT_ALLOWED = {
    "AccessDenied",
    "AccountProblem",
    "AllAccessDisabled",
    "ExpiredToken",
    "InvalidAccessKeyId",
    "InvalidToken",
    "RequestTimeTooSkewed",
    "SignatureDoesNotMatch",
    "TokenRefreshRequired",
}
_RENEWABLE = {
    "401",
    "403",
    "ExpiredToken",
    "ExpiredTokenException",
    "InvalidAccessKeyId",
    "InvalidToken",
    "RequestExpired",
    "SignatureDoesNotMatch",
    "TokenRefreshRequired",
}
"""What a server says of credentials that have been replaced; to HEAD the bare status."""

_MAY_PASS = {
    "BadDigest",
    "BandwidthLimitExceeded",
    "ConditionalRequestConflict",
    "InternalError",
    "OperationAborted",
    "RequestLimitExceeded",
    "RequestTimeout",
    "ServiceUnavailable",
    "SlowDown",
    "Throttling",
    "ThrottlingException",
    "TooManyRequests",
    "XAmzContentSHA256Mismatch",
}
_NO_CREDENTIALS = (
    boto.NoCredentialsError,
    boto.PartialCredentialsError,
    boto.CredentialRetrievalError,
    boto.TokenRetrievalError,
    boto.SSOError,
    boto.NoAuthTokenError,
)
_CONNECTION = (
    boto.ConnectionError,
    boto.HTTPClientError,
    boto.IncompleteReadError,
    aiohttp.ClientError,
    ConnectionError,
    TimeoutError,
)
_GIVE_CREDENTIALS = (
    "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (and AWS_ENDPOINT_URL for another store than "
    "AWS), or AWS_PROFILE."
)


class ConditionFailedError(StorageError):
    """412: the object is not what the request expected."""


class NoConditionalWritesError(StorageError):
    """501: the server does not know conditional writes."""


class EmptyObjectError(StorageError):
    """416 for a range from the first byte: the object is empty."""


_SPECIAL = {412: ConditionFailedError, 416: EmptyObjectError, 501: NoConditionalWritesError}


def cause_of(error: Exception) -> Exception:
    """The original of what s3fs and fsspec made of it."""
    current: BaseException | None = error
    while isinstance(current, Exception):
        if isinstance(current, boto.ClientError):
            break
        current = current.__cause__
    return current if isinstance(current, Exception) else error


def may_pass(error: E2IError) -> bool:
    """Whether to send the request again at once."""
    return isinstance(error, StorageUnavailableError)


def credentials_refused(error: Exception) -> bool:
    """Whether the server refused the credentials themselves: newer ones may be there to fetch."""
    error = cause_of(error)
    if not isinstance(error, boto.ClientError):
        return False
    return str(error.response.get("Error", {}).get("Code", "")) in _RENEWABLE


def translate(error: Exception, action: str, where: str, secrets: Iterable[str]) -> E2IError | None:
    """The translation; None for what is no error of a store (a defect)."""
    error = cause_of(error)
    if isinstance(error, boto.ClientError):
        return _from_answer(error, action, where, secrets)
    reason = translation.redacted(str(error) or type(error).__name__, secrets)
    if isinstance(error, _NO_CREDENTIALS):
        return translation.not_allowed(action, where, reason, _GIVE_CREDENTIALS)
    if isinstance(error, boto.SSLError):
        step = "Check the endpoint's certificate, or name its authority in AWS_CA_BUNDLE."
        return translation.refused(action, where, reason, step)
    if isinstance(error, _CONNECTION):
        return translation.unavailable(action, where, type(error).__name__)
    if isinstance(error, boto.BotoCoreError) or _is_bad_endpoint(error):
        return ConfigError(
            f"cannot {action}: got {reason!r} for {where}, expected a usable S3 configuration. "
            "Check the storage options, the AWS_ variables and ~/.aws/config."
        )
    return translation.from_os_error(error, action, where) if isinstance(error, OSError) else None


def _is_bad_endpoint(error: Exception) -> bool:
    return isinstance(error, ValueError) and "Invalid endpoint" in str(error)


def _from_answer(
    error: boto.ClientError, action: str, where: str, secrets: Iterable[str]
) -> StorageError:
    code = str(error.response.get("Error", {}).get("Code", "unknown"))
    status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    said = translation.redacted(str(error.response.get("Error", {}).get("Message", "")), secrets)
    reason = f"{code} ({status})" + (f" {said!r}" if said else "")
    other = translation.refused(action, where, reason, "Check the name and the store's limits.")
    if status in _SPECIAL:
        return _SPECIAL[status](str(other))
    if code in _NOT_FOUND or status == 404:
        if code == "NoSuchBucket":
            return translation.no_bucket("/".join(where.split("/")[:3]))
        return translation.not_found(where)
    return _refusal(code, status, action, where, reason) or other


def _refusal(code: str, status: int, action: str, where: str, reason: str) -> StorageError | None:
    if code in _FULL or status == 507:
        return translation.full(action, where, reason)
    if code in _NOT_ALLOWED or status in {401, 403}:
        return translation.not_allowed(action, where, reason, _step_for(code))
    if code in _MAY_PASS or status == 429 or status >= 500:
        return translation.unavailable(action, where, reason)
    return None


def _step_for(code: str) -> str:
    if code == "RequestTimeTooSkewed":
        return "Set this machine's clock."
    if code in {"ExpiredToken", "InvalidToken", "TokenRefreshRequired"}:
        return "Renew the session (AWS_SESSION_TOKEN, or `aws sso login`)."
    if code in {"InvalidAccessKeyId", "SignatureDoesNotMatch"}:
        return "Correct AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY; check AWS_ENDPOINT_URL."
    return _GIVE_CREDENTIALS.replace("Set ", "Ask for access to the bucket, or set ", 1)
