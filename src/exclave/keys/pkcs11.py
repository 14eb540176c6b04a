"""Private keys in a PKCS#11 token (an HSM, a card, SoftHSM): made there, used there, never read.

Needs the package python-pkcs11 (``pip install 'exclave[pkcs11]'``). Page: docs/spec/keyring.md.

python-pkcs11 calls ``C_Initialize`` without arguments, by which it promises the module (PKCS#11 2.40, section 5.4)
never to call it from two threads at once: SoftHSM then works without any lock of its own. So one lock for each module
guards every call, and one session is all that is of use. A machine that must sign on many cores runs several processes.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeVar

from exclave.crypto.signer import Algorithm
from exclave.crypto.signer_file import DEFAULT_RSA_BITS, public_key_algorithm
from exclave.crypto.token_form import (
    CURVE_OIDS,
    der_signature,
    public_of_modulus,
    public_of_point,
    what_the_token_signs,
)
from exclave.errors import AlreadyExists, KeyFileExposed, NotAuthorised, UnavailableError, UsageError
from exclave.keys.private_file import read_private

if TYPE_CHECKING:
    import pkcs11 as _types

_T = TypeVar("_T")
MAX_PIN_BYTES = 256
REST_S = 1.0
"""After a token could not be reached again, requests fail at once for so long, instead of queueing up behind it."""


@dataclass(frozen=True, slots=True)
class TokenPlace:
    """Where a token is."""

    module: str
    """Path of the PKCS#11 library."""
    token: str
    """The token's label."""
    pin_file: str
    """A file of mode 600 that holds the user PIN, and perhaps a newline."""


class _Module:
    """A loaded PKCS#11 library; there is one for each path in a process, as the library itself has one state."""

    def __init__(self, path: str) -> None:
        self.lock = threading.RLock()
        self.generation = 0
        self.process = os.getpid()
        self.api = _python_pkcs11()
        try:
            self.lib = self.api.lib(path)
        except self.api.PKCS11Error as error:
            raise UsageError(f"the PKCS#11 module {path} cannot be loaded: {_say(error)}") from error

    def start_again(self) -> None:
        """All sessions of all its tokens end by this."""
        self.lib.reinitialize()
        self.generation += 1
        self.process = os.getpid()


_modules: dict[str, _Module] = {}
_modules_lock = threading.Lock()


