"""Signs with Alibaba Cloud's SDK. Verifies ECDSA and RSA-PSS itself, and SM2 through KMS."""
import base64
import hashlib
import os
import sys

from alibabacloud_kms20160120.client import Client
from alibabacloud_kms20160120 import models
from alibabacloud_tea_openapi.models import Config
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, utils
from Tea.exceptions import TeaException

MESSAGE = b"hello"
RSA = ("key-example-rsa", "11111111-1111-4111-8111-111111111111")
EC = ("key-example-ec", "22222222-2222-4222-8222-222222222222")
SM2 = ("key-example-sm2", "33333333-3333-4333-8333-333333333333")

client = Client(Config(
    endpoint=os.environ["KMSGATE_ENDPOINT"],  # host:port
    ca=os.environ["KMSGATE_CA_FILE"],         # a path
    access_key_id=os.environ["ALIBABA_CLOUD_ACCESS_KEY_ID"],
    access_key_secret=os.environ["ALIBABA_CLOUD_ACCESS_KEY_SECRET"],
))


def sign(key, algorithm, digest):
    """Returns the signature of a digest of 32 bytes."""
    response = client.asymmetric_sign(models.AsymmetricSignRequest(
        key_id=key[0], key_version_id=key[1], algorithm=algorithm,
        digest=base64.b64encode(digest).decode()))
    return base64.b64decode(response.body.value)


def verify(key, algorithm, digest, signature):
    """Asks KMS whether a signature is valid."""
    response = client.asymmetric_verify(models.AsymmetricVerifyRequest(
        key_id=key[0], key_version_id=key[1], algorithm=algorithm,
        digest=base64.b64encode(digest).decode(), value=base64.b64encode(signature).decode()))
    return response.body.value


def public_key(key):
    """Returns the public key in PEM."""
    return client.get_public_key(models.GetPublicKeyRequest(
        key_id=key[0], key_version_id=key[1])).body.public_key.encode()


def sm2_digest(public_pem, message, user_id=b"1234567812345678"):
    """Returns SM3(Z_A || message), which SM2DSA signs (GB/T 32918.2, 5.5)."""
    point = base64.b64decode("".join(public_pem.decode().split("\n")[1:-2]))[-64:]  # x and y
    curve = bytes.fromhex(
        "fffffffeffffffffffffffffffffffffffffffff00000000fffffffffffffffc"  # a
        "28e9fa9e9d9f5e344d5a9e4bcf6509a7f39789f515ab8f92ddbcbd414d940e93"  # b
        "32c4ae2c1f1981195f9904466a39c9948fe30bbff2660be1715a4589334c74c7"  # x of G
        "bc3736a2f4f6779c59bdcee36b692153d0a9877cc62a474002df32e52139f0a0")  # y of G
    z = sm3(len(user_id * 8).to_bytes(2, "big") + user_id + curve + point)
    return sm3(z + message)


def sm3(data):
    digest = hashes.Hash(hashes.SM3())
    digest.update(data)
    return digest.finalize()


digest = hashlib.sha256(MESSAGE).digest()
prehashed = utils.Prehashed(hashes.SHA256())

# ECDSA: the signature is the ASN.1 of r and s. An invalid one raises InvalidSignature.
signature = sign(EC, "ECDSA_SHA_256", digest)
serialization.load_pem_public_key(public_key(EC)).verify(signature, digest, ec.ECDSA(prehashed))
print("ECDSA_SHA_256 valid")

# RSA-PSS: the salt has 32 bytes.
signature = sign(RSA, "RSA_PSS_SHA_256", digest)
serialization.load_pem_public_key(public_key(RSA)).verify(
    signature, digest, padding.PSS(mgf=padding.MGF1(hashes.SHA256()), salt_length=32), prehashed)
print("RSA_PSS_SHA_256 valid")

# SM2: the digest contains the signer's id and public key.
digest = sm2_digest(public_key(SM2), MESSAGE)
signature = sign(SM2, "SM2DSA", digest)
if not verify(SM2, "SM2DSA", digest, signature):
    sys.exit("the SM2 signature is not valid")
print("SM2DSA valid")

# An error has KMS's code.
try:
    sign(("key-none", EC[1]), "ECDSA_SHA_256", digest)
    sys.exit("a key that does not exist has signed")
except TeaException as e:
    print("error", e.code)
