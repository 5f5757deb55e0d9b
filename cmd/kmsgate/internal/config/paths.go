package config

import (
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
)

// FileName is what the configuration is called in the directory of a `kmsgate dev`, and
// in that of an instance that was restored.
const FileName = "kmsgate.yaml"

// SocketIn returns the admin socket's path for an instance with all its files in dir. It
// is in dir unless it would be too long there: Linux takes 107 bytes.
func SocketIn(dir string) string {
	if path := filepath.Join(dir, "admin/admin.sock"); len(path) <= 107 {
		return path
	}
	sum := sha256.Sum256([]byte(dir))
	return filepath.Join(os.TempDir(), fmt.Sprintf("kmsgate-%x", sum[:8]), "admin.sock")
}

// AuditPublicKeyFile returns the path of the file with the audit log's public key. The
// gateway writes it for auditors.
func (c *Config) AuditPublicKeyFile() string {
	return filepath.Join(c.Directory, "audit-public-key.pem")
}
