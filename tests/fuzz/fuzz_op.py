"""Fuzzes the OpenID provider's endpoints: ``python tests/fuzz/fuzz_op.py tests/fuzz/op_corpus``.

The first byte of an input chooses the endpoint, the rest is what was sent to it. Each gets an answer of the protocol,
and none gets a token. Options are libFuzzer's, such as ``-max_total_time=60``.
"""

from __future__ import annotations

import sys
from pathlib import Path

import atheris

sys.path.insert(0, str(Path(__file__).parent.parent))

with atheris.instrument_imports(include=["exclave.identity.op", "exclave.crypto.jose"]):
    from exclave.identity.op.wire import Call
    from support.op_place import JWT_CLIENT, Known, Place, relying

FORM = "application/x-www-form-urlencoded"
KNOWN = Known(relying(auth_methods=("client_secret_basic", "client_secret_post")), JWT_CLIENT)


def one_input(data: bytes) -> None:
    if not data:
        return
    place = Place(KNOWN)
    provider = place.provider
    kind, rest = data[0] % 6, data[1:]
    text = rest.decode("latin-1")
    reply = (
        lambda: provider.authorize(Call("GET", rest)),
        lambda: provider.token(Call("POST", b"", rest, FORM)),
        lambda: provider.push(Call("POST", b"", rest, FORM)),
        lambda: provider.logout(Call("GET", rest, cookies=(text,))),
        lambda: provider.token(Call("POST", b"", b"grant_type=authorization_code&code=x", FORM, (f"Basic {text}",))),
        lambda: provider.profile(Call("GET", authorization=(f"Bearer {text}",))),
    )[kind]()
    assert reply.status in {200, 201, 303, 400, 401}, reply
    assert b"access_token" not in reply.body, reply
    assert all(value.isascii() and value.isprintable() for _, value in reply.headers), reply


if __name__ == "__main__":
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()
