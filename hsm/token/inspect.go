package token

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/miekg/pkcs11"

	"github.com/kmsgate/kmsgate/hsm"
	"github.com/kmsgate/kmsgate/hsm/token/internal/p11"
)

var (
	_ hsm.Inspector = (*Token)(nil)
	_ hsm.Inspector = sessionInspector{}
)

// Survey implements hsm.Inspector. The worker for changes runs it, so signing continues.
func (t *Token) Survey(ctx context.Context) (hsm.Survey, error) {
	return run(ctx, t, t.changes, func(s *session) (hsm.Survey, error) {
		survey, err := takeSurvey(s)
		survey.Sealing = s.conn.sealing.method()
		survey.Copies = s.conn.copies.enabled()
		return survey, err
	})
}

// Objects implements hsm.Inspector.
func (t *Token) Objects(ctx context.Context) ([]hsm.Object, error) {
	return run(ctx, t, t.changes, func(s *session) ([]hsm.Object, error) { return listObjects(s.p11) })
}

// DestroyObject implements hsm.Inspector.
func (t *Token) DestroyObject(ctx context.Context, o hsm.Object) error {
	_, err := run(ctx, t, t.changes, func(s *session) (struct{}, error) {
		return struct{}{}, destroyObject(s, o)
	})
	return err
}

// Inspect logs in to a token, which need not be provisioned, and calls f with an Inspector of
// it. The Inspector is valid until f returns. Inspect does not change the token itself. No Token
// may be open in this process for the module. Inspect ignores the fields of Config that matter
// only after connecting.
func Inspect(cfg Config, f func(hsm.Inspector) error) error {
	t, err := newToken(cfg)
	if err != nil {
		return err
	}
	c, err := t.login()
	if err != nil {
		return err
	}
	defer c.close()
	s, err := c.openSession()
	if err != nil {
		return fmt.Errorf("%w: %w", hsm.ErrUnavailable, err)
	}
	defer s.p11.Close()
	return p11.Protect(func() error { return f(sessionInspector{s}) })
}

// A sessionInspector inspects a token in one session, for one goroutine. It ignores contexts,
// because a call into the module cannot be cancelled.
type sessionInspector struct{ s *session }

func (i sessionInspector) Survey(context.Context) (hsm.Survey, error) {
	survey, err := takeSurvey(i.s)
	if err != nil {
		return survey, err
	}
	survey.Sealing, err = probeSealing(i.s.p11)
	return survey, err
}

func (i sessionInspector) Objects(context.Context) ([]hsm.Object, error) {
	return listObjects(i.s.p11)
}

func (i sessionInspector) Attributes(_ context.Context, k hsm.Key) ([]hsm.Attribute, error) {
	template := []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_PRIVATE_KEY), pkcs11.NewAttribute(pkcs11.CKA_ID, k.ID)}
	if k.Sealed != nil {
		template = []*pkcs11.Attribute{
			pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_SECRET_KEY), pkcs11.NewAttribute(pkcs11.CKA_LABEL, labelSealing)}
	}
	found, err := i.s.p11.Find(template...)
	if err != nil {
		return nil, err
	}
	if len(found) != 1 {
		return nil, fmt.Errorf("%w: the token has %d keys for %x instead of one", hsm.ErrNotFound, len(found), k.ID)
	}
	return readAttributes(i.s.p11, found[0])
}

func (i sessionInspector) DestroyObject(_ context.Context, o hsm.Object) error {
	return destroyObject(i.s, o)
}

// method returns the sealing method as a Survey names it.
func (k sealingKey) method() string {
	if k.format == formatHMAC {
		return hsm.SealHMAC
	}
	return hsm.SealAESGCM
}

