package integration

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/alibabacloud-go/tea/tea"
	"github.com/aliyun/alibaba-cloud-sdk-go/sdk"
	"github.com/aliyun/alibaba-cloud-sdk-go/sdk/auth/credentials"
	dkmsconfig "github.com/aliyun/alibabacloud-dkms-gcs-go-sdk/openapi"
	dkmsutil "github.com/aliyun/alibabacloud-dkms-gcs-go-sdk/openapi-util"
	dkms "github.com/aliyun/alibabacloud-dkms-gcs-go-sdk/sdk"
	transfer "github.com/aliyun/alibabacloud-dkms-transfer-go-sdk/sdk"

	"github.com/kmsgate/kmsgate/gateway"
	"github.com/kmsgate/kmsgate/gateway/audit"
	ours "github.com/kmsgate/kmsgate/gateway/kms"
	"github.com/kmsgate/kmsgate/hsm"
	"github.com/kmsgate/kmsgate/hsm/hsmtest"
	"github.com/kmsgate/kmsgate/store"
)

const clientPassword = "Tr0ub4dor&3"

// newClientKey creates an access point that may use the resources, and a client key of it. It
// returns the configuration of a client that uses the key. other are names and values of more
// parameters of CreateClientKey.
func (f *faulty) newClientKey(name, resources string, other ...string) *dkmsconfig.Config {
	f.t.Helper()
	f.local("CreatePolicy", nil, map[string]string{
		"Name": name, "Permissions": `["RbacPermission/Template/CryptoServiceKeyUser"]`, "Resources": resources,
	})
	f.local("CreateApplicationAccessPoint", nil, map[string]string{"Name": name, "Policies": `["` + name + `"]`})
	parameters := map[string]string{"AapName": name, "Password": clientPassword}
	for i := 0; i < len(other); i += 2 {
		parameters[other[i]] = other[i+1]
	}
	var created struct{ ClientKeyId, PrivateKeyData string }
	f.local("CreateClientKey", &created, parameters)
	file := map[string]string{"KeyId": created.ClientKeyId, "PrivateKeyData": created.PrivateKeyData}
	content := require[[]byte](f.t)(json.Marshal(file))
	return &dkmsconfig.Config{Endpoint: &f.address, Protocol: tea.String("https"), Ca: &f.ca,
		ClientKeyContent: tea.String(string(content)), Password: tea.String(clientPassword)}
}

// clientKeyId returns the ID in a client key file.
func clientKeyId(t *testing.T, config *dkmsconfig.Config) string {
	t.Helper()
	var file struct{ KeyId string }
	if err := json.Unmarshal([]byte(tea.StringValue(config.ClientKeyContent)), &file); err != nil {
		t.Fatal(err)
	}
	return file.KeyId
}

// pemKey returns a new private key in PEM, which the SDK accepts instead of a file.
func pemKey(t *testing.T) *string {
	t.Helper()
	key := require[*rsa.PrivateKey](t)(rsa.GenerateKey(rand.Reader, 2048))
	block := &pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)}
	return tea.String(string(pem.EncodeToMemory(block)))
}

// signWith signs with the Instance SDK, without retries. change may change the request.
func (f *faulty) signWith(config *dkmsconfig.Config, change func(*dkms.SignRequest)) error {
	f.t.Helper()
	client := require[*dkms.Client](f.t)(dkms.NewClient(config))
	r := &dkms.SignRequest{KeyId: &f.key, Message: []byte("m")}
	if change != nil {
		change(r)
	}
	_, err := client.SignWithOptions(r, &dkmsutil.RuntimeOptions{Autoretry: tea.Bool(false)})
	return err
}

// nativeErrorCode returns the status and code of the Instance SDK's error, and its RequestId. It
// returns empty strings for other errors and for nil.
func nativeErrorCode(t *testing.T, err error) (statusAndCode, requestId string) {
	t.Helper()
	var e *tea.SDKError
	if !errors.As(err, &e) {
		return "", ""
	}
	var data struct {
		HTTPCode  int `json:"httpCode"`
		RequestId string
	}
	if err := json.Unmarshal([]byte(tea.StringValue(e.Data)), &data); err != nil {
		t.Errorf("the SDK's data %q: %v", tea.StringValue(e.Data), err)
	}
	return fmt.Sprintf("%d %s", data.HTTPCode, tea.StringValue(e.Code)), data.RequestId
}

