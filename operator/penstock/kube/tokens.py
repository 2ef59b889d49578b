"""Tokens of endpoints in Secrets. The operator writes those that it makes, and cannot read them.

`create` and `update` are all the rights that it takes: the answer to an update is what was sent. That to a patch would
be the whole object, so that whoever may patch a Secret may read it. Those that people bring along the chart names.
"""

from __future__ import annotations

import base64
import binascii
from typing import Final

from penstock.api.labels import DEPLOYMENT, MANAGED_BY
from penstock.controller.ports import Refused
from penstock.kube.client import Client
from penstock.kube.errors import AlreadyExists, ApiError, Forbidden, Invalid, NotFound, port_error
from penstock.kube.resources import SECRETS
from penstock.step.values import JsonObject

KEY: Final = "token"
"""The key of a Secret under which its token is."""


async def write_token(client: Client, namespace: str, name: str, token: str, *, owner: JsonObject) -> None:
    """Put a token into a Secret, a new one or in place of the one before.

    Args:
        client: the REST client.
        namespace: where it is.
        name: name of the Secret.
        token: the token.
        owner: owner reference; the Secret goes with it.

    Raises:
        Refused: it is not taken.
        Transient: try again.
    """
    body: JsonObject = {
        "metadata": {
            "name": name,
            "namespace": namespace,
            "labels": {DEPLOYMENT: owner["name"], MANAGED_BY: "penstock"},
            "ownerReferences": [owner],
        },
        "type": "Opaque",
        "stringData": {KEY: token},
    }
    try:
        try:
            await client.create(SECRETS, body)
        except AlreadyExists:
            await client.replace(SECRETS, body)
    except (Forbidden, Invalid) as error:
        raise Refused(f'the token cannot be put into Secret "{name}": {_reason(error)}') from None
    except ApiError as error:
        raise port_error(error) from None


async def read_token(client: Client, namespace: str, name: str) -> str:
    """The token that somebody has put into a Secret.

    Raises:
        Refused: there is none, or it may not be read.
        Transient: try again.
    """
    try:
        body = await client.get(SECRETS, name, namespace)
    except NotFound:
        raise Refused(f'spec.endpoint.tokenSecret: there is no Secret "{name}" in namespace "{namespace}"') from None
    except Forbidden:
        raise Refused(
            f'spec.endpoint.tokenSecret: the operator may not read Secret "{name}"; name it in the chart\'s value '
            "endpoints.tokenSecrets, or leave tokenSecret out and a token is made"
        ) from None
    except ApiError as error:
        raise port_error(error) from error
    try:
        return base64.b64decode((body.get("data") or {})[KEY], validate=True).decode()
    except (KeyError, binascii.Error, UnicodeDecodeError):
        raise Refused(f'spec.endpoint.tokenSecret: Secret "{name}" has no key "{KEY}" with text') from None


def _reason(error: ApiError) -> str:
    """Why, without what was sent: an answer may repeat a part of it."""
    return f"{error.status} {error.reason}"
