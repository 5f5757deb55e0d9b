// Package clientkey writes client keys to files in the format that KMS's SDKs read.
package clientkey

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/kmsgate/kmsgate/gateway/identity"
	"github.com/kmsgate/kmsgate/gateway/kms"
	"github.com/kmsgate/kmsgate/internal/durable"
)

// Permissions are what client keys may be permitted, as a permission policy has it: the
// only one of KMS's templates that there is a use for here.
const Permissions = `["` + identity.KeyUser + `"]`

// A File is a client key as KMS's SDKs read it, in JSON.
type File struct {
	KeyId          string
	PrivateKeyData string // PKCS#12 in Base64
}

// FileOf returns the file of a client key that was created.
func FileOf(k kms.CreateClientKeyResponse) File {
	return File{k.ClientKeyId, base64.StdEncoding.EncodeToString(k.PrivateKeyData)}
}

// NewPassword makes up a password of 130 bits: letters, digits and a special character, for
// KMS wants two kinds.
func NewPassword() string {
	text := rand.Text()
	return text[:13] + "-" + text[13:]
}

// PasswordPath returns where the password of a client key's file is put, named as KMS's
// console names it.
func PasswordPath(path string) string { return strings.TrimSuffix(path, ".json") + "_Password.txt" }

// Written says where a client key was written to.
type Written struct {
	ClientKeyId  string
	NotBefore    string
	NotAfter     string
	File         string
	PasswordFile string // empty if the password was given
}

// Write writes a client key, and its password unless that is empty, to files for their
// owner only: both or none. out is the path of the key's file, or a directory for
// clientKey_<id>.json; empty is the current one. No file is overwritten.
func Write(k kms.CreateClientKeyResponse, out, password string) (w Written, err error) {
	w = Written{ClientKeyId: k.ClientKeyId, NotBefore: k.NotBefore, NotAfter: k.NotAfter, File: out}
	if info, err := os.Stat(out); out == "" || err == nil && info.IsDir() {
		if strings.ContainsAny(k.ClientKeyId, "/\x00") {
			return w, fmt.Errorf("%q is no id to name a file after", k.ClientKeyId)
		}
		w.File = filepath.Join(out, "clientKey_"+k.ClientKeyId+".json")
	}
	content, err := json.Marshal(FileOf(k))
	if err != nil {
		return w, err
	}
	if err := durable.Create(w.File, content); err != nil {
		return w, err
	}
	if password == "" {
		return w, nil
	}
	w.PasswordFile = PasswordPath(w.File)
	if err := durable.Create(w.PasswordFile, []byte(password)); err != nil {
		return w, errors.Join(err, os.Remove(w.File))
	}
	return w, nil
}
