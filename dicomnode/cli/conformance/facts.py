"""What a node of one configuration does, asked of the parts that do it: the same objects as in a running node."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping

import msgspec
from pydicom.uid import UID

from dicomnode.backends import make_backends
from dicomnode.config import ROLES, Config
from dicomnode.dicom.transfer_syntax import STANDARD, TransferSyntax
from dicomnode.dicom.uid import STORAGE_SOP_CLASSES
from dicomnode.dimse import command
from dicomnode.dimse.associate import Context, Policy
from dicomnode.dimse.items import Proposal, Role, UserInformation, Window
from dicomnode.dimse.responder import Operations
from dicomnode.node import Node
from dicomnode.roles.storescp.role import StoreScp

_ANY = Role(scu=True, scp=True)
_YES = bytes([1] * 8)

OPERATIONS = {
    value: name.removesuffix("_RQ").replace("_", "-") for name, value in vars(command).items() if name.endswith("_RQ")
}
"""The command fields by number: C-FIND and so on."""


class Facts(msgspec.Struct, frozen=True):
    """A configuration, what the DIMSE door agrees to under it, and what it answers beside C-STORE and C-ECHO."""

    config: Config
    policy: Policy
    operations: Operations
    door: StoreScp

    @property
    def storage(self) -> list[str]:
        """The storage SOP classes by name."""
        return sorted(STORAGE_SOP_CLASSES, key=lambda uid: (name_of(uid), uid))

    @property
    def services(self) -> list[str]:
        """The other SOP classes that a presentation context may be for."""
        return sorted(self.policy.services, key=lambda uid: [int(part) for part in uid.split(".")])

    def syntaxes(self, sop_class: str) -> list[TransferSyntax]:
        """Return the transfer syntaxes of the standard that are accepted for a SOP class."""
        return [syntax for syntax in STANDARD.values() if self.policy.syntax(Proposal(1, sop_class, (syntax.uid,)))]

    def role(self, sop_class: str) -> Role:
        """Return what a requestor that asks for both roles may be."""
        return self.policy.role(sop_class, _ANY)

    def extended(self, sop_class: str) -> bytes:
        """Return what is agreed of an extended negotiation that asks for everything."""
        user = UserInformation(extended={sop_class: _YES})
        return self.policy.extended(user, _contexts(sop_class)).get(sop_class, b"")

    def window(self, sop_class: str) -> int:
        """Return how many operations a requestor that asks for any number may invoke on such contexts."""
        agreed = self.policy.window(Window(0, 0), _contexts(sop_class))
        return agreed.invoked if agreed else 1

    def methods(self) -> Operations:
        """Return what answers each operation, without what is around it."""
        return {name: do for subject in self.door.subjects for name, do in subject.operations().items()}


def facts_of(config: Config) -> Facts:
    """Return the facts of `config`. Nothing is opened, and nothing of the data folder touched. Raises: ConfigError."""
    with tempfile.TemporaryDirectory() as folder:
        elsewhere = msgspec.structs.replace(
            config,
            node=msgspec.structs.replace(config.node, data_dir=folder),
            worklist=msgspec.structs.replace(config.worklist, folder=""),
        )
        roles = list(Node(elsewhere, ROLES).roles(make_backends(elsewhere)))
    (door,) = (role for role in roles if isinstance(role, StoreScp))
    return Facts(config, door.policy, door.operations, door)


def name_of(uid: str) -> str:
    """Return what the standard calls `uid`; the UID itself where our dictionary is older than it."""
    return UID(uid).name


def _contexts(sop_class: str) -> Mapping[int, Context]:
    return {1: Context(1, sop_class, "", as_scu=False, as_scp=True)}
