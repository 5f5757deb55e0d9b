package hsmtest

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/kmsgate/kmsgate/hsm"
)

// opensslOptions are the options of `openssl pkeyutl -verify` for each Algorithm. Without
// -rawin, openssl does not hash its input, not even for SM2.
var opensslOptions = map[hsm.Algorithm][]string{
	hsm.RSA_PSS_SHA_256: {
		"-pkeyopt", "digest:sha256", "-pkeyopt", "rsa_padding_mode:pss",
		"-pkeyopt", "rsa_pss_saltlen:32", "-pkeyopt", "rsa_mgf1_md:sha256",
	},
	hsm.RSA_PKCS1_SHA_256: {"-pkeyopt", "digest:sha256", "-pkeyopt", "rsa_padding_mode:pkcs1"},
	hsm.ECDSA_SHA_256:     {},
	hsm.SM2DSA:            {},
}

// OpenSSLVerify reports whether the openssl command accepts sig as a signature of digest
// under alg by the key in publicPEM. Openssl shares no code with hsm.Verify. OpenSSLVerify
// writes its input into dir. An error means that openssl did not run.
func OpenSSLVerify(dir, publicPEM string, alg hsm.Algorithm, digest, sig []byte) (bool, error) {
	options, ok := opensslOptions[alg]
	if !ok {
		return false, fmt.Errorf("verifying with openssl: unknown algorithm %q", alg)
	}
	files := map[string][]byte{"public.pem": []byte(publicPEM), "digest": digest, "signature": sig}
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			return false, err
		}
	}
	args := []string{
		"pkeyutl", "-verify", "-pubin", "-inkey", "public.pem", "-in", "digest", "-sigfile", "signature",
	}
	args = append(args, options...)
	cmd := exec.Command("openssl", args...)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) && exit.ExitCode() == 1 {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("running openssl: %w: %s", err, out)
	}
	return true, nil
}
