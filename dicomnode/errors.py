"""Every error that is raised on purpose.

Each class answers three questions: whose fault it is, whether a retry helps, and what the peer is told. The
errors know nothing of DIMSE or HTTP: each door has one table from class to status.

    NodeError
    ├── ConfigError            operator's; no        exit code 2
    │   └── PluginMissing      operator's; no        exit code 2
    ├── BadInstance            sender's; no          C000 · 400, 409
    │   └── Mismatch           sender's; no          A900 · 409
    ├── BadRequest             asker's; no           A900, C000 · 400
    ├── Refused                sender's; no          0124 · 401, 403
    ├── NotFound               asker's; no           no matches · 404
    ├── PeerError              the peer's; perhaps   abort · 502
    └── PluginError            ours
        ├── Unavailable        ours; yes             A700 · 503
        ├── Full               ours; later           A700 · 507
        └── Corrupt            ours; no              C000 · 500
"""

from __future__ import annotations


class NodeError(Exception):
    """Something went wrong that this program foresaw."""

    def __str__(self) -> str:
        return super().__str__() or (self.__doc__ or "").strip()


class ConfigError(NodeError):
    """The configuration cannot be used; the operator must change it."""

    def __init__(self, path: str, problem: str, hint: str = "") -> None:
        super().__init__(f"{path}: {problem}" + (f" ({hint})" if hint else ""))
        self.path = path
        self.problem = problem
        self.hint = hint


class PluginMissing(ConfigError):
    """A plugin that the configuration names cannot be imported."""


class BadInstance(NodeError):
    """The object cannot be kept: it is no DICOM, it is cut short, or it lacks what identifies it."""


class Mismatch(BadInstance):
    """The object is not the one that was announced, or not of the study it was sent to."""


class BadRequest(NodeError):
    """The question cannot be understood."""


class Refused(NodeError):
    """The peer may not do this here."""


class NotFound(NodeError):
    """There is no such thing here."""


class PeerError(NodeError):
    """A peer broke the protocol, refused, or went away. `transient` tells whether a retry may help."""

    def __init__(self, problem: str, *, transient: bool = False) -> None:
        super().__init__(problem)
        self.transient = transient


class PluginError(NodeError):
    """A backend failed."""

    def __init__(self, plugin: str, problem: str = "") -> None:
        super().__init__(f"{plugin}: {problem}" if problem else plugin)
        self.plugin = plugin


class Unavailable(PluginError):
    """A backend cannot do its work now; the same call may succeed later."""


class Full(PluginError):
    """A backend has no room left; nothing was kept."""


class Corrupt(PluginError):
    """A backend holds something other than what was put into it."""
