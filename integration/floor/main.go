// Command floor serves AsymmetricSign, AsymmetricVerify and GetPublicKey with what every server of the
// API must do: net/http, TLS, the check of the request's signature, and JSON. It has no audit log, no
// policies, no records and no token. So the distance to it is what the gateway's guarantees cost.
//
// Its answers are right. It signs in this process, once for each digest, and remembers the signature,
// so that a signature costs nothing. Never use it for anything but measuring.
//
//	floor --dir DIR
//
// It writes DIR/ca.pem and, when it serves, DIR/env, as kmsgate dev does. SIGINT and SIGTERM end it.
package main

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/google/uuid"

	"github.com/kmsgate/kmsgate/gateway/acs"
	"github.com/kmsgate/kmsgate/gateway/kms"
	"github.com/kmsgate/kmsgate/hsm"
	"github.com/kmsgate/kmsgate/hsm/privatekey"
	"github.com/kmsgate/kmsgate/internal/ca"
	"github.com/kmsgate/kmsgate/internal/printable"
)

func main() {
	dir := flag.String("dir", "", "`DIR` for the files ca.pem, ca-key.pem and env")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *dir); err != nil {
		fmt.Fprintln(os.Stderr, "floor:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, dir string) (err error) {
	if dir == "" {
		return errors.New("--dir is missing")
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	authority, err := ca.Create(filepath.Join(dir, "ca.pem"), filepath.Join(dir, "ca-key.pem"))
	if err != nil {
		return err
	}
	certificate, err := authority.Issue([]string{"127.0.0.1"}, time.Now())
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	f, err := newFloor()
	if err != nil {
		return errors.Join(err, l.Close())
	}
	env := filepath.Join(dir, "env")
	if err := os.WriteFile(env, []byte(f.environment(l.Addr().String(), filepath.Join(dir, "ca.pem"))), 0o600); err != nil {
		return errors.Join(err, l.Close())
	}
	defer func() { err = errors.Join(err, os.Remove(env)) }()
	server := &http.Server{Handler: f, TLSConfig: &tls.Config{Certificates: []tls.Certificate{certificate}, NextProtos: []string{"http/1.1"}}}
	context.AfterFunc(ctx, func() { _ = server.Close() })
	if err := server.ServeTLS(l, "", ""); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// A floor is the server.
type floor struct {
	accessKeyId string
	secret      *acs.Secret
	keys        map[string]privatekey.Key // by KeyId
	signatures  sync.Map                  // by KeyId, algorithm and digest
}

func newFloor() (*floor, error) {
	f := &floor{accessKeyId: "LTAI" + rand.Text()[:20], secret: acs.NewSecret(rand.Text()), keys: make(map[string]privatekey.Key)}
	for _, spec := range hsm.KeySpecs() {
		if spec == hsm.RSA_4096 { // making one takes seconds
			continue
		}
		k, err := privatekey.New(spec)
		if err != nil {
			return nil, err
		}
		f.keys[aliasOf(spec)] = k
	}
	return f, nil
}

// aliasOf returns the alias that kmsgate dev creates for its key of a KeySpec. It is the KeyId here.
func aliasOf(spec hsm.KeySpec) string {
	return "alias/dev-" + strings.ToLower(strings.ReplaceAll(string(spec), "_", "-"))
}

// versionId is the id of the version of every key.
const versionId = "a5d5a1f2-7e8c-4c40-9d3e-4f2f0e1d2c3b"

// environment returns the commands that export what a client needs, as kmsgate dev writes them.
func (f *floor) environment(address, caFile string) string {
	variables := [][2]string{
		{"KMSGATE_ENDPOINT", address}, {"KMSGATE_CA_FILE", caFile},
		{"ALIBABA_CLOUD_ACCESS_KEY_ID", f.accessKeyId}, {"ALIBABA_CLOUD_ACCESS_KEY_SECRET", f.secret.Text()},
	}
	for keyId, k := range f.keys {
		variables = append(variables, [2]string{"KMSGATE_KEY_" + string(k.Spec()), keyId})
	}
	text := ""
	for _, v := range variables {
		text += "export " + v[0] + "=" + printable.Shell(v[1]) + "\n"
	}
	return text
}

// maxBody limits the body of a request, in bytes.
const maxBody = 64 << 10

// ServeHTTP implements http.Handler.
func (f *floor) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	answer, err := f.answer(r)
	var refusal *kms.Error
	switch {
	case errors.As(err, &refusal):
		send(w, refusal.Status, kms.ErrorBody{Code: refusal.Code, Message: refusal.Message})
	case err != nil:
		send(w, http.StatusBadRequest, kms.ErrorBody{Code: "InvalidParameter", Message: err.Error()})
	default:
		send(w, http.StatusOK, answer)
	}
}

func send(w http.ResponseWriter, status int, body any) {
	text, err := json.Marshal(body)
	if err != nil {
		status, text = http.StatusInternalServerError, nil
	}
	w.Header().Set("Content-Type", "application/json;charset=utf-8")
	w.WriteHeader(status)
	_, _ = w.Write(text) // the client may be gone
}

// answer checks the signature of a request and returns the answer.
func (f *floor) answer(r *http.Request) (any, error) {
	body, err := io.ReadAll(io.LimitReader(r.Body, maxBody))
	if err != nil {
		return nil, err
	}
	claim, err := acs.Parse(r, string(body))
	if err != nil {
		return nil, err
	}
	if claim.AccessKeyId != f.accessKeyId || !claim.VerifySecret(f.secret) {
		return nil, kms.ErrSignatureMismatch
	}
	p := claim.Parameters()
	k, ok := f.keys[p["KeyId"]]
	if !ok {
		return nil, kms.ErrKeyNotFound
	}
	result := kms.Result{RequestId: uuid.NewString()}
	switch claim.Action {
	case "ListKeyVersions":
		a := kms.ListKeyVersionsResponse{Result: result, PageInfo: kms.PageInfo{TotalCount: 1, PageNumber: 1, PageSize: 100}}
		a.KeyVersions.KeyVersion = []kms.KeyVersionItem{{KeyId: p["KeyId"], KeyVersionId: versionId}}
		return a, nil
	case "GetPublicKey":
		return kms.GetPublicKeyResponse{Result: result, KeyId: p["KeyId"], KeyVersionId: versionId, PublicKey: hsm.PublicKeyPEM(k.Public())}, nil
	case "AsymmetricSign":
		signature, err := f.sign(k, p)
		return kms.AsymmetricSignResponse{Result: result, KeyId: p["KeyId"], KeyVersionId: versionId, Value: signature}, err
	case "AsymmetricVerify":
		valid, err := verify(k, p)
		return kms.AsymmetricVerifyResponse{Result: result, KeyId: p["KeyId"], KeyVersionId: versionId, Value: valid}, err
	}
	return nil, errors.New("the floor has no such operation")
}

// sign returns the signature of a digest, which it makes only once.
func (f *floor) sign(k privatekey.Key, p map[string]string) ([]byte, error) {
	digest, err := base64.StdEncoding.DecodeString(p["Digest"])
	if err != nil {
		return nil, err
	}
	id := p["KeyId"] + "\x00" + p["Algorithm"] + "\x00" + string(digest)
	if made, ok := f.signatures.Load(id); ok {
		return made.([]byte), nil
	}
	signature, err := k.Sign(hsm.Algorithm(p["Algorithm"]), digest)
	if err == nil {
		f.signatures.Store(id, signature)
	}
	return signature, err
}

// verify verifies a signature each time: that is the operation.
func verify(k privatekey.Key, p map[string]string) (bool, error) {
	digest, err := base64.StdEncoding.DecodeString(p["Digest"])
	if err != nil {
		return false, err
	}
	signature, err := base64.StdEncoding.DecodeString(p["Value"])
	if err != nil {
		return false, err
	}
	return hsm.Verify(hsm.Key{Spec: k.Spec(), Public: k.Public()}, hsm.Algorithm(p["Algorithm"]), digest, signature)
}
