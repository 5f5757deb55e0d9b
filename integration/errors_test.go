package integration

import (
	"bytes"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	openapi "github.com/alibabacloud-go/darabonba-openapi/v2/client"
	kms "github.com/alibabacloud-go/kms-20160120/v3/client"
	util "github.com/alibabacloud-go/tea-utils/v2/service"
	"github.com/alibabacloud-go/tea/tea"
	"github.com/aliyun/alibaba-cloud-sdk-go/sdk"
	"github.com/aliyun/alibaba-cloud-sdk-go/sdk/auth/credentials"
	olderrors "github.com/aliyun/alibaba-cloud-sdk-go/sdk/errors"
	"github.com/aliyun/alibaba-cloud-sdk-go/sdk/requests"

	"github.com/kmsgate/kmsgate/gateway"
	"github.com/kmsgate/kmsgate/gateway/audit"
	ours "github.com/kmsgate/kmsgate/gateway/kms"
	"github.com/kmsgate/kmsgate/gateway/limit"
	"github.com/kmsgate/kmsgate/hsm"
	"github.com/kmsgate/kmsgate/hsm/hsmtest"
	"github.com/kmsgate/kmsgate/store"
	"github.com/kmsgate/kmsgate/store/storetest"
)

// A faulty gateway runs in the test's process on a backend that fails on demand, so that tests can
// trigger every error of the API. Clients call it through real connections.
type faulty struct {
	t       *testing.T
	db      *store.Store
	backend hsmtest.Fake
	server  *gateway.Server
	offset  atomic.Int64 // of its clock, nanoseconds
	address string
	ca      string
	root    access
	key     string // KeyId of an EC_P256 key
	version string // its KeyVersionId

	auditLog string
}

type access struct{ AccessKeyId, AccessKeySecret string }

// newFaulty starts a faulty gateway. change may change its configuration.
func newFaulty(t *testing.T, change func(*gateway.Config)) *faulty {
	t.Helper()
	f := &faulty{t: t}
	var err error
	if f.db, err = storetest.Open(filepath.Join(t.TempDir(), "db")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.db.Close() })
	if err := f.db.Update(func(tx *store.Tx) error {
		return tx.SetInstance(
			store.Instance{InstanceId: "kst-faulty", RegionId: "cn-hangzhou", AccountId: "1000000000000001"})
	}); err != nil {
		t.Fatal(err)
	}
	f.auditLog = filepath.Join(t.TempDir(), "audit.log")
	log, err := audit.Open(audit.Config{Path: f.auditLog})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { log.Close() })
	cfg := gateway.Config{
		Store: f.db, Backend: &f.backend, Sealer: &f.backend, Random: &f.backend, Audit: log,
		Logger:   slog.New(slog.NewTextHandler(io.Discard, nil)),
		Now:      func() time.Time { return time.Now().Add(time.Duration(f.offset.Load())) },
		LogLines: limit.LogLines{PerCaller: 1e6}, // tests look for the line of each refusal
	}
	change(&cfg)
	if f.server, err = gateway.New(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	f.listen()
	f.root = f.newUser("root", "")
	var created struct{ KeyMetadata struct{ KeyId string } }
	f.local("CreateKey", &created, map[string]string{"KeySpec": "EC_P256"})
	f.key = created.KeyMetadata.KeyId
	f.version = f.db.Now().VersionsOf(f.key)[0].KeyVersionId
	return f
}

func (f *faulty) listen() {
	f.t.Helper()
	cert, pemText := selfSigned(f.t)
	f.ca = pemText
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		f.t.Fatal(err)
	}
	f.address = l.Addr().String()
	served := make(chan error, 1)
	go func() {
		config := &tls.Config{Certificates: []tls.Certificate{cert}}
		served <- f.server.Serve(f.t.Context(), l, config, gateway.Listener{})
	}()
	f.t.Cleanup(func() {
		if err := <-served; err != nil {
			f.t.Error(err)
		}
	})
}

