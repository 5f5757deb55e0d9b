package config

import "path/filepath"

// FileName is the name of the configuration in the directory of `kmsgate dev` and of a restored
// instance.
const FileName = "kmsgate.yaml"

// SocketIn returns the path of the admin socket of an instance with all its files in dir. It is
// always in dir, where other users can put nothing.
func SocketIn(dir string) string { return filepath.Join(dir, "admin/admin.sock") }

// AuditPublicKeyFile returns the path of the file with the audit log's public key, which the
// gateway writes for auditors.
func (c *Config) AuditPublicKeyFile() string {
	return filepath.Join(c.Directory, "audit-public-key.pem")
}

// RefusedPINFile returns the path of the file that remembers, as hashes, which PINs the token has
// refused since the last login. It is not part of a backup.
func (c *Config) RefusedPINFile() string { return filepath.Join(c.Directory, "pin-refused") }