// takeSurvey reads the descriptions of the module and the token of a session, and tests what
// they offer.
func takeSurvey(s *session) (survey hsm.Survey, err error) {
	m, slot := s.conn.token.module, s.conn.slot
	module, err := m.Info()
	if err != nil {
		return survey, err
	}
	survey.Module = hsm.ModuleInfo{
		Path:         m.Path(),
		Manufacturer: strings.TrimSpace(module.ManufacturerID),
		Description:  strings.TrimSpace(module.LibraryDescription),
		Version:      version(module.LibraryVersion),
		Cryptoki:     version(module.CryptokiVersion),
	}
	info, err := m.TokenInfo(slot)
	if err != nil {
		return survey, err
	}
	survey.Token = hsm.TokenInfo{
		Slot:         slot,
		Label:        strings.TrimSpace(info.Label),
		Serial:       strings.TrimSpace(info.SerialNumber),
		Manufacturer: strings.TrimSpace(info.ManufacturerID),
		Model:        strings.TrimSpace(info.Model),
		Hardware:     version(info.HardwareVersion),
		Firmware:     version(info.FirmwareVersion),
		Flags:        flagNames(info.Flags, tokenFlags),
		MaxSessions:  maxSessions(info.MaxSessionCount),
	}
	if survey.Mechanisms, err = listMechanisms(m, slot); err != nil {
		return survey, err
	}
	survey.Offers, err = offers(s.p11, survey.Mechanisms)
	return survey, err
}

func version(v pkcs11.Version) string { return fmt.Sprintf("%d.%d", v.Major, v.Minor) }

// maxSessions returns 0 for "unavailable" and "effectively infinite".
func maxSessions(n uint) uint {
	if n == pkcs11.CK_EFFECTIVELY_INFINITE || n == pkcs11.CK_UNAVAILABLE_INFORMATION {
		return 0
	}
	return n
}

// A flag is a bit and its name in PKCS#11 without CKF_.
type flag struct {
	bit  uint
	name string
}

var tokenFlags = []flag{
	{pkcs11.CKF_RNG, "RNG"},
	{pkcs11.CKF_WRITE_PROTECTED, "WRITE_PROTECTED"},
	{pkcs11.CKF_LOGIN_REQUIRED, "LOGIN_REQUIRED"},
	{pkcs11.CKF_USER_PIN_INITIALIZED, "USER_PIN_INITIALIZED"},
	{pkcs11.CKF_PROTECTED_AUTHENTICATION_PATH, "PROTECTED_AUTHENTICATION_PATH"},
	{pkcs11.CKF_TOKEN_INITIALIZED, "TOKEN_INITIALIZED"},
	{pkcs11.CKF_USER_PIN_COUNT_LOW, "USER_PIN_COUNT_LOW"},
	{pkcs11.CKF_USER_PIN_FINAL_TRY, "USER_PIN_FINAL_TRY"},
	{pkcs11.CKF_USER_PIN_LOCKED, "USER_PIN_LOCKED"},
	{pkcs11.CKF_USER_PIN_TO_BE_CHANGED, "USER_PIN_TO_BE_CHANGED"},
	{pkcs11.CKF_ERROR_STATE, "ERROR_STATE"},
}

var mechanismFlags = []flag{
	{pkcs11.CKF_HW, "HW"},
	{pkcs11.CKF_ENCRYPT, "ENCRYPT"},
	{pkcs11.CKF_DECRYPT, "DECRYPT"},
	{pkcs11.CKF_DIGEST, "DIGEST"},
	{pkcs11.CKF_SIGN, "SIGN"},
	{pkcs11.CKF_VERIFY, "VERIFY"},
	{pkcs11.CKF_GENERATE, "GENERATE"},
	{pkcs11.CKF_GENERATE_KEY_PAIR, "GENERATE_KEY_PAIR"},
	{pkcs11.CKF_WRAP, "WRAP"},
	{pkcs11.CKF_UNWRAP, "UNWRAP"},
	{pkcs11.CKF_DERIVE, "DERIVE"},
}

func flagNames(bits uint, flags []flag) []string {
	set := []string{}
	for _, f := range flags {
		if bits&f.bit != 0 {
			set = append(set, f.name)
		}
	}
	return set
}

// listMechanisms lists the token's mechanisms sorted by ID.
func listMechanisms(m *p11.Module, slot uint) ([]hsm.Mechanism, error) {
	list, err := m.Mechanisms(slot)
	if err != nil {
		return nil, err
	}
	all := []hsm.Mechanism{}
	for _, m := range list {
		all = append(all, hsm.Mechanism{
			ID: m.ID, Name: mechanismName(m.ID),
			MinKeySize: m.MinKeySize, MaxKeySize: m.MaxKeySize, Flags: flagNames(m.Flags, mechanismFlags),
		})
	}
	slices.SortFunc(all, func(a, b hsm.Mechanism) int { return int(a.ID) - int(b.ID) })
	return all, nil
}

