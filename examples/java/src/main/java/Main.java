import com.aliyun.kms20160120.Client;
import com.aliyun.kms20160120.models.AsymmetricSignRequest;
import com.aliyun.kms20160120.models.AsymmetricVerifyRequest;
import com.aliyun.kms20160120.models.GetPublicKeyRequest;
import com.aliyun.tea.TeaException;
import com.aliyun.teaopenapi.models.Config;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Paths;
import java.security.KeyFactory;
import java.security.MessageDigest;
import java.security.PublicKey;
import java.security.Signature;
import java.security.spec.MGF1ParameterSpec;
import java.security.spec.PSSParameterSpec;
import java.security.spec.X509EncodedKeySpec;
import java.util.Arrays;
import java.util.Base64;
import java.util.HexFormat;
import org.bouncycastle.crypto.digests.SM3Digest;

/** Signs with Alibaba Cloud's SDK. Verifies ECDSA and RSA-PSS itself, and SM2 through KMS. */
public class Main {
    record Key(String keyId, String keyVersionId) {}

    static final byte[] MESSAGE = "hello".getBytes(StandardCharsets.UTF_8);
    static final Key RSA = new Key("key-example-rsa", "11111111-1111-4111-8111-111111111111");
    static final Key EC = new Key("key-example-ec", "22222222-2222-4222-8222-222222222222");
    static final Key SM2 = new Key("key-example-sm2", "33333333-3333-4333-8333-333333333333");

    static Client client;

    public static void main(String[] args) throws Exception {
        client = new Client(new Config()
            .setEndpoint(System.getenv("KMSGATE_ENDPOINT")) // host:port
            .setCa(Files.readString(Paths.get(System.getenv("KMSGATE_CA_FILE")))) // the PEM text, not a path
            .setAccessKeyId(System.getenv("ALIBABA_CLOUD_ACCESS_KEY_ID"))
            .setAccessKeySecret(System.getenv("ALIBABA_CLOUD_ACCESS_KEY_SECRET")));
        byte[] digest = MessageDigest.getInstance("SHA-256").digest(MESSAGE);

        // ECDSA: the signature is the ASN.1 of r and s.
        byte[] signature = sign(EC, "ECDSA_SHA_256", digest);
        Signature ecdsa = Signature.getInstance("SHA256withECDSA");
        ecdsa.initVerify(publicKey(EC, "EC"));
        ecdsa.update(MESSAGE);
        need(ecdsa.verify(signature), "the ECDSA signature is not valid");
        System.out.println("ECDSA_SHA_256 valid");

        // RSA-PSS: the salt has 32 bytes.
        signature = sign(RSA, "RSA_PSS_SHA_256", digest);
        Signature pss = Signature.getInstance("RSASSA-PSS");
        pss.setParameter(new PSSParameterSpec("SHA-256", "MGF1", MGF1ParameterSpec.SHA256, 32, 1));
        pss.initVerify(publicKey(RSA, "RSA"));
        pss.update(MESSAGE);
        need(pss.verify(signature), "the RSA-PSS signature is not valid");
        System.out.println("RSA_PSS_SHA_256 valid");

        // SM2: the digest contains the signer's id and public key.
        digest = sm2Digest(publicKey(SM2), MESSAGE, "1234567812345678");
        signature = sign(SM2, "SM2DSA", digest);
        need(verify(SM2, "SM2DSA", digest, signature), "the SM2 signature is not valid");
        System.out.println("SM2DSA valid");

        // An error has KMS's code.
        try {
            sign(new Key("key-none", EC.keyVersionId()), "ECDSA_SHA_256", digest);
        } catch (TeaException e) {
            System.out.println("error " + e.getCode());
            return;
        }
        throw new IllegalStateException("a key that does not exist has signed");
    }

    /** Returns the signature of a digest of 32 bytes. */
    static byte[] sign(Key key, String algorithm, byte[] digest) throws Exception {
        return Base64.getDecoder().decode(client.asymmetricSign(new AsymmetricSignRequest()
            .setKeyId(key.keyId()).setKeyVersionId(key.keyVersionId()).setAlgorithm(algorithm)
            .setDigest(Base64.getEncoder().encodeToString(digest))).getBody().getValue());
    }

    /** Asks KMS whether a signature is valid. */
    static boolean verify(Key key, String algorithm, byte[] digest, byte[] signature) throws Exception {
        return client.asymmetricVerify(new AsymmetricVerifyRequest()
            .setKeyId(key.keyId()).setKeyVersionId(key.keyVersionId()).setAlgorithm(algorithm)
            .setDigest(Base64.getEncoder().encodeToString(digest))
            .setValue(Base64.getEncoder().encodeToString(signature))).getBody().getValue();
    }

    /** Returns the SubjectPublicKeyInfo of a public key in DER. */
    static byte[] publicKey(Key key) throws Exception {
        String pem = client.getPublicKey(new GetPublicKeyRequest()
            .setKeyId(key.keyId()).setKeyVersionId(key.keyVersionId())).getBody().getPublicKey();
        return Base64.getDecoder().decode(pem.replaceAll("-----.*-----|\\s", ""));
    }

    static PublicKey publicKey(Key key, String algorithm) throws Exception {
        return KeyFactory.getInstance(algorithm).generatePublic(new X509EncodedKeySpec(publicKey(key)));
    }

    /** Returns SM3(Z_A || message), which SM2DSA signs (GB/T 32918.2, 5.5). */
    static byte[] sm2Digest(byte[] publicDer, byte[] message, String userId) {
        byte[] id = userId.getBytes(StandardCharsets.UTF_8);
        byte[] curve = HexFormat.of().parseHex(
            "fffffffeffffffffffffffffffffffffffffffff00000000fffffffffffffffc" // a
            + "28e9fa9e9d9f5e344d5a9e4bcf6509a7f39789f515ab8f92ddbcbd414d940e93" // b
            + "32c4ae2c1f1981195f9904466a39c9948fe30bbff2660be1715a4589334c74c7" // x of G
            + "bc3736a2f4f6779c59bdcee36b692153d0a9877cc62a474002df32e52139f0a0"); // y of G
        byte[] point = Arrays.copyOfRange(publicDer, publicDer.length - 64, publicDer.length);
        byte[] z = sm3(new byte[] {(byte) (id.length * 8 >> 8), (byte) (id.length * 8)}, id, curve, point);
        return sm3(z, message);
    }

    static byte[] sm3(byte[]... parts) {
        SM3Digest digest = new SM3Digest();
        for (byte[] part : parts) {
            digest.update(part, 0, part.length);
        }
        byte[] out = new byte[digest.getDigestSize()];
        digest.doFinal(out, 0);
        return out;
    }

    static void need(boolean ok, String what) {
        if (!ok) {
            throw new IllegalStateException(what);
        }
    }
}
