package batch

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/attestation"
	"github.com/kmsgate/kmsgate/gateway/kms"
	"github.com/kmsgate/kmsgate/hsm"
)

// A forgery is an output with its manifest, on its way to be attested.
type forgery struct {
	results  []Result
	manifest Manifest
	edit     func(out []byte) []byte // of the output's text
}

// TestForgedBatch verifies outputs that are attested, and yet are wrong: who may attest can choose
// what.
func TestForgedBatch(t *testing.T) {
	b := newBench(t)
	file := filepath.Join(t.TempDir(), "file")
	b.write(file, []byte("content"))
	list := []string{
		requestLine(0),
		`{"Key": "acs:kms:cn-hangzhou:1000000000000001:key/k", "Digest": "` + strings.Repeat("0", 64) + `", "Version": "v", "Algorithm": "ECDSA_SHA_256"}`,
		`{"Key": "k", "File": "` + file + `"}`,
		`{"Id": "refused", "Key": "none", "Digest": "` + strings.Repeat("0", 64) + `"}`,
	}
	r := b.runnerOf(list...)
	if _, err := r.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	b.proven(r)
	var original forgery
	for _, text := range bytes.Split(bytes.TrimSpace(b.read(r.Out)), []byte("\n")) {
		var result Result
		if err := json.Unmarshal(text, &result); err != nil {
			t.Fatal(err)
		}
		original.results = append(original.results, result)
	}
	text := b.read(ManifestPath(r.Out))
	other := make([]byte, hsm.DigestSize)
	other[0] = 1
	signature, err := b.Backend.Sign(t.Context(), b.Key, hsm.ECDSA_SHA_256, other)
	if err != nil {
		t.Fatal(err)
	}
	for want, forge := range map[string]func(f *forgery){
		"": func(*forgery) {}, // the forgery of nothing is proven
		"another digest": func(f *forgery) {
			f.results[0].Digest, f.results[0].Signature = hex.EncodeToString(other), signature
		},
		"is not what was signed": func(f *forgery) {
			f.results[2].Digest, f.results[2].Signature = hex.EncodeToString(other), signature
		},
		"its Id is \"9\"":     func(f *forgery) { f.results[0].Id = "9" },
		"its Id is \"other\"": func(f *forgery) { f.results[3].Id = "other" },
		"is not valid":        func(f *forgery) { f.results[0].Algorithm = "SM2DSA" },
		"the signature is not valid": func(f *forgery) {
			f.results[0].Signature = append(bytes.Clone(f.results[0].Signature[:len(signature)-4]), 1, 2, 3, 4)
		},
		"is not in the manifest": func(f *forgery) { f.results[0].KeyVersionId = "w" },
		"is of key k, not of l":  func(f *forgery) { f.results[0].KeyId = "l" },
		"does not attest":        func(f *forgery) { f.manifest.Keys[0].KeyId = "l" },
		"names \"alias/a\"": func(f *forgery) {
			f.manifest.Keys[0].Names = []string{"k", "acs:kms:cn-hangzhou:1000000000000001:key/k"}
		},
		"counts":                        func(f *forgery) { f.manifest.Signed, f.manifest.Refused = 2, 2 },
		"are not those of the output":   func(f *forgery) { f.manifest.Runs = []Run{} },
		"made 3 signatures, not 2":      func(f *forgery) { f.manifest.Keys[0].Signatures = 2 },
		"the list is not the one":       func(f *forgery) { f.manifest.Requests = strings.Repeat("0", 64) },
		"made 2 signatures, not 3":      func(f *forgery) { f.results = f.results[:2] },
		"not the result of its line":    func(f *forgery) { f.results[0], f.results[1] = f.results[1], f.results[0] },
		"not answer this line":          func(f *forgery) { f.results[0].Request = f.results[1].Request },
		"both a signature and an error": func(f *forgery) { f.results[0].Error = "x" },
		"in another form": func(f *forgery) {
			f.edit = func(out []byte) []byte {
				return bytes.Replace(out, []byte(`"Digest":`), []byte(`"digest":"00","Digest":`), 1)
			}
		},
	} {
		f := forgery{results: append([]Result{}, original.results...), edit: func(out []byte) []byte { return out }}
		var err error
		if f.manifest, err = decodeManifest(text); err != nil {
			t.Fatal(err)
		}
		forge(&f)
		got := b.verifyForgery(r.In, f)
		if want == "" && got != nil || want != "" && (got == nil || !strings.Contains(got.Error(), want)) {
			t.Errorf("%q: got %v", want, got)
		}
	}
	b.Attested = func(a *kms.Attestation) { a.Instance = "other" }
	f := forgery{results: original.results, edit: func(out []byte) []byte { return out }}
	if f.manifest, err = decodeManifest(text); err != nil {
		t.Fatal(err)
	}
	if got := b.verifyForgery(r.In, f); got == nil || !strings.Contains(got.Error(), "and other attests it") {
		t.Errorf("another instance: got %v", got)
	}
}