// TestNativeErrors triggers the errors of the native API through the Instance SDK, and checks the
// status, code and RequestId that the SDK returns. The SDK never sends faulty headers; the tests of
// package gateway do.
func TestNativeErrors(t *testing.T) {
	f := newFaulty(t, func(*gateway.Config) {})
	limited := newFaulty(t, func(c *gateway.Config) { c.Quotas.DedicatedUser = 0.001 })
	all, narrow := f.newClientKey("all", `["key/*"]`), f.newClientKey("narrow", `["key/none"]`)
	secrets := f.newClientKey("secrets", `["secret/*"]`)
	deleted := f.newClientKey("deleted", `["key/*"]`)
	inFiveMinutes := time.Now().UTC().Add(5 * time.Minute).Format("2006-01-02T15:04:05Z")
	anHourAgo := time.Now().UTC().Add(-time.Hour).Format("2006-01-02T15:04:05Z")
	expired := f.newClientKey("expired", `["key/*"]`, "NotBefore", anHourAgo, "NotAfter", inFiveMinutes)
	early := f.newClientKey("early", `["key/*"]`,
		"NotBefore", "2100-01-01T00:00:00Z", "NotAfter", "2101-01-01T00:00:00Z")
	f.local("DeleteClientKey", nil, map[string]string{"ClientKeyId": clientKeyId(t, deleted)})
	throttledKey := limited.newClientKey("all", `["key/*"]`)
	if err := limited.signWith(throttledKey, nil); err != nil {
		t.Fatal(err)
	}
	inState := func(state string) error {
		f.set(func(k *store.Key) { k.KeyState = state })
		defer f.set(func(k *store.Key) { k.KeyState = store.Enabled })
		return f.signWith(all, nil)
	}
	failing := func(fault error) error {
		if err := f.signWith(all, nil); err != nil { // a version whose last signature failed has its own error
			return err
		}
		f.backend.Fail(fault)
		defer f.backend.Fail(nil)
		return f.signWith(all, nil)
	}
	alter := func(change func(*dkms.SignRequest)) func() error {
		return func() error { return f.signWith(all, change) }
	}
	client := require[*dkms.Client](t)(dkms.NewClient(all))
	// A client that signs with another private key under the ID of an existing client key.
	impostor := &dkmsconfig.Config{Endpoint: &f.address, Protocol: tea.String("https"), Ca: &f.ca,
		AccessKeyId: tea.String(clientKeyId(t, all)), PrivateKey: pemKey(t)}
	for name, cases := range map[string][]func() error{
		"404 Unauthorized": {
			func() error { return f.signWith(deleted, nil) },
			func() error { return f.moved(10*time.Minute, func() error { return f.signWith(expired, nil) }) },
			func() error { return f.signWith(early, nil) },
		},
		"401 SignatureNotMatch": {func() error { return f.signWith(impostor, nil) }},
		"400 RequestTimeTooSkewed": {
			func() error { return f.moved(16*time.Minute, func() error { return f.signWith(all, nil) }) },
			func() error { return f.moved(-16*time.Minute, func() error { return f.signWith(all, nil) }) },
		},
		"403 Forbidden.NoPermission": {
			func() error { return f.signWith(narrow, nil) },
			func() error { return f.signWith(secrets, nil) },
		},
		"404 Forbidden.KeyNotFound": {
			alter(func(r *dkms.SignRequest) { r.KeyId = tea.String("none") }),
			alter(func(r *dkms.SignRequest) { r.KeyId = tea.String("alias/none") }),
		},
		"404 Forbidden.KeyVersionNotFound": {alter(func(r *dkms.SignRequest) { r.Headers = versionHeaders(f.key) })},
		"400 MissingParameter": {
			alter(func(r *dkms.SignRequest) { r.KeyId = tea.String("") }),
			alter(func(r *dkms.SignRequest) { r.Message = nil }),
		},
		"400 InvalidParameter": {
			alter(func(r *dkms.SignRequest) { r.Algorithm = tea.String("RSA_PSS_SHA_256") }),
			alter(func(r *dkms.SignRequest) { r.Algorithm = tea.String("ECDSA") }),
			alter(func(r *dkms.SignRequest) { r.MessageType = tea.String("DIGEST") }),
			alter(func(r *dkms.SignRequest) { r.MessageType = tea.String("HASH") }),
			func() error {
				_, err := client.GenerateRandom(&dkms.GenerateRandomRequest{Length: tea.Int32(1025)})
				return err
			},
		},
		"413 InvalidParameter": {alter(func(r *dkms.SignRequest) { r.Message = make([]byte, 3<<20) })},
		"400 UnsupportedOperation": {
			func() error {
				_, err := client.Encrypt(&dkms.EncryptRequest{KeyId: &f.key, Plaintext: []byte("p")})
				return err
			},
			func() error {
				_, err := client.GetSecretValue(&dkms.GetSecretValueRequest{SecretName: tea.String("s")})
				return err
			},
			func() error {
				_, err := client.AdvanceGenerateDataKey(
					&dkms.AdvanceGenerateDataKeyRequest{KeyId: &f.key, NumberOfBytes: tea.Int32(16)})
				return err
			},
		},
		"409 Rejected.Disabled":        {func() error { return inState(store.Disabled) }},
		"409 Rejected.PendingDeletion": {func() error { return inState(store.PendingDeletion) }},
		"409 Rejected.PendingImport":   {func() error { return inState(store.PendingImport) }},
		"409 Rejected.Unavailable": {
			func() error { return inState(store.Unavailable) },
			func() error { return failing(hsm.ErrNotFound) },
		},
		"429 Rejected.Throttling": {func() error { return limited.signWith(throttledKey, nil) }},
		"503 ServiceUnavailableTemporary": {
			func() error { return failing(hsm.ErrBusy) },
			func() error { return failing(hsm.ErrUnavailable) },
		},
		"500 InternalFailure": {func() error { return failing(hsmtest.ErrPanic) }},
	} {
		t.Run(name, func(t *testing.T) {
			status, code, _ := strings.Cut(name, " ")
			e := ours.Error{Code: code}
			fmt.Sscan(status, &e.Status)
			for i, trigger := range cases {
				before := f.refusals(e.Code)
				err := trigger()
				got, requestId := nativeErrorCode(t, err)
				if got != name {
					t.Errorf("request %d: got %q with RequestId %q, want %q: %v", i, got, requestId, name, err)
				} else if !f.audited(requestId, e) && !limited.audited(requestId, e) {
					t.Errorf("request %d: the audit log has no line for RequestId %q", i, requestId)
				} else if n := f.refusals(e.Code) - before; n > 1 {
					t.Errorf("request %d: the SDK sent %d requests, want 1", i, n)
				}
			}
		})
	}
	if err := f.signWith(all, nil); err != nil {
		t.Errorf("signing after all errors: %v", err)
	}
}

