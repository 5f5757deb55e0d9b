// Signs with Alibaba Cloud's SDK. Verifies ECDSA and RSA-PSS itself, and SM2 through KMS.
// Run it with NODE_EXTRA_CA_CERTS=$KMSGATE_CA_FILE: the SDK has no setting for a CA.
const crypto = require('crypto');
const Kms = require('@alicloud/kms20160120');
const { Config } = require('@alicloud/rpc-client');

const message = Buffer.from('hello');
const RSA = { keyId: 'key-example-rsa', keyVersionId: '11111111-1111-4111-8111-111111111111' };
const EC = { keyId: 'key-example-ec', keyVersionId: '22222222-2222-4222-8222-222222222222' };
const SM2 = { keyId: 'key-example-sm2', keyVersionId: '33333333-3333-4333-8333-333333333333' };

const client = new Kms.default(new Config({
  endpoint: process.env.KMSGATE_ENDPOINT, // host:port
  protocol: 'https',
  regionId: process.env.ALIBABA_CLOUD_REGION_ID,
  type: 'access_key',
  accessKeyId: process.env.ALIBABA_CLOUD_ACCESS_KEY_ID,
  accessKeySecret: process.env.ALIBABA_CLOUD_ACCESS_KEY_SECRET,
}));

// sign returns the signature of a digest of 32 bytes.
async function sign(key, algorithm, digest) {
  const response = await client.asymmetricSign(new Kms.AsymmetricSignRequest({
    ...key, algorithm, digest: digest.toString('base64'),
  }));
  return Buffer.from(response.value, 'base64');
}

// verify asks KMS whether a signature is valid.
async function verify(key, algorithm, digest, signature) {
  const response = await client.asymmetricVerify(new Kms.AsymmetricVerifyRequest({
    ...key, algorithm, digest: digest.toString('base64'), value: signature.toString('base64'),
  }));
  return response.value;
}

// publicKey returns the public key in PEM.
async function publicKey(key) {
  return (await client.getPublicKey(new Kms.GetPublicKeyRequest(key))).publicKey;
}

// sm2Digest returns SM3(Z_A || message), which SM2DSA signs (GB/T 32918.2, 5.5).
function sm2Digest(pem, text, userId = Buffer.from('1234567812345678')) {
  const der = Buffer.from(pem.replace(/-----.*-----|\s/g, ''), 'base64');
  const curve = Buffer.from(
    'fffffffeffffffffffffffffffffffffffffffff00000000fffffffffffffffc' + // a
    '28e9fa9e9d9f5e344d5a9e4bcf6509a7f39789f515ab8f92ddbcbd414d940e93' + // b
    '32c4ae2c1f1981195f9904466a39c9948fe30bbff2660be1715a4589334c74c7' + // x of G
    'bc3736a2f4f6779c59bdcee36b692153d0a9877cc62a474002df32e52139f0a0', 'hex'); // y of G
  const bits = Buffer.alloc(2);
  bits.writeUInt16BE(userId.length * 8);
  const sm3 = (...parts) => crypto.createHash('sm3').update(Buffer.concat(parts)).digest();
  return sm3(sm3(bits, userId, curve, der.subarray(-64)), text);
}

function need(ok, what) {
  if (!ok) throw new Error(what);
}

async function main() {
  let digest = crypto.createHash('sha256').update(message).digest();

  // ECDSA: the signature is the ASN.1 of r and s.
  let signature = await sign(EC, 'ECDSA_SHA_256', digest);
  need(crypto.verify('sha256', message, await publicKey(EC), signature), 'the ECDSA signature is not valid');
  console.log('ECDSA_SHA_256 valid');

  // RSA-PSS: the salt has 32 bytes.
  signature = await sign(RSA, 'RSA_PSS_SHA_256', digest);
  need(crypto.verify('sha256', message,
    { key: await publicKey(RSA), padding: crypto.constants.RSA_PKCS1_PSS_PADDING, saltLength: 32 }, signature),
  'the RSA-PSS signature is not valid');
  console.log('RSA_PSS_SHA_256 valid');

  // SM2: the digest contains the signer's id and public key.
  digest = sm2Digest(await publicKey(SM2), message);
  signature = await sign(SM2, 'SM2DSA', digest);
  need(await verify(SM2, 'SM2DSA', digest, signature), 'the SM2 signature is not valid');
  console.log('SM2DSA valid');

  // An error has KMS's code.
  try {
    await sign({ ...EC, keyId: 'key-none' }, 'ECDSA_SHA_256', digest);
  } catch (e) {
    console.log('error', e.code);
    return;
  }
  throw new Error('a key that does not exist has signed');
}

main().catch((e) => { console.error(e); process.exitCode = 1; });
