"""Where the objects are: a bucket and a prefix of an object store, and how it is reached."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit, urlunsplit

import msgspec
from obstore.exceptions import BaseError
from obstore.store import AzureStore, GCSStore, S3Store

from dicomnode.errors import ConfigError

if TYPE_CHECKING:
    from obstore.store import RetryConfig  # not there at run time

ObjectStore = S3Store | GCSStore | AzureStore
_CONNECT_S = 5.0
_FIRST_PAUSE, _LONGEST_PAUSE = timedelta(seconds=0.1), timedelta(seconds=2)


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`url`: s3://bucket/prefix, gs://bucket/prefix or az://container/prefix. `endpoint`: of a server that is not AWS.

    `access_key_id`, `secret_access_key`: empty means the environment's (AWS_ACCESS_KEY_ID …), else the machine's role.
    `addressing`: the bucket as a part of the path, or of the host's name. `ca`: a PEM file with who may have signed
    the server's certificate, beside those this machine trusts. `settings`: more of obstore's, by its names.
    `create_bucket`: make the bucket where there is none. `timeout_s`: for one request. `retry_s`: how long a request
    that failed is tried again. `connections`: requests at once. `part_bytes`: longer objects go in parts of this.
    `cache_dir`: what was read is kept there (default <data_dir>/s3-cache), at most `cache_bytes` of it (0: nothing) in
    blocks of `cache_block_bytes`, and only while `cache_reserve_bytes` of that disk are free. `write_through`: what is
    put is kept there too.
    """

    url: str = ""
    endpoint: str = ""
    region: str = ""
    access_key_id: str = ""
    secret_access_key: str = ""
    addressing: Literal["path", "host"] = "path"
    ca: str = ""
    settings: dict[str, str] = {}
    create_bucket: bool = False
    timeout_s: float = 30.0
    retry_s: float = 30.0
    connections: int = 32
    part_bytes: int = 8 * 1024 * 1024
    cache_dir: str = ""
    cache_bytes: int = 10 * 1024 * 1024 * 1024
    cache_block_bytes: int = 1024 * 1024
    cache_reserve_bytes: int = 1024 * 1024 * 1024
    write_through: bool = False

    def __repr__(self) -> str:
        return f"Options(endpoint={self.endpoint!r})"  # the rest may hold secrets


class Place(msgspec.Struct, frozen=True):
    """A bucket of a provider, and what stands before every key in it."""

    provider: str
    bucket: str
    prefix: str


def place_of(options: Options) -> Place:
    """Return what the url names. Raises: ConfigError."""
    parts = urlsplit(options.url)
    if (
        parts.scheme not in ("s3", "gs", "az")
        or not parts.netloc
        or parts.query
        or parts.fragment
        or "@" in parts.netloc
    ):
        raise ConfigError("storage.options.url", "is no place for objects", "s3://bucket/prefix, gs://… or az://…")
    return Place(parts.scheme, parts.netloc, parts.path.strip("/"))


def connect(options: Options) -> ObjectStore:
    """Return the store of the url, through which no request has gone yet. Raises: ConfigError."""
    place = place_of(options)
    common: dict[str, Any] = {
        "prefix": place.prefix or None,
        "client_options": _client(options),
        "retry_config": _retries(options),
    }
    try:
        if place.provider == "gs":
            return GCSStore(place.bucket, config=_settings(options), **common)
        if place.provider == "az":
            return AzureStore(place.bucket, config=_settings(options), **common)
        return S3Store(place.bucket, config=_s3(options, place.bucket), **common)
    except (BaseError, ValueError) as error:
        problem = str(error).partition("\n")[0]
        raise ConfigError("storage.options.settings", f"obstore does not take them: {problem}") from error


def connect_to_server(options: Options) -> S3Store:
    """Return the server as a store whose keys are its buckets: an object that is put there is a bucket made."""
    settings = _s3(options, "") | {"virtual_hosted_style_request": True}
    settings["endpoint"] = options.endpoint or f"https://s3.{options.region or 'us-east-1'}.amazonaws.com"
    return S3Store("buckets", config=settings, client_options=_client(options), retry_config=_retries(options))


def _settings(options: Options) -> Any:
    return {name: value for name, value in options.settings.items() if value}


def _s3(options: Options, bucket: str) -> Any:
    told = {
        "endpoint": _with_bucket(options.endpoint, bucket) if options.addressing == "host" else options.endpoint,
        "region": options.region,
        "access_key_id": options.access_key_id,
        "secret_access_key": options.secret_access_key,
    }
    settings: dict[str, Any] = {name: value for name, value in told.items() if value}
    if options.addressing == "host":
        settings["virtual_hosted_style_request"] = True
    return settings | _settings(options)


def _with_bucket(endpoint: str, bucket: str) -> str:
    parts = urlsplit(endpoint)
    return urlunsplit(parts._replace(netloc=f"{bucket}.{parts.netloc}")) if endpoint and bucket else endpoint


def _retries(options: Options) -> RetryConfig:
    return {
        "max_retries": 1000,  # the time is what bounds them
        "retry_timeout": timedelta(seconds=options.retry_s),
        "backoff": {"init_backoff": _FIRST_PAUSE, "max_backoff": _LONGEST_PAUSE, "base": 2},
    }


def _client(options: Options) -> Any:
    client: dict[str, Any] = {
        "timeout": timedelta(seconds=options.timeout_s),
        "connect_timeout": timedelta(seconds=min(_CONNECT_S, options.timeout_s)),
    }
    if options.endpoint.startswith("http://"):
        client["allow_http"] = True
    if options.ca:
        try:
            with open(options.ca, "rb") as file:
                client["root_certificate"] = file.read()
        except OSError as error:
            raise ConfigError("storage.options.ca", f"cannot be read: {error.strerror}") from error
    return client
