// Package clientkey writes client keys to files in the format that KMS's SDKs read.
//
// A client key is the RSA key pair of an application access point. A private key and its
// password are written to files that only their owner can read.
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

// Permissions is the Permissions value of a permission policy: the only one of KMS's
// permission templates that applies to kmsgate.
const Permissions = `["` + identity.KeyUser + `"]`

// A File is the JSON file of a client key that KMS's SDKs read.
type File struct {
	KeyId          string
	PrivateKeyData string // PKCS#12 in Base64
}

// NewFile returns the file of a client key that was just created.
func NewFile(k kms.CreateClientKeyResponse) File {
	return File{k.ClientKeyId, base64.StdEncoding.EncodeToString(k.PrivateKeyData)}
}

// NewPassword returns a random password of 130 bits. It has letters, digits and a special
// character, because KMS requires two kinds of characters.
func NewPassword() string {
	text := rand.Text()
	return text[:13] + "-" + text[13:]
}

// PasswordPath returns the path of the password file that belongs to the client key's file
// path. It is named as KMS's console names it.
func PasswordPath(path string) string { return strings.TrimSuffix(path, ".json") + "_Password.txt" }

// Written describes the files of a client key.
type Written struct {
	ClientKeyId  string
	NotBefore    string
	NotAfter     string
	File         string
	PasswordFile string // empty if the caller chose the password
}

// Write writes a client key, and its password unless that is empty, to files that only their
// owner can read: both files or neither. out is the path of the key's file, or a directory for
// clientKey_<id>.json; an empty out means the current directory. Write overwrites no file.
func Write(k kms.CreateClientKeyResponse, out, password string) (w Written, err error) {
	w = Written{ClientKeyId: k.ClientKeyId, NotBefore: k.NotBefore, NotAfter: k.NotAfter, File: out}
	if info, err := os.Stat(out); out == "" || err == nil && info.IsDir() {
		if strings.ContainsAny(k.ClientKeyId, "/\x00") {
			return w, fmt.Errorf("the ClientKeyId %q cannot be part of a file name", k.ClientKeyId)
		}
		w.File = filepath.Join(out, "clientKey_"+k.ClientKeyId+".json")
	}
	content, err := json.Marshal(NewFile(k))
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