// local calls an operation through the gateway's local door.
func (f *faulty) local(action string, resp any, parameters map[string]string) {
	f.t.Helper()
	if err := f.server.Call(f.t.Context(), action, parameters, resp); err != nil {
		f.t.Fatalf("%s: %v", action, err)
	}
}

// newUser creates a user with a policy document, or AliyunKMSFullAccess if the document is empty,
// and returns an access key of the user.
func (f *faulty) newUser(name, policy string) (a access) {
	f.t.Helper()
	policyName := "AliyunKMSFullAccess"
	f.local("CreateUser", nil, map[string]string{"UserName": name})
	if policy != "" {
		policyName = name
		f.local("CreateRamPolicy", nil, map[string]string{"PolicyName": policyName, "PolicyDocument": policy})
	}
	f.local("AttachPolicyToUser", nil, map[string]string{"UserName": name, "PolicyName": policyName})
	f.local("CreateAccessKey", &a, map[string]string{"UserName": name})
	return a
}

// client returns a client of the SDK kms-20160120. change may change its configuration.
func (f *faulty) client(a access, change ...func(*openapi.Config)) *kms.Client {
	f.t.Helper()
	config := &openapi.Config{
		Endpoint: &f.address, Ca: &f.ca, AccessKeyId: &a.AccessKeyId, AccessKeySecret: &a.AccessKeySecret,
	}
	for _, c := range change {
		c(config)
	}
	client, err := kms.NewClient(config)
	if err != nil {
		f.t.Fatal(err)
	}
	return client
}

// call sends a request for any action with the SDK kms-20160120.
func (f *faulty) call(a access, action string, params openapi.Params, request openapi.OpenApiRequest) error {
	fill := func(p **string, value string) {
		if *p == nil {
			*p = tea.String(value)
		}
	}
	params.Action, params.Version = tea.String(action), tea.String("2016-01-20")
	params.Style, params.BodyType = tea.String("RPC"), tea.String("json")
	fill(&params.Protocol, "HTTPS")
	fill(&params.Pathname, "/")
	fill(&params.Method, "POST")
	fill(&params.AuthType, "AK")
	fill(&params.ReqBodyType, "formData")
	_, err := f.client(a).CallApi(&params, &request, &util.RuntimeOptions{})
	return err
}

// callOld sends a request for any action with alibaba-cloud-sdk-go. If tamper is not nil, it
// changes the query after it was signed. The scheme is https by default.
func (f *faulty) callOld(
	a access, action string, query map[string]string, tamper func(url.Values), scheme ...string,
) error {
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool(f.t, f.ca)}}
	client, err := sdk.NewClientWithOptions("cn-hangzhou", sdk.NewConfig().WithScheme("HTTPS"),
		credentials.NewAccessKeyCredential(a.AccessKeyId, a.AccessKeySecret))
	if err != nil {
		return err
	}
	client.SetTransport(tampering{transport, tamper})
	r := requests.NewCommonRequest()
	r.Domain, r.Scheme, r.Method = f.address, append(scheme, "https")[0], "POST"
	r.Version, r.ApiName, r.QueryParams = "2016-01-20", action, map[string]string{}
	maps.Copy(r.QueryParams, query)
	_, err = client.ProcessCommonRequest(r)
	return err
}

// tampering is a transport that changes the query of requests.
type tampering struct {
	http.RoundTripper
	change func(url.Values)
}

func (t tampering) RoundTrip(r *http.Request) (*http.Response, error) {
	if t.change != nil {
		r = r.Clone(r.Context())
		q := r.URL.Query()
		t.change(q)
		r.URL.RawQuery = q.Encode()
	}
	return t.RoundTripper.RoundTrip(r)
}

// set changes the key's record.
func (f *faulty) set(change func(*store.Key)) {
	f.t.Helper()
	err := f.db.Update(func(tx *store.Tx) error {
		k, err := tx.Keys().Get(f.key)
		if err != nil {
			return err
		}
		change(&k)
		return tx.Keys().Put(k)
	})
	if err != nil {
		f.t.Fatal(err)
	}
}

