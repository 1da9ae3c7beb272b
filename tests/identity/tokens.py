"""Makes keys and tokens with PyJWT: a library that shares no code with the one under test.

Reads {"keys": [{"kid", "alg"}], "tokens": [{"kid", "claims", "headers"}]} from stdin and writes
{"jwks": {kid: public JWK}, "pem": {kid: public PEM}, "tokens": [...]}; private keys never leave.
Exits with 42 when PyJWT or cryptography is not installed.
"""

import json
import sys

try:
    import jwt
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
except ImportError as error:
    print(error, file=sys.stderr)
    sys.exit(42)


def private_key(alg):
    if alg[:2] in ("RS", "PS"):
        return rsa.generate_private_key(public_exponent=65537, key_size=2048)
    if alg[:2] == "ES":
        return ec.generate_private_key({"ES256": ec.SECP256R1(), "ES384": ec.SECP384R1()}[alg])
    if alg == "EdDSA":
        return ed25519.Ed25519PrivateKey.generate()
    raise SystemExit(f"no key for {alg}")


def main():
    wanted = json.load(sys.stdin)
    keys, jwks, pem = {}, {}, {}
    for key in wanted["keys"]:
        kid, alg = key["kid"], key["alg"]
        private = private_key(alg)
        public = private.public_key()
        jwk = jwt.get_algorithm_by_name(alg).to_jwk(public, as_dict=True)
        jwk.pop("key_ops", None)
        jwks[kid] = {**jwk, "kid": kid, "alg": alg, "use": "sig"}
        pem[kid] = public.public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        ).decode()
        keys[kid] = (private, alg)
    tokens = []
    for token in wanted["tokens"]:
        private, alg = keys[token["kid"]]
        headers = token.get("headers", {"kid": token["kid"]})
        tokens.append(jwt.encode(token["claims"], private, algorithm=alg, headers=headers))
    json.dump({"jwks": jwks, "pem": pem, "tokens": tokens}, sys.stdout)


main()
