"""What libraries for Python make of a token: a line for each, with its version and whether it accepted the token."""

import json
import os
import urllib.request
import warnings
from importlib.metadata import version

warnings.simplefilter("ignore")
TOKEN, KEYS, ALG = os.environ["TOKEN"], os.environ["KEYS"], os.environ["ALG"]
ISSUER, AUDIENCE = os.environ["ISSUER"], os.environ["AUDIENCE"]
KEY_SET = json.load(urllib.request.urlopen(KEYS))


def pyjwt():
    import jwt

    key = jwt.PyJWKClient(KEYS).get_signing_key_from_jwt(TOKEN)
    jwt.decode(TOKEN, key, algorithms=[key.algorithm_name], issuer=ISSUER, audience=AUDIENCE)


def joserfc():
    from joserfc import jwt
    from joserfc.jwk import KeySet

    token = jwt.decode(TOKEN, KeySet.import_key_set(KEY_SET), algorithms=[ALG])
    rules = {"iss": {"essential": True, "value": ISSUER}, "aud": {"essential": True, "value": AUDIENCE}}
    jwt.JWTClaimsRegistry(**rules).validate(token.claims)


def authlib():
    from authlib.jose import JsonWebKey, JsonWebToken

    JsonWebToken([ALG]).decode(TOKEN, JsonWebKey.import_key_set(KEY_SET)).validate()


def python_jose():
    from jose import jwt

    jwt.decode(TOKEN, KEY_SET, algorithms=[ALG], issuer=ISSUER, audience=AUDIENCE)


for name, check in {"PyJWT": pyjwt, "joserfc": joserfc, "Authlib": authlib, "python-jose": python_jose}.items():
    try:
        check()
        print(name, version(name), "yes")
    except Exception:
        print(name, version(name), "no")
