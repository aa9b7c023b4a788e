"""What the driver's errors mean to us, and how much of what it says is repeated."""

from __future__ import annotations

import logging
import ssl
import time

import aiokafka.errors as kafka

from dicomnode.errors import ConfigError, NodeError, PluginError, Unavailable

NAME = "kafka"
AWAY = (kafka.KafkaError, OSError, TimeoutError)
LOST = (kafka.CommitFailedError, kafka.IllegalStateError, kafka.ConsumerStoppedError)
_LOG = logging.getLogger("dicomnode.kafka")
_REFUSED = (
    kafka.AuthenticationFailedError,
    kafka.SaslAuthenticationFailed,
    kafka.UnsupportedSaslMechanismError,
    kafka.IllegalSaslStateError,
)
FORBIDDEN = (
    kafka.TopicAuthorizationFailedError,
    kafka.GroupAuthorizationFailedError,
    kafka.ClusterAuthorizationFailedError,
)
# A topic that cannot be made as told: more replicas than servers, a name or a setting that they do not allow.
UNFIT = (
    kafka.InvalidReplicationFactorError,
    kafka.InvalidPartitionsError,
    kafka.InvalidConfigurationError,
    kafka.InvalidTopicError,
    kafka.PolicyViolationError,
)
_TOO_LONG = (kafka.MessageSizeTooLargeError, kafka.RecordListTooLargeError)
_SAID_AGAIN_S, _SENTENCES = 60.0, 1000


def of_opening(error: Exception) -> NodeError:
    """Return what `error`, raised on the way to a server, is to an operator."""
    if isinstance(error, _REFUSED):
        problem = "the servers refused the user, the password or the mechanism"
        return ConfigError("broker.options", problem, "username, password, mechanism")
    if isinstance(error, ssl.SSLCertVerificationError):
        problem = f"a server's certificate is not to be trusted: {error.verify_message}"
        return ConfigError("broker.options.ca_file", problem)
    if isinstance(error, ssl.SSLError):
        return ConfigError("broker.options.url", "a server does not speak TLS there", "kafka:// without it")
    if isinstance(error, (kafka.KafkaConnectionError, ConnectionResetError)):
        return Unavailable(NAME, "a server hangs up; perhaps it wants TLS (kafka+ssl://), or none, or a user")
    return Unavailable(NAME, f"no server answers: {_short(error)}")


def of_asking(error: Exception) -> Unavailable:
    """Return what `error` is to who may ask again."""
    if isinstance(error, UNFIT):
        return Unavailable(NAME, f"a topic cannot be made as broker.options say: {_short(error)}")
    if isinstance(error, FORBIDDEN):
        return Unavailable(NAME, f"the servers' access lists forbid it: {_short(error)}")
    return Unavailable(NAME, _short(error))


def of_publishing(error: Exception) -> PluginError:
    """Return what `error` is to a publisher; of a message that is too long it is no Unavailable."""
    if isinstance(error, _TOO_LONG):
        return PluginError(NAME, "a message is longer than the servers take (the topic's max.message.bytes)")
    return of_asking(error)


def forbidden(what: str, error: Exception) -> ConfigError:
    """Return what an operator is told of a right that is missing."""
    return ConfigError("broker", f"may not {what}: {type(error).__name__}", "grant it in the access lists of Kafka")


def unfit(topic: str, error: Exception) -> ConfigError:
    """Return what an operator is told of a topic that cannot be made."""
    problem = f"the topic {topic} cannot be made so: {type(error).__name__}"
    return ConfigError("broker.options", problem, "topic_prefix, partitions, replication, or make it yourself")


def _short(error: Exception) -> str:
    """Return the kind of an error; the driver's own words may run over pages."""
    return "no answer in time" if isinstance(error, TimeoutError) else type(error).__name__


class Seldom(logging.Handler):
    """Pass on what the driver has to say, each sentence once a minute: it repeats itself at every attempt."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._said: dict[str, float] = {}

    def emit(self, record: logging.LogRecord) -> None:
        """Pass `record` on, unless it was said just now."""
        now = time.monotonic()
        sentence = f"{record.name} {record.msg}"
        if now - self._said.get(sentence, float("-inf")) >= _SAID_AGAIN_S:
            if len(self._said) > _SENTENCES:
                self._said.clear()
            self._said[sentence] = now
            _LOG.warning("driver.said: %s", record.getMessage())


def hush() -> None:
    """Have the driver say things seldom, and never what it says to find faults in itself: that quotes messages."""
    driver = logging.getLogger("aiokafka")
    driver.setLevel(max(logging.WARNING, driver.level))
    driver.propagate = False
    if not any(isinstance(handler, Seldom) for handler in driver.handlers):
        driver.addHandler(Seldom())
