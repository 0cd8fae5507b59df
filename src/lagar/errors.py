"""The one error tree.

LagarError
├─ RequestError               what a caller of the service is told
│  ├─ InvalidInput            a field, a row or the body's shape is wrong
│  ├─ InvalidJson             the body is not JSON, or is JSON that reads two ways
│  ├─ NotFound                no such model, version, output or path
│  ├─ MethodNotAllowed
│  ├─ NotAcceptable           the Accept header names nothing we can write
│  ├─ UnsupportedMediaType
│  ├─ PayloadTooLarge  HeadersTooLarge  RequestTimeout
│  ├─ Unauthorized  Forbidden
│  ├─ Overloaded              the model's queue is full
│  ├─ NotReady                loading, draining, or a part of the server is away
│  ├─ DeadlineExceeded
│  └─ ModelFailed             the model or the user's code raised; details stay in the log
└─ SetupError                 what the person who starts Lagar is told
   ├─ SettingsError  AddressError
   ├─ HomeError               the home, or what lies in it
   │  └─ CatalogAway          the catalog does not answer; it may again
   ├─ StoreAway               the store of artifacts does not answer; it may again
   ├─ Refused                 intake refused a pushed version; `step` says where
   ├─ VersionExists           the label is taken by another content
   ├─ InvalidVersion          a name, a label, a weight or a state that does not allow it
   ├─ PromoteRefused          another change of traffic is being prepared
   ├─ ChangedArtifact         a stored file is not what was committed
   ├─ Unreachable             no server answers at the URL
   ├─ UnsupportedModel        a file Lagar does not serve, with the way round
   ├─ UnsafePickle            a pickle that names globals outside the allow-list
   ├─ MissingLibrary          the extra to install
   ├─ MissingEnvironment      a version's own environment is not made on this machine
   ├─ MissingCode             the user's own class or function that the pickle wants
   └─ LoadFailed              the model could not be loaded or does not keep its contract

Codes are stable and belong to the API; the code → status tables belong to the protocols.
A message says the thing, the rule, the value seen and the next step.
"""

from __future__ import annotations

from typing import ClassVar


class LagarError(Exception):
    """Base of everything Lagar raises on purpose."""

    code: ClassVar[str] = "internal"
    request_id: str | None = None
    """What finds the refused request in a server's log, where the error came from one."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class RequestError(LagarError):
    """An error that is answered to a caller: `field` and `row` (0-based) say where, when known."""

    code: ClassVar[str] = "bad_request"

    def __init__(
        self,
        message: str,
        *,
        field: str | None = None,
        row: int | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.field = field
        self.row = row
        self.retry_after_s = retry_after_s


class InvalidInput(RequestError):
    code = "invalid_input"


class InvalidJson(RequestError):
    code = "invalid_json"


class NotFound(RequestError):
    code = "not_found"


class MethodNotAllowed(RequestError):
    code = "method_not_allowed"

    def __init__(self, message: str, *, allow: str) -> None:
        super().__init__(message)
        self.allow = allow


class NotAcceptable(RequestError):
    code = "not_acceptable"


class UnsupportedMediaType(RequestError):
    code = "unsupported_media_type"


class PayloadTooLarge(RequestError):
    code = "payload_too_large"


class HeadersTooLarge(RequestError):
    code = "headers_too_large"


class RequestTimeout(RequestError):
    code = "request_timeout"


class Unauthorized(RequestError):
    code = "unauthorized"


class Forbidden(RequestError):
    code = "forbidden"


class Overloaded(RequestError):
    code = "overloaded"


class NotReady(RequestError):
    code = "not_ready"


class DeadlineExceeded(RequestError):
    code = "deadline_exceeded"


class ModelFailed(RequestError):
    code = "model_failed"


class SetupError(LagarError):
    """An error that the person at the command line can mend."""

    code: ClassVar[str] = "setup"


class SettingsError(SetupError):
    code = "settings"


class HomeError(SetupError):
    code = "home"


class CatalogAway(HomeError):
    code = "catalog_away"


class StoreAway(SetupError):
    code = "store_away"


class Refused(SetupError):
    """A push that intake refused; `step` says where."""

    code = "refused"

    def __init__(self, step: str, message: str) -> None:
        super().__init__(message)
        self.step = step


class VersionExists(SetupError):
    code = "version_exists"


class InvalidVersion(SetupError):
    code = "invalid_version"


class PromoteRefused(SetupError):
    code = "promote_refused"


class ChangedArtifact(SetupError):
    """A stored file that is not what was committed."""

    code = "changed_artifact"
    sha256: str = ""
    """Of the file as it was committed, where every version that has it is hurt."""


class Unreachable(SetupError):
    code = "unreachable"


class AddressError(SetupError):
    code = "address"


class UnsupportedModel(SetupError):
    code = "unsupported_model"


class UnsafePickle(SetupError):
    code = "unsafe_pickle"


class MissingLibrary(SetupError):
    code = "missing_library"


class MissingEnvironment(SetupError):
    code = "missing_environment"


class MissingCode(SetupError):
    code = "missing_code"


class LoadFailed(SetupError):
    code = "load_failed"


def setup_error(code: str, message: str) -> SetupError:
    """The error of that code, as another process of this server has told it; LoadFailed for one that is not known."""
    kinds: list[type[SetupError]] = [SetupError]
    for kind in kinds:
        if kind.code == code and kind.__init__ is LagarError.__init__:
            return kind(message)
        kinds += kind.__subclasses__()
    return LoadFailed(message)
