"""What an operator writes, and what the driver is told."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from dicomnode.errors import ConfigError
from dicomnode_kafka.options import Options, address, connection


def test_an_address_names_servers_and_who_asks() -> None:
    told = address(Options(url="kafka://us%40er:pass%2Cword@one:19092,[::1],two"), {})
    assert told.servers == ["one:19092", "[::1]:9092", "two:9092"]
    assert (told.username, told.password, told.tls) == ("us@er", "pass,word", False)


def test_who_asks_may_stand_elsewhere() -> None:
    environment = {"KAFKA_USERNAME": "env", "KAFKA_PASSWORD": "of env"}
    assert address(Options(), environment).username == "env"
    told = address(Options(username="option", password="of option"), environment)
    assert (told.username, told.password) == ("option", "of option")


@pytest.mark.parametrize(
    "url",
    ["", "host:9092", "amqp://host", "kafka://", "kafka://host/topic", "kafka://host:port", "kafka://host?acks=0"],
)
def test_what_is_no_address_is_told(url: str) -> None:
    with pytest.raises(ConfigError, match=r"broker\.options\.url"):
        address(Options(url=url), {})


def test_the_protocol_follows_from_the_url_and_the_user() -> None:
    assert connection(Options())["security_protocol"] == "PLAINTEXT"
    assert connection(Options(url="kafka+ssl://host"))["security_protocol"] == "SSL"
    assert connection(Options(username="user"))["security_protocol"] == "SASL_PLAINTEXT"
    assert connection(Options(url="kafka+ssl://user@host"))["security_protocol"] == "SASL_SSL"


def test_certificates_are_for_tls_and_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="TLS"):
        connection(Options(ca_file="ca.pem"))
    with pytest.raises(ConfigError, match="cannot be read"):
        connection(Options(url="kafka+ssl://host", ca_file=str(tmp_path / "none.pem")))


@pytest.mark.parametrize(
    "told", [{"compression": "rar"}, {"partitions": 0}, {"mechanism": "GSSAPI"}, {"topics": []}, {"timeout_s": 0}]
)
def test_what_cannot_be_set_is_refused(told: dict[str, object]) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(told, Options)


def test_secrets_are_in_no_text() -> None:
    options = Options(url="kafka://user:secret@host", password="secret")
    assert "secret" not in repr(options) + str(options) + repr(address(options, {}))