// refusals returns how many lines with a code are in the audit log.
func (f *faulty) refusals(code string) (n int) {
	f.t.Helper()
	for _, line := range f.lines() {
		if line.Code == code {
			n++
		}
	}
	return n
}

// lines returns the entries of requests in the audit log, without intended lines whose results were not
// released: another line is about the same request.
func (f *faulty) lines() (all []audit.Entry) {
	f.t.Helper()
	content := require[[]byte](f.t)(os.ReadFile(f.auditLog))
	notReleased := make(map[uint64]bool)
	var lines []audit.Line
	err := audit.Read(bytes.NewReader(content), func(line audit.Line) error {
		if line.Entry != nil {
			lines = append(lines, line)
			notReleased[line.Entry.NotReleased] = true
		}
		return nil
	})
	if err != nil {
		f.t.Fatal(err)
	}
	for _, line := range lines {
		if !notReleased[line.Seq] {
			all = append(all, *line.Entry)
		}
	}
	return all
}

// TestTransferErrors checks that the transfer SDK converts the errors of the native API to those of
// the RPC API, which its programs know.
func TestTransferErrors(t *testing.T) {
	f := newFaulty(t, func(*gateway.Config) {})
	limited := newFaulty(t, func(c *gateway.Config) { c.Quotas.DedicatedUser = 0.001 })
	dial := func(f *faulty, config *dkmsconfig.Config) transferSDK {
		t.Helper()
		c := require[*transfer.KmsTransferClient](t)(transfer.NewClientWithOptions("cn-hangzhou",
			sdk.NewConfig().WithScheme("HTTPS"), credentials.NewAccessKeyCredential("id", "secret"), config))
		c.SetVerify(f.ca)
		return transferSDK{c, f.address}
	}
	all, deleted := f.newClientKey("all", `["key/*"]`), f.newClientKey("deleted", `["key/*"]`)
	f.local("DeleteApplicationAccessPoint", nil, map[string]string{"Name": "deleted"})
	throttledKey := limited.newClientKey("all", `["key/*"]`)
	if err := limited.signWith(throttledKey, nil); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		config *dkmsconfig.Config
		key    string
	}{
		"404 InvalidAccessKeyId.NotFound": {deleted, f.key},
		"403 Forbidden.NoPermission":      {f.newClientKey("narrow", `["key/none"]`), f.key},
		"404 Forbidden.KeyNotFound":       {all, "none"},
	} {
		_, _, _, err := dial(f, c.config).sign(c.key, "", hsm.ECDSA_SHA_256, make([]byte, 32))
		if got, _ := errorCode(t, err); got != name {
			t.Errorf("got %v, want %s", err, name)
		}
	}
	_, err := dial(f, all).verify(f.key, f.version, hsm.ECDSA_SHA_256, make([]byte, 31), []byte{1})
	if got, _ := errorCode(t, err); got != "400 InvalidParameter" {
		t.Errorf("AsymmetricVerify of a digest of 31 bytes: got %v, want InvalidParameter", err)
	}
	_, _, _, err = dial(limited, throttledKey).sign(limited.key, "", hsm.ECDSA_SHA_256, make([]byte, 32))
	if got, _ := errorCode(t, err); got != "429 Rejected.Throttling" {
		t.Errorf("AsymmetricSign above the quota: got %v, want Rejected.Throttling", err)
	}
}

