package gateway_test

import (
	"bufio"
	"bytes"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"

	"github.com/kmsgate/kmsgate/gateway/nativepb"
	"github.com/kmsgate/kmsgate/hsm"
	"github.com/kmsgate/kmsgate/store"
)

// TestNativeVectors replays requests of the KMS Instance SDK and the transfer SDK at the time when
// they were made, to a gateway that has the keys that the requests name.
func TestNativeVectors(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	const keyId, keyVersionId = "5c438b18-05be-40ad-b6c2-3be6752c0000", "2ab1a983-7072-4bbc-a582-584b5bd80000"
	b.newAccessPoint("app", []string{"key/*"})
	b.vectorKey(keyId, keyVersionId)
	text, err := os.ReadFile("acs/testdata/dkms-client-public-key.pem")
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(text)
	public, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	const id = "KAAP.00000000-1111-2222-3333-444444444444"
	now := b.clock.Now()
	b.putClientKey(store.ClientKey{
		ClientKeyId: id,
		AapName:     "app",
		Certificate: certify(t, id, public.(*rsa.PublicKey)),
		NotBefore:   now,
		NotAfter:    now.Add(time.Hour),
	})
	answered := 0
	for i, v := range nativeVectors(t) {
		r, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(v.Raw)))
		if err != nil {
			t.Fatal(err)
		}
		message, err := io.ReadAll(r.Body)
		if err != nil {
			t.Fatal(err)
		}
		body := bytes.NewReader(message)
		sent, err := http.NewRequestWithContext(t.Context(), r.Method, b.http.URL+r.RequestURI, body)
		if err != nil {
			t.Fatal(err)
		}
		sent.Header = r.Header
		var resp proto.Message = map[string]proto.Message{
			"Sign":           new(nativepb.SignResponse),
			"Verify":         new(nativepb.VerifyResponse),
			"GetPublicKey":   new(nativepb.GetPublicKeyResponse),
			"GenerateRandom": new(nativepb.GenerateRandomResponse),
		}[r.Header.Get("x-kms-apiname")]
		status, code := 200, ""
		switch {
		case strings.Contains(v.Name, "errors"): // these requests name keys that do not exist
			status, code = 404, "Forbidden.KeyNotFound"
		case strings.Contains(v.Name, "ecdsa"): // these requests expect a key of another KeySpec
			status, code = 400, "InvalidParameter"
		default:
			answered++
		}
		if a := b.want(b.nativeRoundTrip(b.http.Client(), sent, resp), status, code); a.Status != 200 {
			continue
		}
		if got, ok := resp.(interface{ GetKeyId() string }); ok && got.GetKeyId() != keyId {
			t.Errorf("vector %d: %v, want KeyId %q", i, resp, keyId)
		}
	}
	if answered < 4 {
		t.Errorf("%d vectors succeed, want 4 or more", answered)
	}
}

// vectorKey makes an RSA_2048 key with the given ids, for requests recorded with those ids.
func (b *bench) vectorKey(keyId, keyVersionId string) {
	b.t.Helper()
	k := b.newPair(hsm.RSA_2048)
	err := b.db.Update(func(tx *store.Tx) error {
		key, err := tx.Keys().Get(k.KeyId)
		if err != nil {
			return err
		}
		key.KeyId = keyId
		id := uuid.MustParse(keyVersionId)
		pair, err := b.backend.Generate(b.t.Context(), hsm.RSA_2048, id[:])
		version := store.KeyVersion{KeyId: keyId, KeyVersionId: keyVersionId, Key: pair}
		return errors.Join(err, tx.Keys().Put(key), tx.Versions().Put(version))
	})
	if err != nil {
		b.t.Fatal(err)
	}
}

// A nativeVector is a request that an official client sent.
type nativeVector struct {
	Name, Protocol string
	Raw            []byte
}

func nativeVectors(t testing.TB) (all []nativeVector) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("acs", "testdata", "vectors.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	for d := json.NewDecoder(bytes.NewReader(text)); ; {
		var v nativeVector
		if err := d.Decode(&v); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		if v.Protocol == "DKMS-GCS" {
			all = append(all, v)
		}
	}
}
