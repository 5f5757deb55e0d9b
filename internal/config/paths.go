package config

import (
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
)

// FileName is the name of the configuration in the directory of `kmsgate dev` and of a restored
// instance.
const FileName = "kmsgate.yaml"

// SocketIn returns the path of the admin socket of an instance with all its files in dir. It
// is in dir, or in a temporary directory if the path would be longer than maxSocket.
func SocketIn(dir string) string {
	if path := filepath.Join(dir, "admin/admin.sock"); len(path) <= maxSocket {
		return path
	}
	sum := sha256.Sum256([]byte(dir))
	return filepath.Join(os.TempDir(), fmt.Sprintf("kmsgate-%x", sum[:8]), "admin.sock")
}

// AuditPublicKeyFile returns the path of the file with the audit log's public key, which the
// gateway writes for auditors.
func (c *Config) AuditPublicKeyFile() string {
	return filepath.Join(c.Directory, "audit-public-key.pem")
}

// RefusedPINFile returns the path of the file that remembers, as hashes, which PINs the token has
// refused since the last login. It is not part of a backup.
func (c *Config) RefusedPINFile() string { return filepath.Join(c.Directory, "pin-refused") }
