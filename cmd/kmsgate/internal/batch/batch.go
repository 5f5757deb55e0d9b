// Package batch signs many digests or files that a list names, and proves afterwards what it
// signed.
//
// A list is lines of JSON, each a [Request]. Every line of the list has exactly one line in the
// output, a [Result], in the same order: a signature or a refusal. A run that was killed
// continues where the output ends. Only requests in flight, at most [Window], can be signed
// twice; the manifest names them. The manifest is signed by the instance's audit key, and
// [Verify] needs nothing but the files and that key. All of it takes constant memory.
package batch

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/signer"
	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/target"
	"github.com/kmsgate/kmsgate/gateway/kms"
	"github.com/kmsgate/kmsgate/hsm"
)

// Window is how many requests are in flight at once.
const Window = 16

// maxLine is the longest line of a list or an output, in bytes.
const maxLine = 64 << 10

// A Request is a line of a list. Digest or File is required.
type Request struct {
	Id        string `json:",omitempty"` // repeated in the result
	Key       string // a KeyId, an alias or an ARN
	Version   string `json:",omitempty"` // the newest if empty
	Algorithm string `json:",omitempty"` // the first of the KeySpec if empty
	Digest    string `json:",omitempty"` // 64 hexadecimal digits
	File      string `json:",omitempty"` // a path; it is hashed
	SM2Id     string `json:",omitempty"` // for File and SM2DSA
}

// A Result is a line of the output: a signature, or an error.
type Result struct {
	Line         int    // of the list, from 1 on
	Request      string // the SHA-256 of the list's line without its end, in hexadecimal
	Id           string `json:",omitempty"`
	KeyId        string `json:",omitempty"`
	KeyVersionId string `json:",omitempty"`
	Algorithm    string `json:",omitempty"`
	Digest       string `json:",omitempty"` // what is signed, in hexadecimal
	Signature    []byte `json:",omitempty"` // as the API has it
	Code         string `json:",omitempty"` // the API's error code, if the gateway refused
	Error        string `json:",omitempty"`
}

// A Runner runs a batch.
type Runner struct {
	Client   signer.Client
	In, Out  string // the paths of the list and of the output
	Progress func(done int)

	keys map[string]signer.Key // by Key, Version and Algorithm of requests
}

// maxKeys limits the keys that a Runner remembers.
const maxKeys = 10000

// sign answers one line of the list. An error means that the gateway does not answer: the line has
// no result yet.
func (r *Runner) sign(ctx context.Context, k signer.Key, result Result) (Result, error) {
	digest, err := hex.DecodeString(result.Digest)
	if err == nil {
		result.Signature, err = r.Client.Sign(ctx, k, digest)
	}
	return refused(result, err)
}

// refused adds a refusal to a result. It returns the error instead if waiting may help, or if it is
// about the whole batch: the user does not exist, or none was named.
func refused(result Result, err error) (Result, error) {
	var refusal *kms.Error
	switch {
	case err == nil:
		return result, nil
	case errors.Is(err, kms.ErrUserNotFound), errors.Is(err, kms.ErrNoPermission) && strings.Contains(err.Error(), "OnBehalfOf"):
		return result, err
	case errors.As(err, &refusal) && refusal.Status < 500:
		result.Code, result.Error = refusal.Code, refusal.Error()
		return result, nil
	}
	return result, err
}

// prepare reads a line of the list, and finds its key and its digest.
func (r *Runner) prepare(ctx context.Context, n int, line []byte) (Result, signer.Key, error) {
	sum := sha256.Sum256(line)
	result := Result{Line: n, Request: hex.EncodeToString(sum[:])}
	var request Request
	if err := decode(line, &request); err != nil {
		result.Error = fmt.Sprintf("the line is not a request: %v", err)
		return result, signer.Key{}, nil
	}
	result.Id = request.Id
	k, err := r.find(ctx, request)
	if err != nil {
		result, err := refused(result, err)
		return result, k, err
	}
	result.KeyId, result.KeyVersionId, result.Algorithm = k.KeyId, k.KeyVersionId, string(k.Algorithm)
	digest, err := digestOf(k, request)
	if err != nil {
		result.Error = err.Error()
		return result, k, nil
	}
	result.Digest = hex.EncodeToString(digest)
	return result, k, nil
}

func (r *Runner) find(ctx context.Context, request Request) (signer.Key, error) {
	name := request.Key + "\x00" + request.Version + "\x00" + request.Algorithm
	if k, ok := r.keys[name]; ok {
		return k, nil
	}
	k, err := r.Client.Find(ctx, request.Key, request.Version, request.Algorithm)
	if err == nil {
		if r.keys == nil || len(r.keys) >= maxKeys {
			r.keys = make(map[string]signer.Key)
		}
		r.keys[name] = k
	}
	var unfit *kms.Error
	if err != nil && !errors.As(err, &unfit) && !errors.Is(err, target.ErrUnreachable) && ctx.Err() == nil {
		err = kms.InvalidParameter("Algorithm", "%v", err)
	}
	return k, err
}

func digestOf(k signer.Key, request Request) ([]byte, error) {
	switch {
	case (request.Digest == "") == (request.File == ""):
		return nil, errors.New("the request must have either Digest or File")
	case request.Digest != "":
		digest, err := hex.DecodeString(request.Digest)
		if err != nil || len(digest) != hsm.DigestSize {
			return nil, fmt.Errorf("the Digest must have %d hexadecimal digits", 2*hsm.DigestSize)
		}
		return digest, nil
	}
	file, err := os.Open(request.File)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	if info, err := file.Stat(); err != nil || !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%q is not a regular file", request.File)
	}
	return k.Digest(file, request.SM2Id)
}

// decode decodes a line strictly: a misspelled member is an error.
func decode(line []byte, value any) error {
	d := json.NewDecoder(newReader(line))
	d.DisallowUnknownFields()
	if err := d.Decode(value); err != nil {
		return err
	}
	if d.More() {
		return errors.New("something follows the object")
	}
	return nil
}

// resumedPath is the path of the file that records the continuations of a batch.
func (r *Runner) resumedPath() string { return r.Out + ".resumed" }

// ManifestPath returns the path of the manifest beside an output.
func ManifestPath(out string) string { return out + ".manifest" }

// SignaturePath returns the path of the manifest's signature, in base64.
func SignaturePath(out string) string { return out + ".manifest.sig" }