class HardwareToken:
    """A token that is logged in to, and the keys in it. Safe to call from several threads, see above."""

    def __init__(self, place: TokenPlace, *, clock: Callable[[], float] = time.monotonic) -> None:
        """``UsageError`` if the package or the module is missing. Nothing is asked of the token yet: its calls log in,
        and raise ``UnavailableError`` if it is away, ``NotAuthorised`` for a wrong PIN, ``KeyFileExposed`` if others
        can read the PIN file. ``clock``: monotonic seconds."""
        self._place = place
        self._clock = clock
        self._rest_until = float("-inf")
        self._refused = ""
        with _modules_lock:
            if place.module not in _modules:
                _modules[place.module] = _Module(place.module)
            self._module = _modules[place.module]
        self._session: _types.Session | None = None
        self._keys: dict[tuple[str, Any], Any] = {}
        self._generation = -1

    def reach(self) -> None:
        """Logs in, if that was not done."""
        with self._module.lock:
            self._with_session(lambda session: None)

    def make(self, label: str, algorithm: Algorithm, *, rsa_bits: int = DEFAULT_RSA_BITS) -> Pkcs11Signer:
        """A new key pair under ``label``, sensitive and not extractable. ``AlreadyExists`` if there is one."""
        api = self._module.api

        with self._module.lock:
            if self.has(label):
                raise AlreadyExists(f"the token {self._place.token} has a key {label} already; it is never replaced")
            # Once only: whether a failed attempt left a key behind is seen by the next one, which finds the label.
            self._with_session(lambda session: _generate(api, session, label, algorithm, rsa_bits), attempts=1)
        return self.signer(label)

    def signer(self, label: str) -> Pkcs11Signer:
        """The key under ``label``. ``UsageError`` if there is none, ``KeyFileExposed`` if it could be read out."""
        api = self._module.api

        def read(session: _types.Session) -> bytes:
            public = self._find(session, label, api.ObjectClass.PUBLIC_KEY)
            private = self._find(session, label, api.ObjectClass.PRIVATE_KEY)
            if public is None or private is None:
                raise UsageError(f"the token {self._place.token} has no key pair {label}")
            if private[api.Attribute.EXTRACTABLE] or not private[api.Attribute.SENSITIVE]:
                raise KeyFileExposed(
                    f"the key {label} in the token {self._place.token} can be read out of it",
                    hint="Make a new key in the token; this one may have been copied.",
                )
            if public.key_type == api.KeyType.RSA:
                attribute = api.Attribute
                return public_of_modulus(public[attribute.MODULUS], public[attribute.PUBLIC_EXPONENT])
            return public_of_point(public[api.Attribute.EC_PARAMS], public[api.Attribute.EC_POINT])

        with self._module.lock:
            return Pkcs11Signer(self, label, self._with_session(read))

    def has(self, label: str) -> bool:
        """Whether there is a private key under ``label``."""
        kind = self._module.api.ObjectClass.PRIVATE_KEY
        with self._module.lock:
            return self._with_session(lambda session: self._find(session, label, kind)) is not None

    def sign(self, label: str, algorithm: Algorithm, message: bytes) -> bytes:
        """See ``Signer.sign``. ``UnavailableError`` if the token does not answer, also after a new log-in."""
        api = self._module.api
        mechanism = api.Mechanism.RSA_PKCS if algorithm is Algorithm.RS256 else api.Mechanism.ECDSA
        data = what_the_token_signs(algorithm, message)

        def use(session: _types.Session) -> bytes:
            key = self._find(session, label, api.ObjectClass.PRIVATE_KEY)
            if key is None:
                raise UnavailableError(f"the key {label} is no longer in the token {self._place.token}")
            return bytes(key.sign(data, mechanism=mechanism))

        with self._module.lock:
            return der_signature(algorithm, self._with_session(use))

    def close(self) -> None:
        """Logs out."""
        with self._module.lock:
            self._drop()

    def _with_session(self, act: Callable[[_types.Session], _T], *, attempts: int = 2) -> _T:
        """``act`` in a session that is logged in. A token that was lost is looked for once more: the session is opened
        anew, and if it was as new as the module, the module is started anew. The caller holds the module's lock."""
        if self._refused:
            raise NotAuthorised(self._refused, hint="Correct the PIN file, then start the service again.")
        if self._clock() < self._rest_until:
            raise UnavailableError(f"the token {self._place.token} is not reachable")
        for left in reversed(range(attempts)):
            try:
                return act(self._open())
            except self._module.api.PKCS11Error as error:
                self._drop()
                if not left:
                    self._rest_until = self._clock() + REST_S
                    raise UnavailableError(
                        f"the token {self._place.token} does not do it: {_say(error)}",
                        hint="Look after the token; the service tries again by itself.",
                    ) from error
        raise AssertionError("the last attempt returns or raises")

    def _open(self) -> _types.Session:
        """The session, or a new one. ``NotAuthorised`` for a wrong PIN, which is never tried twice: tokens lock."""
        module, api = self._module, self._module.api
        if self._session is not None and self._generation == module.generation and module.process == os.getpid():
            return self._session
        if self._generation == module.generation or module.process != os.getpid():
            module.start_again()
        self._session, self._generation = None, module.generation
        self._keys.clear()
        pin = _read_pin(self._place.pin_file)
        token = module.lib.get_token(token_label=self._place.token)
        try:
            session: _types.Session = token.open(rw=True, user_pin=pin)
        except api.UserAlreadyLoggedIn:
            session = token.open(rw=True)  # PKCS#11 logs in a process, not a session
        except (api.PinIncorrect, api.PinLocked, api.PinInvalid, api.PinLenRange, api.PinExpired) as error:
            self._refused = f"the token {self._place.token} does not accept the PIN: {_say(error)}"
            raise NotAuthorised(self._refused, hint="Correct the PIN file, then start the service again.") from error
        self._session = session
        return session

    def _drop(self) -> None:
        if self._session is not None:
            # It is gone on the token's side, or goes with the module.
            with contextlib.suppress(self._module.api.PKCS11Error):
                self._session.close()
        self._session = None
        self._keys.clear()

    def _find(self, session: _types.Session, label: str, kind: Any) -> Any:
        api = self._module.api
        if (label, kind) not in self._keys:
            found = list(session.get_objects({api.Attribute.CLASS: kind, api.Attribute.LABEL: label}))
            if len(found) > 1:
                raise UsageError(f"the token {self._place.token} has several keys {label}")
            if not found:
                return None
            self._keys[label, kind] = found[0]
        return self._keys[label, kind]


