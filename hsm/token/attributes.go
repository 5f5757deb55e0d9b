package token

import (
	"context"
	"encoding/hex"
	"fmt"
	"strconv"

	"github.com/miekg/pkcs11"

	"github.com/kmsgate/kmsgate/hsm"
	"github.com/kmsgate/kmsgate/hsm/token/internal/p11"
)

// Attributes implements hsm.Inspector. The worker for changes runs it, so signing continues.
func (t *Token) Attributes(ctx context.Context, k hsm.Key) ([]hsm.Attribute, error) {
	return run(ctx, t, t.changes, func(s *session) ([]hsm.Attribute, error) {
		if k.Sealed != nil {
			return readAttributes(s.p11, s.conn.sealing.handle)
		}
		o, err := s.locate(labelKey, k.ID)
		if err != nil {
			return nil, err
		}
		all, err := readAttributes(s.p11, o.handle)
		if !p11.Is(err, p11.HandleErrors...) {
			return all, err
		}
		o.stale.Store(true)
		if o, err = s.locate(labelKey, k.ID); err != nil {
			return nil, err
		}
		return readAttributes(s.p11, o.handle)
	})
}

// keyAttributes are the attributes that tell what may be done with a key and whether it can leave the
// token, in the order of a report (PKCS#11 2.40, tables 15, 20 and 23).
var keyAttributes = []struct {
	typ  uint
	name string
	show func(value []byte) string
}{
	{pkcs11.CKA_CLASS, "CKA_CLASS", showClass},
	{pkcs11.CKA_KEY_TYPE, "CKA_KEY_TYPE", func(value []byte) string { return keyTypeName(p11.Uint(value)) }},
	{pkcs11.CKA_LABEL, "CKA_LABEL", func(value []byte) string { return string(value) }},
	{pkcs11.CKA_ID, "CKA_ID", hex.EncodeToString},
	{pkcs11.CKA_TOKEN, "CKA_TOKEN", showBool},
	{pkcs11.CKA_PRIVATE, "CKA_PRIVATE", showBool},
	{pkcs11.CKA_MODIFIABLE, "CKA_MODIFIABLE", showBool},
	{pkcs11.CKA_SENSITIVE, "CKA_SENSITIVE", showBool},
	{pkcs11.CKA_ALWAYS_SENSITIVE, "CKA_ALWAYS_SENSITIVE", showBool},
	{pkcs11.CKA_EXTRACTABLE, "CKA_EXTRACTABLE", showBool},
	{pkcs11.CKA_NEVER_EXTRACTABLE, "CKA_NEVER_EXTRACTABLE", showBool},
	{pkcs11.CKA_WRAP_WITH_TRUSTED, "CKA_WRAP_WITH_TRUSTED", showBool},
	{pkcs11.CKA_LOCAL, "CKA_LOCAL", showBool},
	{pkcs11.CKA_KEY_GEN_MECHANISM, "CKA_KEY_GEN_MECHANISM", func(value []byte) string { return mechanismName(p11.Uint(value)) }},
	{pkcs11.CKA_ALWAYS_AUTHENTICATE, "CKA_ALWAYS_AUTHENTICATE", showBool},
	{pkcs11.CKA_SIGN, "CKA_SIGN", showBool},
	{pkcs11.CKA_SIGN_RECOVER, "CKA_SIGN_RECOVER", showBool},
	{pkcs11.CKA_ENCRYPT, "CKA_ENCRYPT", showBool},
	{pkcs11.CKA_DECRYPT, "CKA_DECRYPT", showBool},
	{pkcs11.CKA_WRAP, "CKA_WRAP", showBool},
	{pkcs11.CKA_UNWRAP, "CKA_UNWRAP", showBool},
	{pkcs11.CKA_DERIVE, "CKA_DERIVE", showBool},
}

func showBool(value []byte) string {
	if len(value) != 1 {
		return hex.EncodeToString(value)
	}
	return strconv.FormatBool(value[0] != 0)
}

func showClass(value []byte) string {
	if name, ok := classes[p11.Uint(value)]; ok {
		return name
	}
	return fmt.Sprintf("%#x", p11.Uint(value))
}

// readAttributes returns the keyAttributes that a token reports of a key. It leaves out those that
// the token does not know for the key.
func readAttributes(s *p11.Session, key pkcs11.ObjectHandle) (all []hsm.Attribute, err error) {
	for _, a := range keyAttributes {
		value, err := s.Attribute(key, a.typ)
		switch {
		case p11.Is(err, pkcs11.CKR_ATTRIBUTE_TYPE_INVALID, pkcs11.CKR_ATTRIBUTE_SENSITIVE):
			continue
		case err != nil:
			return nil, err
		}
		all = append(all, hsm.Attribute{Name: a.name, Value: a.show(value)})
	}
	return all, nil
}
