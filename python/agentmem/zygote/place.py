"""What a zygote runs, and where it is found."""

import hashlib
import json
import os
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple, Self

from agentmem import registry
from agentmem.errors import InvalidArgument, NotFound
from agentmem.zygote import wire

FUNCTION = "main"
"""What is called of a module when nothing else is named."""

_NAME_CHARACTERS = 64


class Target(NamedTuple):
    """A function of a module."""

    module: str
    function: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """What `MODULE[:FUNCTION]` names.

        Raises:
            InvalidArgument: It names nothing that could be imported.
        """
        module, colon, function = text.partition(":")
        names = [*module.split("."), *([function] if colon else [])]
        if module == "__main__" or not all(name.isidentifier() for name in names):
            raise InvalidArgument(
                f"{text!r} is no MODULE[:FUNCTION]: give a module that can be imported, such as"
                " package.module, or package.module:function"
            )
        return cls(module, function or FUNCTION)


class Place(NamedTuple):
    """Where the zygote of a module is: there is one for each user, interpreter and module."""

    folder: Path
    name: str

    @property
    def socket(self) -> Path:
        """What it listens on."""
        return self.folder / f"{self.name}.sock"

    @property
    def lock(self) -> Path:
        """Held (flock) by who starts it, and by itself while it ends."""
        return self.folder / f"{self.name}.lock"

    @property
    def log(self) -> Path:
        """What it writes to its stdout and stderr where it was started in the background."""
        return self.folder / f"{self.name}.log"

    @classmethod
    def of(cls, module: str) -> Self:
        """The place for this interpreter and what `module` is to it, in a folder made for it. A
        zygote that speaks another version has another.

        Raises:
            NotFound: There is no such module.
            PermissionDenied: Somebody else could have put something into the folder.
        """
        identity = [wire.VERSION, module, sys.executable, sys.prefix, *_origin(module)]
        digest = hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:16]
        return cls(registry.made("zygotes"), f"{module[:_NAME_CHARACTERS]}-{digest}")


def _origin(module: str) -> list[str]:
    """The files of the top package of `module`, which is not imported for that."""
    top = module.partition(".")[0]
    try:
        spec = find_spec(top)
    except ValueError:  # It is in sys.modules, without a word where from.
        spec = None
    if spec is None:
        looked = os.pathsep.join(path or "." for path in sys.path)
        raise NotFound(f"there is no module {top!r}; looked in {looked}")
    return [spec.origin or "", *(spec.submodule_search_locations or [])]