// mechanismNames are the names of the mechanisms that are relevant to kmsgate.
var mechanismNames = map[uint]string{
	pkcs11.CKM_RSA_PKCS_KEY_PAIR_GEN:  "CKM_RSA_PKCS_KEY_PAIR_GEN",
	pkcs11.CKM_RSA_PKCS:               "CKM_RSA_PKCS",
	pkcs11.CKM_RSA_X_509:              "CKM_RSA_X_509",
	pkcs11.CKM_RSA_PKCS_OAEP:          "CKM_RSA_PKCS_OAEP",
	pkcs11.CKM_RSA_PKCS_PSS:           "CKM_RSA_PKCS_PSS",
	pkcs11.CKM_SHA256_RSA_PKCS:        "CKM_SHA256_RSA_PKCS",
	pkcs11.CKM_SHA256_RSA_PKCS_PSS:    "CKM_SHA256_RSA_PKCS_PSS",
	pkcs11.CKM_EC_KEY_PAIR_GEN:        "CKM_EC_KEY_PAIR_GEN",
	pkcs11.CKM_ECDSA:                  "CKM_ECDSA",
	pkcs11.CKM_ECDSA_SHA256:           "CKM_ECDSA_SHA256",
	pkcs11.CKM_ECDH1_DERIVE:           "CKM_ECDH1_DERIVE",
	pkcs11.CKM_SHA256:                 "CKM_SHA256",
	pkcs11.CKM_SHA256_HMAC:            "CKM_SHA256_HMAC",
	pkcs11.CKM_GENERIC_SECRET_KEY_GEN: "CKM_GENERIC_SECRET_KEY_GEN",
	pkcs11.CKM_AES_KEY_GEN:            "CKM_AES_KEY_GEN",
	pkcs11.CKM_AES_CBC:                "CKM_AES_CBC",
	pkcs11.CKM_AES_CBC_PAD:            "CKM_AES_CBC_PAD",
	pkcs11.CKM_AES_CTR:                "CKM_AES_CTR",
	pkcs11.CKM_AES_GCM:                "CKM_AES_GCM",
	pkcs11.CKM_AES_KEY_WRAP:           "CKM_AES_KEY_WRAP",
	pkcs11.CKM_AES_KEY_WRAP_PAD:       "CKM_AES_KEY_WRAP_PAD",
}

func mechanismName(id uint) string {
	if name, ok := mechanismNames[id]; ok {
		return name
	}
	return fmt.Sprintf("%#x", id)
}

// listObjects lists the token objects.
func listObjects(s *p11.Session) ([]hsm.Object, error) {
	found, err := s.Find()
	if err != nil {
		return nil, err
	}
	all := make([]hsm.Object, 0, len(found))
	for _, handle := range found {
		o, err := readObject(s, handle)
		if p11.Is(err, pkcs11.CKR_OBJECT_HANDLE_INVALID) {
			continue // it was destroyed after the search
		}
		if err != nil {
			return nil, err
		}
		all = append(all, o)
	}
	return all, nil
}

// purposes maps kmsgate's labels to the purposes of the objects.
var purposes = map[string]string{
	labelKey:     hsm.PurposeKey,
	labelCanary:  hsm.PurposeCanary,
	labelSealing: hsm.PurposeSealing,
	labelAudit:   hsm.PurposeAudit,
}

var classes = map[uint]string{
	pkcs11.CKO_PRIVATE_KEY: hsm.ClassPrivateKey,
	pkcs11.CKO_PUBLIC_KEY:  hsm.ClassPublicKey,
	pkcs11.CKO_SECRET_KEY:  hsm.ClassSecretKey,
	pkcs11.CKO_DATA:        hsm.ClassData,
}