// inState signs while the key has a KeyState.
func (f *faulty) inState(state string) error {
	f.set(func(k *store.Key) { k.KeyState = state })
	defer f.set(func(k *store.Key) { k.KeyState = store.Enabled })
	return f.sign(f.root, nil)
}

// failing signs while the backend fails with an error.
func (f *faulty) failing(fault error) error {
	if err := f.sign(f.root, nil); err != nil { // a version whose last signature failed has its own error
		return err
	}
	f.backend.Fail(fault)
	defer f.backend.Fail(nil)
	return f.sign(f.root, nil)
}

// sign signs with the SDK kms-20160120. change may change the request.
func (f *faulty) sign(a access, change func(*kms.AsymmetricSignRequest), config ...func(*openapi.Config)) error {
	r := &kms.AsymmetricSignRequest{
		KeyId: &f.key, KeyVersionId: &f.version,
		Algorithm: tea.String("ECDSA_SHA_256"), Digest: b64(make([]byte, 32)),
	}
	if change != nil {
		change(r)
	}
	_, err := f.client(a, config...).AsymmetricSign(r)
	return err
}

// moved calls do while the gateway's clock differs by a duration.
func (f *faulty) moved(difference time.Duration, do func() error) error {
	before := f.offset.Load()
	f.offset.Add(int64(difference))
	defer f.offset.Store(before)
	return do()
}