// TestRetries checks that the SDK retries requests that the gateway refuses because of the quota or
// the token. The cause ends as soon as the gateway has logged the refusal.
func TestRetries(t *testing.T) {
	var f *faulty
	f = newFaulty(t, func(c *gateway.Config) {
		c.Quotas.DedicatedUser = 1
		c.Logger = slog.New(refusals{slog.DiscardHandler, func() {
			f.offset.Add(int64(time.Minute))
			f.backend.Fail(nil)
		}})
	})
	client := require[*dkms.Client](t)(dkms.NewClient(f.newClientKey("all", `["key/*"]`)))
	for _, fault := range []error{nil, nil, hsm.ErrUnavailable} {
		if fault != nil {
			f.offset.Add(int64(time.Minute))
		}
		f.backend.Fail(fault)
		if _, err := client.Sign(&dkms.SignRequest{KeyId: &f.key, Message: []byte("m")}); err != nil {
			t.Errorf("signing with the backend error %v: %v", fault, err)
		}
	}
	var codes []string
	for _, line := range f.lines() {
		if line.Action == "AsymmetricSign" {
			codes = append(codes, line.Code)
		}
	}
	if want := []string{"", throttled, "", unavailable, ""}; !slices.Equal(codes, want) {
		t.Errorf("got the codes %q in the audit log, want %q", codes, want)
	}
}

const (
	throttled   = "Rejected.Throttling"
	unavailable = "ServiceUnavailableTemporary"
)

// refusals is a log handler that calls a function when the gateway logs a refusal, which is before
// it sends the response.
type refusals struct {
	slog.Handler
	refused func()
}

func (r refusals) Enabled(context.Context, slog.Level) bool { return true }

func (r refusals) Handle(_ context.Context, record slog.Record) error {
	if record.Message == "request refused" || record.Message == "request failed" {
		r.refused()
	}
	return nil
}