// readObject reads an object's attributes. A missing attribute stays zero: an object whose
// creation was interrupted may have nothing except a handle.
func readObject(s *p11.Session, handle pkcs11.ObjectHandle) (o hsm.Object, err error) {
	o = hsm.Object{Handle: uint(handle), Class: hsm.ClassOther}
	read := func(typ uint) []byte {
		value, readErr := s.Attribute(handle, typ)
		if readErr != nil && !p11.Is(readErr, pkcs11.CKR_ATTRIBUTE_TYPE_INVALID, pkcs11.CKR_ATTRIBUTE_SENSITIVE) {
			err = errors.Join(err, readErr)
		}
		return value
	}
	class := read(pkcs11.CKA_CLASS)
	if name, ok := classes[p11.Uint(class)]; ok {
		o.Class = name
	}
	o.Label, o.ID = string(read(pkcs11.CKA_LABEL)), read(pkcs11.CKA_ID)
	o.Purpose, o.Ours = purposes[o.Label]
	if o.Purpose == hsm.PurposeAudit && o.Class == hsm.ClassData {
		o.Purpose = hsm.PurposeCounter
	}
	if class == nil && err == nil && o.Label == "" && o.ID == nil {
		o.Purpose, o.Ours = hsm.PurposeNone, true
	}
	if o.Class != hsm.ClassOther && o.Class != hsm.ClassData {
		keyType := p11.Uint(read(pkcs11.CKA_KEY_TYPE))
		o.KeyType = keyTypeName(keyType)
		if err == nil {
			o.KeySpec, o.Public = readKeySpec(s, handle, o.Class, keyType)
		}
	}
	return o, err
}

func keyTypeName(keyType uint) string {
	switch keyType {
	case pkcs11.CKK_RSA:
		return "RSA"
	case pkcs11.CKK_EC:
		return "EC"
	case pkcs11.CKK_AES:
		return "AES"
	case pkcs11.CKK_GENERIC_SECRET:
		return "generic secret"
	}
	return "other"
}

// readKeySpec returns a key's KeySpec and, for a public key, its SubjectPublicKeyInfo. It
// returns zero values if the key matches no KeySpec.
func readKeySpec(s *p11.Session, handle pkcs11.ObjectHandle, class string, keyType uint) (hsm.KeySpec, []byte) {
	switch keyType {
	case pkcs11.CKK_RSA:
		modulus, err := s.Attribute(handle, pkcs11.CKA_MODULUS)
		for spec, bits := range rsaBits {
			if err == nil && uint(len(bytes.TrimLeft(modulus, "\x00")))*8 == bits {
				return spec, exportPublic(s, spec, handle, class)
			}
		}
	case pkcs11.CKK_EC:
		params, err := s.Attribute(handle, pkcs11.CKA_EC_PARAMS)
		for _, spec := range []hsm.KeySpec{hsm.EC_P256, hsm.EC_P256K} {
			if oid, oidErr := hsm.CurveOID(spec); err == nil && oidErr == nil && bytes.Equal(oid, params) {
				return spec, exportPublic(s, spec, handle, class)
			}
		}
	}
	return "", nil
}

// exportPublic returns the SubjectPublicKeyInfo of a public key, and nil for other classes.
func exportPublic(s *p11.Session, spec hsm.KeySpec, handle pkcs11.ObjectHandle, class string) []byte {
	if class != hsm.ClassPublicKey {
		return nil
	}
	public, err := generators[spec].export(s, handle)
	if err != nil {
		return nil // the object contains no valid public key
	}
	return public
}

// destroyObject destroys one of kmsgate's objects if it has not changed since it was listed.
func destroyObject(s *session, o hsm.Object) error {
	if !o.Ours {
		return fmt.Errorf("destroying object %d, labelled %q: it does not belong to kmsgate", o.Handle, o.Label)
	}
	now, err := readObject(s.p11, pkcs11.ObjectHandle(o.Handle))
	if p11.Is(err, pkcs11.CKR_OBJECT_HANDLE_INVALID) {
		if err := s.checkAlive(); err != nil {
			return err
		}
		return fmt.Errorf("%w: object %d is gone", hsm.ErrNotFound, o.Handle)
	}
	if err != nil {
		return err
	}
	if now.Class != o.Class || now.Label != o.Label || !bytes.Equal(now.ID, o.ID) {
		return fmt.Errorf("%w: handle %d is now another object's", hsm.ErrNotFound, o.Handle)
	}
	if err := errReserved(s.conn.token, now.ID); err != nil {
		return err
	}
	if now.Class == hsm.ClassPrivateKey && (now.Purpose == hsm.PurposeKey || now.Purpose == hsm.PurposeAudit) {
		s.conn.forgetHandle(now.ID)
	}
	if err := s.p11.Destroy(pkcs11.ObjectHandle(o.Handle)); err != nil {
		return err
	}
	return s.flush()
}
