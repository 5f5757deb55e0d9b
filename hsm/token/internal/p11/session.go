package p11

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/miekg/pkcs11"
)

// A Session is a read-write session. It belongs to one goroutine. After an error, an operation
// may still be active in it: see Renew.
type Session struct {
	module *Module
	slot   uint
	handle pkcs11.SessionHandle // 0 if the session is closed and could not be replaced
}

// Open opens a session with the token in a slot.
func (m *Module) Open(slot uint) (*Session, error) {
	s := &Session{module: m, slot: slot}
	return s, s.open()
}

func (s *Session) open() error {
	h, err := result(s.module, "C_OpenSession", func() (pkcs11.SessionHandle, error) {
		return s.module.ctx.OpenSession(s.slot, pkcs11.CKF_SERIAL_SESSION|pkcs11.CKF_RW_SESSION)
	})
	if err != nil {
		return err
	}
	// Two goroutines in one session crash the process.
	if _, taken := s.module.sessions.LoadOrStore(h, true); taken {
		return Wrap("C_OpenSession", fmt.Errorf("the token returned handle %d, which another session already has", h))
	}
	s.handle = h
	return nil
}

// Close closes the session. It ignores errors, since the session may already be gone.
func (s *Session) Close() {
	if s.handle == 0 {
		return
	}
	h := s.handle
	s.handle = 0
	s.module.sessions.Delete(h) // before the call, because the token may reuse the handle at once
	_ = s.module.call("C_CloseSession", func() error { return s.module.ctx.CloseSession(h) })
}

// Renew replaces the session by a new one. It is for a session in an unknown state.
func (s *Session) Renew() error {
	s.Close()
	return s.open()
}

// Login logs the user in. The login applies to all sessions of this process with the token.
func (s *Session) Login(userType uint, pin string) error {
	return s.call("C_Login", func(ctx *pkcs11.Ctx) error { return ctx.Login(s.handle, userType, pin) })
}

// InitPIN sets the user's PIN. The security officer must be logged in.
func (s *Session) InitPIN(pin string) error {
	return s.call("C_InitPIN", func(ctx *pkcs11.Ctx) error { return ctx.InitPIN(s.handle, pin) })
}

func (s *Session) call(name string, f func(*pkcs11.Ctx) error) error {
	return s.module.call(name, func() error { return f(s.module.ctx) })
}

// maxObjects bounds the results of a search. No working token has so many objects.
const maxObjects = 1 << 20

// Find lists the token objects that match the template, each once. It omits session objects.
func (s *Session) Find(template ...*pkcs11.Attribute) ([]pkcs11.ObjectHandle, error) {
	template = append(template, pkcs11.NewAttribute(pkcs11.CKA_TOKEN, true))
	err := s.call("C_FindObjectsInit", func(ctx *pkcs11.Ctx) error { return ctx.FindObjectsInit(s.handle, template) })
	if err != nil {
		return nil, err
	}
	found, err := s.readPages()
	endErr := s.call("C_FindObjectsFinal", func(ctx *pkcs11.Ctx) error { return ctx.FindObjectsFinal(s.handle) })
	return found, errors.Join(err, endErr)
}

// readPages reads the results of the active search.
func (s *Session) readPages() (all []pkcs11.ObjectHandle, err error) {
	seen := make(map[pkcs11.ObjectHandle]bool)
	for {
		page, err := result(s.module, "C_FindObjects", func() ([]pkcs11.ObjectHandle, error) {
			page, _, err := s.module.ctx.FindObjects(s.handle, 1000)
			return page, err
		})
		if err != nil {
			return nil, err
		}
		if len(page) == 0 {
			return all, nil
		}
		for _, o := range page {
			if !seen[o] {
				seen[o], all = true, append(all, o)
			}
		}
		if len(all) > maxObjects {
			return nil, Wrap("C_FindObjects", fmt.Errorf("the search has not ended after %d objects", len(all)))
		}
	}
}

// Attribute reads one attribute of an object.
func (s *Session) Attribute(o pkcs11.ObjectHandle, typ uint) ([]byte, error) {
	return result(s.module, fmt.Sprintf("C_GetAttributeValue of %#x", typ), func() ([]byte, error) {
		a, err := s.module.ctx.GetAttributeValue(s.handle, o, []*pkcs11.Attribute{pkcs11.NewAttribute(typ, nil)})
		if err != nil {
			return nil, err
		}
		return a[0].Value, nil
	})
}

// Bool reads a boolean attribute. It returns false for a value that is not a CK_BBOOL.
func (s *Session) Bool(o pkcs11.ObjectHandle, typ uint) (bool, error) {
	value, err := s.Attribute(o, typ)
	return len(value) == 1 && value[0] == 1, err
}