// TestErrors triggers every error of the API through a real SDK, and checks the status, code and
// RequestId that the SDK returns.
func TestErrors(t *testing.T) {
	f := newFaulty(t, func(c *gateway.Config) { c.MaxKeys = 1 })
	limited := newFaulty(t, func(c *gateway.Config) {
		c.Quotas.DedicatedUser, c.MinVersionInterval = 0.001, time.Hour
	})
	nobody := f.newUser("nobody", `{"Version":"1","Statement":[{"Effect":"Deny","Action":"*","Resource":"*"}]}`)
	dry := func(r *kms.AsymmetricSignRequest) { r.DryRun = tea.String("true") }
	alias := func(name string) map[string]string { return map[string]string{"AliasName": name, "KeyId": f.key} }
	signQuery := map[string]string{
		"KeyId": f.key, "KeyVersionId": f.version, "Algorithm": "ECDSA_SHA_256", "Digest": *b64(make([]byte, 32)),
	}
	withState := func(state string, do func() error) error {
		f.set(func(k *store.Key) { k.KeyState = state })
		defer f.set(func(k *store.Key) { k.KeyState = store.Enabled })
		return do()
	}

	// Requests by the status and code of the error that they trigger, which must be in kms.Errors.
	cases := map[string][]func() error{
		"404 InvalidApi.NotFound": {
			func() error { return f.call(f.root, "Nonsense", openapi.Params{}, openapi.OpenApiRequest{}) },
			func() error {
				params := openapi.Params{Pathname: tea.String("/keys")}
				return f.call(f.root, "ListKeys", params, openapi.OpenApiRequest{})
			},
			func() error { return f.callOld(f.root, "Nonsense", nil, nil) },
		},
		"403 UnsupportedHTTPMethod": {func() error {
			return f.call(f.root, "ListKeys", openapi.Params{Method: tea.String("PUT")}, openapi.OpenApiRequest{})
		}},
		"404 InvalidProtocol.NeedSsl": {
			func() error { return f.sign(f.root, nil, func(c *openapi.Config) { c.Protocol = tea.String("HTTP") }) },
			func() error { return f.callOld(f.root, "ListKeys", nil, nil, "http") }, // this SDK's default
		},
		"413 InvalidParameter": {func() error {
			request := openapi.OpenApiRequest{Body: map[string]any{"Description": strings.Repeat("a", 300_000)}}
			return f.call(f.root, "CreateKey", openapi.Params{}, request)
		}},
		"400 ParseRequestParameterException": {
			func() error {
				request := openapi.OpenApiRequest{
					Query: map[string]*string{"KeyId": &f.key}, Body: map[string]any{"KeyId": f.key},
				}
				return f.call(f.root, "DescribeKey", openapi.Params{}, request)
			},
			func() error {
				twoValues := func(q url.Values) { q.Add("PageSize", "1"); q.Add("PageSize", "2") }
				return f.callOld(f.root, "ListKeys", nil, twoValues)
			},
		},
		"400 IncompleteSignature": {
			func() error {
				params := openapi.Params{AuthType: tea.String("Anonymous")}
				return f.call(f.root, "ListKeys", params, openapi.OpenApiRequest{})
			},
			func() error {
				return f.callOld(f.root, "ListKeys", nil, func(q url.Values) { q.Del("SignatureNonce") })
			},
		},
		"400 InvalidSignatureMethod": {
			func() error {
				rsa := func(c *openapi.Config) { c.SignatureAlgorithm = tea.String("ACS3-RSA-SHA256") }
				return f.sign(f.root, nil, rsa)
			},
			func() error {
				return f.callOld(f.root, "ListKeys", nil, func(q url.Values) { q.Set("SignatureMethod", "HMAC-MD5") })
			},
		},
		"400 InvalidSecurityToken.Malformed": {
			func() error {
				return f.sign(f.root, nil, func(c *openapi.Config) { c.SecurityToken = tea.String("t") })
			},
			func() error { return f.callOld(f.root, "ListKeys", map[string]string{"SecurityToken": "t"}, nil) },
		},
		"400 InvalidTimeStamp.Format": {
			func() error {
				return f.callOld(f.root, "ListKeys", nil, func(q url.Values) { q.Set("Timestamp", "yesterday") })
			},
		},
		"400 InvalidTimeStamp.Expired": {
			func() error { return f.moved(16*time.Minute, func() error { return f.sign(f.root, nil) }) },
			func() error {
				return f.moved(-16*time.Minute, func() error {
					return f.callOld(f.root, "AsymmetricSign", signQuery, nil)
				})
			},
		},
		"404 InvalidAccessKeyId.NotFound": {
			func() error { return f.sign(access{"KMSGNONE", "x"}, nil) },
			func() error { return f.callOld(access{"KMSGNONE", "x"}, "AsymmetricSign", signQuery, nil) },
		},
		"400 InvalidAccessKeyId.Inactive": {func() error {
			inactive := f.newUser("inactive", "")
			err := f.db.Update(func(tx *store.Tx) error {
				a, err := tx.AccessKeys().Get(inactive.AccessKeyId)
				a.Active = false
				return errors.Join(err, tx.AccessKeys().Put(a))
			})
			if err != nil {
				t.Fatal(err)
			}
			return f.sign(inactive, nil)
		}},
		"400 SignatureDoesNotMatch": {
			func() error { return f.sign(access{f.root.AccessKeyId, "wrong"}, nil) },
			func() error { return f.callOld(access{f.root.AccessKeyId, "wrong"}, "AsymmetricSign", signQuery, nil) },
			func() error {
				return f.callOld(f.root, "AsymmetricSign", signQuery, func(q url.Values) { q.Set("KeyId", "other") })
			},
		},
		"400 SignatureNonceUsed": {func() error {
			var first url.Values
			keep := func(q url.Values) {
				if first == nil {
					first = url.Values{}
					for name, v := range q {
						first[name] = slices.Clone(v)
					}
					return
				}
				clear(q)
				for name, v := range first {
					q[name] = v
				}
			}
			if err := f.callOld(f.root, "AsymmetricSign", signQuery, keep); err != nil {
				return fmt.Errorf("first request: %w", err)
			}
			return f.callOld(f.root, "AsymmetricSign", signQuery, keep)
		}},
		"400 UnsupportedOperation": {
			func() error {
				_, err := f.client(f.root).Encrypt(&kms.EncryptRequest{KeyId: &f.key, Plaintext: tea.String("AAAA")})
				return err
			},
			func() error { return f.callOld(f.root, "GenerateDataKey", nil, nil) },
			func() error {
				_, err := f.client(f.root).CreateKey(&kms.CreateKeyRequest{})
				return err
			},
		},
		"400 Rejected.UnsupportedOperation": {func() error {
			_, err := limited.client(limited.root).CreateKeyVersion(&kms.CreateKeyVersionRequest{KeyId: &limited.key})
			return err
		}},
		"404 Forbidden.ResourceNotFound": {
			func() error {
				_, err := f.client(f.root).GetKeyPolicy(
					&kms.GetKeyPolicyRequest{KeyId: &f.key, PolicyName: tea.String("other")})
				return err
			},
			func() error {
				_, err := f.client(f.root).GetKmsInstance(
					&kms.GetKmsInstanceRequest{KmsInstanceId: tea.String("kst-other")})
				return err
			},
		},
		"429 Rejected.Throttling": {func() error {
			if err := limited.sign(limited.root, nil); err != nil {
				return fmt.Errorf("first request: %w", err)
			}
			return limited.sign(limited.root, nil)
		}},
		"400 MissingParameter": {
			func() error { return f.sign(f.root, func(r *kms.AsymmetricSignRequest) { r.KeyVersionId = nil }) },
			func() error { return f.callOld(f.root, "AsymmetricSign", nil, nil) },
		},
		"400 InvalidParameter": {
			func() error {
				return f.sign(f.root, func(r *kms.AsymmetricSignRequest) { r.Digest = tea.String("AAAA") })
			},
			func() error {
				return f.sign(f.root, func(r *kms.AsymmetricSignRequest) { r.Algorithm = tea.String("SM2DSA") })
			},
		},
		"403 Forbidden.NoPermission": {
			func() error { return f.sign(nobody, nil) },
			func() error { return f.callOld(nobody, "AsymmetricSign", signQuery, nil) },
		},
		"404 Forbidden.AliasNotFound": {
			func() error {
				return f.sign(f.root, func(r *kms.AsymmetricSignRequest) { r.KeyId = tea.String("alias/none") })
			},
		},
		"404 Forbidden.KeyNotFound": {
			func() error {
				return f.sign(f.root, func(r *kms.AsymmetricSignRequest) { r.KeyId = tea.String("none") })
			},
			func() error { return f.callOld(f.root, "DescribeKey", map[string]string{"KeyId": "none"}, nil) },
		},
		"404 Forbidden.KeyVersionNotFound": {
			func() error { return f.sign(f.root, func(r *kms.AsymmetricSignRequest) { r.KeyVersionId = &f.key }) },
		},
		"409 Rejected.Disabled":        {func() error { return f.inState(store.Disabled) }},
		"409 Rejected.PendingDeletion": {func() error { return f.inState(store.PendingDeletion) }},
		"409 Rejected.PendingImport":   {func() error { return f.inState(store.PendingImport) }},
		"409 Rejected.Unavailable": {
			func() error { return f.inState(store.Unavailable) },
			func() error { return f.failing(hsm.ErrNotFound) },
		},
		"409 Rejected.StateModifiedFailed": {func() error {
			return withState(store.PendingDeletion, func() error {
				return f.callOld(f.root, "CreateAlias", alias("alias/late"), nil)
			})
		}},
		"400 AliasAlreadyExists": {func() error {
			if err := f.callOld(f.root, "CreateAlias", alias("alias/taken"), nil); err != nil {
				return fmt.Errorf("first request: %w", err)
			}
			return f.callOld(f.root, "CreateAlias", alias("alias/taken"), nil)
		}},
		"409 Rejected.ResourceExist": {func() error {
			rule := &kms.CreateNetworkRuleRequest{
				Name: tea.String("taken"), Type: tea.String("Private"), SourcePrivateIp: tea.String(`["::1"]`),
			}
			if _, err := f.client(f.root).CreateNetworkRule(rule); err != nil {
				return fmt.Errorf("first request: %w", err)
			}
			_, err := f.client(f.root).CreateNetworkRule(rule)
			return err
		}},
		"400 Rejected.LimitExceeded": {func() error {
			_, err := f.client(f.root).CreateKey(&kms.CreateKeyRequest{KeySpec: tea.String("EC_P256")})
			return err
		}},
		"503 ServiceUnavailableTemporary": {
			func() error { return f.failing(hsm.ErrBusy) },
			func() error { return f.failing(hsm.ErrUnavailable) },
		},
		"500 InternalFailure": {
			func() error { return f.failing(errors.New("detail")) },
			func() error { return f.failing(hsmtest.ErrPanic) },
		},
		"400 DryRunOperationError": {
			func() error { return f.sign(f.root, dry) },
			func() error {
				_, err := f.client(f.root).GetPublicKey(
					&kms.GetPublicKeyRequest{KeyId: &f.key, KeyVersionId: &f.version, DryRun: tea.String("true")})
				return err
			},
			func() error {
				_, err := f.client(f.root).AsymmetricVerify(&kms.AsymmetricVerifyRequest{
					KeyId: &f.key, KeyVersionId: &f.version, Algorithm: tea.String("ECDSA_SHA_256"),
					Digest: b64(make([]byte, 32)), Value: tea.String("AAAA"), DryRun: tea.String("true"),
				})
				return err
			},
		},
		"400 ValidationError": {func() error {
			return f.sign(f.root, func(r *kms.AsymmetricSignRequest) { dry(r); r.KeyId = tea.String("none") })
		}},
		"403 AccessDeniedError": {func() error { return f.sign(nobody, dry) }},
	}
	for _, e := range ours.Errors() {
		name := fmt.Sprintf("%d %s", e.Status, e.Code)
		t.Run(name, func(t *testing.T) {
			if len(cases[name]) == 0 {
				t.Fatal("the test has no request that triggers this error")
			}
			for i, trigger := range cases[name] {
				err := trigger()
				got, requestId := errorCode(t, err)
				if got != name {
					t.Errorf("request %d: got %q with RequestId %q, want %q: %v", i, got, requestId, name, err)
				} else if !f.audited(requestId, e) && !limited.audited(requestId, e) {
					t.Errorf("request %d: the audit log has no line for RequestId %q", i, requestId)
				}
			}
		})
		delete(cases, name)
	}
	for name := range cases {
		t.Errorf("kms.Errors does not contain %s", name)
	}
	if err := f.sign(f.root, nil); err != nil {
		t.Errorf("signing after all errors: %v", err)
	}
}

