"""What workers ask about versions that they were not told of: which one is meant, and where its files lie."""

from __future__ import annotations

from lagar.control.equipment import Equipment
from lagar.errors import CatalogAway, LagarError, NotFound, NotReady, StoreAway
from lagar.logs import Log
from lagar.registry.releases import Releases
from lagar.server.channel import Have, Want


def answer(releases: Releases, equipment: Equipment, want: Want, log: Log) -> Have:
    """The version that a label or an alias stands for, its files checked and on this machine's disk."""

    def refused(code: str, message: str) -> Have:
        return Have(want.number, want.worker, code=code, message=message)

    try:
        version = releases.get(want.model, want.ref)
        label = f"{version.model}@{version.version}"
        if version.state == "retired":
            return refused(
                NotFound.code,
                f"{label} is retired and is not loaded any more; ask for another version, or bring it back: "
                f"lagar retire {version.model} {version.version} --undo",
            )
        if releases.is_unloaded(version.model):
            raise NotFound(label)
        if want.lay_out:
            equipment.require([version.manifest])
        source = releases.source(version) if want.lay_out else None
    except NotFound:  # in the words that callers of MLServer know
        return refused(NotFound.code, f"Model {want.model} with version {want.ref} not found")
    except (CatalogAway, StoreAway) as error:
        return refused(NotReady.code, error.message)
    except LagarError as error:
        return refused(error.code, error.message)
    except Exception as error:
        log.exception("a version could not be looked up", error, model=want.model, version=want.ref)
        return refused("internal", "the version could not be looked up; the server's log has the reason")
    return Have(want.number, want.worker, version.version, source)