class Pkcs11Signer:
    """A ``Signer`` in a token."""

    __slots__ = ("_algorithm", "_label", "_public_der", "_token")

    def __init__(self, token: HardwareToken, label: str, public_der: bytes) -> None:
        self._algorithm = public_key_algorithm(public_der)
        self._token, self._label, self._public_der = token, label, public_der

    @property
    def algorithm(self) -> Algorithm:
        return self._algorithm

    @property
    def public_der(self) -> bytes:
        return self._public_der

    def sign(self, message: bytes) -> bytes:
        """See ``HardwareToken.sign``."""
        return self._token.sign(self._label, self._algorithm, message)

    def __repr__(self) -> str:
        return f"Pkcs11Signer({self._label!r}, {self._algorithm})"


def _generate(api: ModuleType, session: _types.Session, label: str, algorithm: Algorithm, rsa_bits: int) -> None:
    attribute, name = api.Attribute, label.encode()
    public = {attribute.VERIFY: True, attribute.ENCRYPT: False, attribute.WRAP: False, attribute.DERIVE: False}
    private = {
        attribute.SENSITIVE: True, attribute.EXTRACTABLE: False, attribute.PRIVATE: True, attribute.SIGN: True,
        attribute.DECRYPT: False, attribute.UNWRAP: False, attribute.DERIVE: False,
    }  # fmt: skip
    told: dict[str, Any] = {
        "id": name, "label": label, "store": True, "capabilities": api.MechanismFlag.SIGN | api.MechanismFlag.VERIFY,
        "public_template": public, "private_template": private,
    }  # fmt: skip
    if algorithm is Algorithm.RS256:
        session.generate_keypair(api.KeyType.RSA, rsa_bits, **told)
        return
    params = {attribute.EC_PARAMS: CURVE_OIDS[algorithm]}
    session.create_domain_parameters(api.KeyType.EC, params, local=True).generate_keypair(**told)


def _read_pin(path: str) -> str:
    data = read_private(path, MAX_PIN_BYTES).removesuffix(b"\n")
    if not data or len(data) > MAX_PIN_BYTES or not data.isascii() or b"\n" in data:
        raise UsageError(f"the PIN file {path} must hold one PIN in ASCII")
    return data.decode("ascii")


def _python_pkcs11() -> ModuleType:
    try:
        return importlib.import_module("pkcs11")
    except ImportError as error:
        raise UsageError(
            "keys in a PKCS#11 token need the package python-pkcs11", hint="Run: pip install 'exclave[pkcs11]'"
        ) from error


def _say(error: Exception) -> str:
    """python-pkcs11 raises most errors by their class alone."""
    return f"{type(error).__name__} {error}".strip()