// audited reports whether the audit log has a line for the request with the error's status and
// code. It waits up to 2 s, because the gateway answers unauthenticated requests before it writes
// their lines.
func (f *faulty) audited(requestId string, e ours.Error) bool {
	f.t.Helper()
	poll := time.NewTicker(10 * time.Millisecond)
	defer poll.Stop()
	for deadline := time.Now().Add(2 * time.Second); time.Now().Before(deadline); <-poll.C {
		content, err := os.ReadFile(f.auditLog)
		if err != nil {
			f.t.Fatal(err)
		}
		found := false
		err = audit.Read(bytes.NewReader(content), func(line audit.Line) error {
			entry := line.Entry
			found = found || entry != nil && requestId != "" && entry.RequestId == requestId &&
				entry.Status == e.Status && entry.Code == e.Code
			return nil
		})
		if err != nil {
			f.t.Fatal(err)
		}
		if found {
			return true
		}
	}
	return false
}

// errorCode returns the status and code of an SDK's error, such as "404 Forbidden.KeyNotFound", and
// its RequestId. It returns empty strings for other errors and for nil.
func errorCode(t *testing.T, err error) (statusAndCode, requestId string) {
	t.Helper()
	var newer *tea.SDKError
	var older *olderrors.ServerError
	switch {
	case errors.As(err, &newer):
		var data struct{ RequestId string }
		if err := json.Unmarshal([]byte(tea.StringValue(newer.Data)), &data); err != nil {
			t.Errorf("the SDK's data %q: %v", tea.StringValue(newer.Data), err)
		}
		return fmt.Sprintf("%d %s", tea.IntValue(newer.StatusCode), tea.StringValue(newer.Code)), data.RequestId
	case errors.As(err, &older):
		return fmt.Sprintf("%d %s", older.HttpStatus(), older.ErrorCode()), older.RequestId()
	}
	return "", ""
}