// verifyForgery has the gateway attest a forgery, and verifies it.
func (b *bench) verifyForgery(list string, f forgery) error {
	b.t.Helper()
	var forged []byte
	for _, result := range f.results {
		forged = append(append(forged, noError(json.Marshal(result))...), '\n')
	}
	forged = f.edit(forged)
	sum := sha256.Sum256(forged)
	f.manifest.Results = hex.EncodeToString(sum[:])
	out := filepath.Join(b.t.TempDir(), "out")
	b.write(out, forged)
	if _, err := attestation.Write(b.t.Context(), b, attestation.Batch, ManifestPath(out), noError(encodeManifest(f.manifest)), nil, false); err != nil {
		b.t.Fatal(err)
	}
	_, err := Verifier{Key: &b.Audit.PublicKey, Files: true}.Verify(b.t.Context(), list, out)
	return err
}

// TestSpans keeps few spans, and all lines.
func TestSpans(t *testing.T) {
	var s spans
	for i := range 3 * maxSpans {
		s.add(10*i+1+i%3, 10*i+2+i%3)
	}
	s.add(5, 4)
	if len(s) > maxSpans {
		t.Errorf("got %d spans, want at most %d", len(s), maxSpans)
	}
	for i := range 3 * maxSpans {
		if line := 10*i + 1 + i%3; !slices.ContainsFunc(s, func(s Span) bool { return s.From <= line && line+1 <= s.To }) {
			t.Fatalf("lines %d and %d are lost", line, line+1)
		}
	}
}

// TestMayName: a KeyId, alone or in an ARN, names only its key.
func TestMayName(t *testing.T) {
	const arn = "acs:kms:cn-hangzhou:1000000000000001:"
	for text, want := range map[string]bool{"k": true, "k2": false, arn + "key/k": true, arn + "key/k2": false, "key/k": false,
		"alias/k": true, arn + "alias/k": true, "alias": false, "": false} {
		if got := mayName(text, "k"); got != want {
			t.Errorf("%q: got %v, want %v", text, got, want)
		}
	}
}

// TestForms reads a result and a manifest as they were when the format was new. If this fails because
// encoding/json writes them in another form, the check of the form must accept both.
func TestForms(t *testing.T) {
	const result = `{"Line":1,"Request":"aa","Id":"\u003c\u2028\u0001\b\t\"\\é","KeyId":"k","Signature":"AQI=","Error":"e"}`
	var r Result
	if err := attestation.DecodeExact([]byte(result), &r, json.Marshal); err != nil || r.Id != "<\u2028\u0001\b\t\"\\é" {
		t.Errorf("got %+v, %v", r, err)
	}
	m, err := decodeManifest(firstManifest)
	if err != nil || m.Lines != 2 || m.Keys[0].Names[0] != "alias/a" || m.Again[0].To != 2 || m.Began.IsZero() {
		t.Errorf("got %+v, %v", m, err)
	}
}

var firstManifest = []byte(`{
  "Format": "kmsgate batch 1",
  "Batch": "b",
  "Instance": "i",
  "Began": "2026-11-30T07:44:36.12Z",
  "Ended": "2026-11-30T07:44:37Z",
  "Lines": 2,
  "Signed": 1,
  "Refused": 1,
  "Requests": "aa",
  "Results": "bb",
  "Keys": [
    {
      "KeyId": "k",
      "KeyVersionId": "v",
      "KeySpec": "EC_P256",
      "PublicKey": "AQI=",
      "Names": [
        "alias/a"
      ],
      "Signatures": 1
    }
  ],
  "Runs": [
    {
      "Time": "2026-11-30T07:44:36.5Z",
      "After": 0
    }
  ],
  "Again": [
    {
      "From": 1,
      "To": 2
    }
  ]
}
`)