// Uint reads an attribute that is a CK_ULONG, such as a class or a key type.
func (s *Session) Uint(o pkcs11.ObjectHandle, typ uint) (uint, error) {
	value, err := s.Attribute(o, typ)
	return Uint(value), err
}

// Uint decodes a CK_ULONG. For any other value it returns CK_UNAVAILABLE_INFORMATION.
func Uint(value []byte) uint {
	if len(value) != 8 {
		return ^uint(0)
	}
	return uint(binary.NativeEndian.Uint64(value))
}

// Sign signs data with a key.
func (s *Session) Sign(key pkcs11.ObjectHandle, mechanism uint, params, data []byte) ([]byte, error) {
	err := s.call("C_SignInit", func(ctx *pkcs11.Ctx) error {
		return ctx.SignInit(s.handle, []*pkcs11.Mechanism{pkcs11.NewMechanism(mechanism, params)}, key)
	})
	if err != nil {
		return nil, err
	}
	return result(s.module, "C_Sign", func() ([]byte, error) { return s.module.ctx.Sign(s.handle, data) })
}

// gcmTag is the length in bits of the tag of AES-GCM.
const gcmTag = 128

// EncryptGCM encrypts with an AES key. The result ends with the tag of 16 bytes.
func (s *Session) EncryptGCM(key pkcs11.ObjectHandle, nonce, plaintext, aad []byte) ([]byte, error) {
	params := pkcs11.NewGCMParams(nonce, aad, gcmTag)
	defer params.Free()
	err := s.call("C_EncryptInit", func(ctx *pkcs11.Ctx) error {
		return ctx.EncryptInit(s.handle, []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_AES_GCM, params)}, key)
	})
	if err != nil {
		return nil, err
	}
	return result(s.module, "C_Encrypt", func() ([]byte, error) { return s.module.ctx.Encrypt(s.handle, plaintext) })
}

// DecryptGCM is the inverse of EncryptGCM.
func (s *Session) DecryptGCM(key pkcs11.ObjectHandle, nonce, ciphertext, aad []byte) ([]byte, error) {
	params := pkcs11.NewGCMParams(nonce, aad, gcmTag)
	defer params.Free()
	err := s.call("C_DecryptInit", func(ctx *pkcs11.Ctx) error {
		return ctx.DecryptInit(s.handle, []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_AES_GCM, params)}, key)
	})
	if err != nil {
		return nil, err
	}
	return result(s.module, "C_Decrypt", func() ([]byte, error) { return s.module.ctx.Decrypt(s.handle, ciphertext) })
}

// GenerateKey makes a secret key.
func (s *Session) GenerateKey(mechanism uint, template []*pkcs11.Attribute) (pkcs11.ObjectHandle, error) {
	return result(s.module, "C_GenerateKey", func() (pkcs11.ObjectHandle, error) {
		return s.module.ctx.GenerateKey(s.handle, []*pkcs11.Mechanism{pkcs11.NewMechanism(mechanism, nil)}, template)
	})
}

// GenerateKeyPair makes a key pair.
func (s *Session) GenerateKeyPair(mechanism uint, publicTemplate, privateTemplate []*pkcs11.Attribute) (
	public, private pkcs11.ObjectHandle, err error) {
	err = s.call("C_GenerateKeyPair", func(ctx *pkcs11.Ctx) error {
		var err error
		m := []*pkcs11.Mechanism{pkcs11.NewMechanism(mechanism, nil)}
		public, private, err = ctx.GenerateKeyPair(s.handle, m, publicTemplate, privateTemplate)
		return err
	})
	return public, private, err
}

// Create creates an object (C_CreateObject).
func (s *Session) Create(template []*pkcs11.Attribute) (pkcs11.ObjectHandle, error) {
	return result(s.module, "C_CreateObject", func() (pkcs11.ObjectHandle, error) {
		return s.module.ctx.CreateObject(s.handle, template)
	})
}

// Copy copies an object. The template contains the attributes that differ in the copy.
func (s *Session) Copy(o pkcs11.ObjectHandle, template ...*pkcs11.Attribute) (pkcs11.ObjectHandle, error) {
	return result(s.module, "C_CopyObject", func() (pkcs11.ObjectHandle, error) {
		return s.module.ctx.CopyObject(s.handle, o, template)
	})
}

// Destroy destroys an object.
func (s *Session) Destroy(o pkcs11.ObjectHandle) error {
	return s.call("C_DestroyObject", func(ctx *pkcs11.Ctx) error { return ctx.DestroyObject(s.handle, o) })
}

// Random requests n random bytes from the token. The module may return another number of bytes.
func (s *Session) Random(n int) ([]byte, error) {
	return result(s.module, "C_GenerateRandom", func() ([]byte, error) {
		return s.module.ctx.GenerateRandom(s.handle, n)
	})
}
