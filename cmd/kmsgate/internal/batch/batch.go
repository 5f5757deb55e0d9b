// Package batch signs many digests or files that a list names, and proves afterwards what it
// signed.
//
// A list is lines of JSON, each a [Request]. Every line of the list gets one line in the output, a
// [Result], in the same order: a signature or a refusal. When the output is complete, the gateway
// attests a [Manifest] of both files, and [Verify] needs nothing but the files and the audit key's
// public half. All of it takes constant memory.
//
// # Kills and faults
//
// While a batch runs, its results are in a journal, OUT.partial, and OUT does not exist. A line is in
// flight from its request to the gateway until its result is flushed to the journal; at most
// [Window] lines are. A batch that ended early continues when it is run again: only lines that were
// in flight are signed twice. The journal records every start before the first request, so the
// manifest names those lines. In the gateway's audit log each signature has the batch and the line
// as its Reference.
//
// A refusal that waiting may change is no answer: a quota is waited for, and a gateway or a token
// that does not answer is waited for during [Patience], and then ends the run.
package batch

import (
	"cmp"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/signer"
	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/target"
	"github.com/kmsgate/kmsgate/gateway/kms"
	"github.com/kmsgate/kmsgate/hsm"
)

// Limits of a batch.
const (
	Window  = 32          // lines in flight
	MaxLine = 64 << 10    // bytes of a line of the list, without its end
	maxId   = 256         // bytes of a request's Id
	MaxKeys = kms.MaxList // key versions that sign

	// Patience is how long a run waits for a gateway or a token that does not answer.
	Patience = time.Minute
)

// A Request is a line of a list. Key is required, and either Digest or File.
type Request struct {
	Id        string `json:",omitempty"` // repeated in the result
	Key       string // a KeyId, an alias or an ARN
	Version   string `json:",omitempty"` // the newest at the start of the run if empty
	Algorithm string `json:",omitempty"` // the first of the KeySpec if empty
	Digest    string `json:",omitempty"` // 64 hexadecimal digits
	File      string `json:",omitempty"` // a path; the file is hashed
	SM2Id     string `json:",omitempty"` // for File and SM2DSA; hsm.DefaultSM2ID if empty
}

// A Result is a line of the output. Either Signature or Error is set.
type Result struct {
	Line         int    // of the list, from 1 on
	Request      string // the SHA-256 of the list's line without its end, in hexadecimal
	Id           string `json:",omitempty"`
	KeyId        string `json:",omitempty"`
	KeyVersionId string `json:",omitempty"`
	Algorithm    string `json:",omitempty"`
	Digest       string `json:",omitempty"` // what was signed, in hexadecimal
	Signature    []byte `json:",omitempty"` // as the API has it, in base64
	Code         string `json:",omitempty"` // the API's error code, if the gateway refused
	Error        string `json:",omitempty"`
}

// A signatory answers lines of a list. It is safe for concurrent use.
type signatory struct {
	client signer.Client
	batch  string // the id of the batch

	mu   sync.Mutex
	keys map[string]signer.Key // guarded by mu; by Key, Version and Algorithm of requests
	used map[string]bool       // guarded by mu; the ids of the key versions in keys
}

// answer answers a line. An error means that the line has no result: waiting may help, or the
// whole batch cannot go on.
func (s *signatory) answer(ctx context.Context, l line) (Result, signer.Key, error) {
	result := Result{Line: l.number, Request: l.hash}
	if l.text == nil {
		result.Error = fmt.Sprintf("the line has more than %d KiB", MaxLine>>10)
		return result, signer.Key{}, nil
	}
	var request Request
	if err := decode(l.text, &request); err != nil {
		result.Error = kms.ClipTo(kms.MaxReason, fmt.Sprintf("the line is not a request: %v", err))
		return result, signer.Key{}, nil
	}
	if len(request.Id) > maxId {
		result.Error = fmt.Sprintf("the Id has more than %d bytes", maxId)
		return result, signer.Key{}, nil
	}
	result.Id = request.Id
	k, err := s.find(ctx, request)
	if err != nil {
		err := result.refuse(err)
		return result, k, err
	}
	result.KeyId, result.KeyVersionId, result.Algorithm = k.KeyId, k.KeyVersionId, string(k.Algorithm)
	digest, err := digestOf(ctx, k, request)
	if err != nil {
		result.Error = kms.ClipTo(kms.MaxReason, err.Error())
		return result, k, ctx.Err()
	}
	result.Digest = hex.EncodeToString(digest)
	client := s.client
	client.Reference = reference(s.batch, l.number)
	result.Signature, err = sign(ctx, client, k, digest)
	if err != nil {
		err = result.refuse(err)
	}
	return result, k, err
}

// reference is what the audit log says that a signature belongs to.
func reference(batch string, line int) string { return fmt.Sprintf("batch %s line %d", batch, line) }

// The bounds of the wait between tries when a quota is used up.
const (
	minQuotaWait = 20 * time.Millisecond
	maxQuotaWait = time.Second
)

// sign signs a digest. It waits while a quota is used up: such a refusal comes before the signature.
func sign(ctx context.Context, c signer.Client, k signer.Key, digest []byte) ([]byte, error) {
	for wait := minQuotaWait; ; wait = min(2*wait, maxQuotaWait) {
		signature, err := c.Sign(ctx, k, digest)
		if !errors.Is(err, kms.ErrThrottling) {
			return signature, err
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// refuse makes an error the result of a line. It returns the error instead if it is not about this
// line alone.
func (r *Result) refuse(err error) error {
	var refusal *kms.Error
	var unfit *signer.UnfitError
	switch {
	case errors.As(err, &unfit):
		r.Error = kms.ClipTo(kms.MaxReason, unfit.Error())
	case !errors.As(err, &refusal), refusal.Status >= 500, errors.Is(err, kms.ErrThrottling),
		errors.Is(err, kms.ErrUserNotFound), signer.IsForNobody(err):
		return err
	default:
		r.Code, r.Error = refusal.Code, kms.ClipTo(kms.MaxReason, refusal.Error())
	}
	return nil
}

// mayPass reports whether an error of a gateway is one that waiting may change.
func mayPass(err error) bool {
	var refusal *kms.Error
	var connection *url.Error
	if errors.As(err, &refusal) {
		return refusal.Status >= 500 || errors.Is(err, kms.ErrThrottling)
	}
	return errors.As(err, &connection) || errors.Is(err, target.ErrUnreachable)
}

// find returns the key of a request. It remembers keys, so that all requests of a run that name no
// version get the same one.
func (s *signatory) find(ctx context.Context, request Request) (signer.Key, error) {
	name := request.Key + "\x00" + request.Version + "\x00" + request.Algorithm
	s.mu.Lock()
	defer s.mu.Unlock() // also while the gateway answers: the next line most likely has the same key
	if k, ok := s.keys[name]; ok {
		return k, nil
	}
	k, err := s.client.Find(ctx, request.Key, request.Version, request.Algorithm)
	if err != nil {
		return k, err
	}
	if !s.used[k.KeyVersionId] && len(s.used) >= MaxKeys {
		return k, &signer.UnfitError{Reason: fmt.Sprintf("%d other key versions sign in this batch: split the list", MaxKeys)}
	}
	if len(s.keys) >= maxNames {
		clear(s.keys)
	}
	s.used[k.KeyVersionId], s.keys[name] = true, k
	return k, nil
}

// maxNames limits the requests whose key is remembered: a key has many names.
const maxNames = 1000

func digestOf(ctx context.Context, k signer.Key, request Request) ([]byte, error) {
	switch {
	case (request.Digest == "") == (request.File == ""):
		return nil, errors.New("the request must have either Digest or File")
	case request.Digest != "" && request.SM2Id != "":
		return nil, errors.New("SM2Id and Digest exclude each other: the digest contains the id")
	case request.SM2Id != "" && k.Spec() != hsm.EC_SM2:
		return nil, fmt.Errorf("SM2Id is for SM2, and this key is %s", k.Spec())
	case request.Digest != "":
		digest, err := hex.DecodeString(request.Digest)
		if err != nil || len(digest) != hsm.DigestSize {
			return nil, fmt.Errorf("the Digest must have %d hexadecimal digits", 2*hsm.DigestSize)
		}
		return digest, nil
	}
	return hashFile(ctx, hsm.Key{Spec: k.Spec(), Public: k.Public()}, k.Algorithm, request)
}

// hashFile returns the digest of the file of a request, which must be regular. It does not wait for
// the writer of a pipe, and ends with ctx.
func hashFile(ctx context.Context, k hsm.Key, alg hsm.Algorithm, request Request) ([]byte, error) {
	h, err := hsm.NewDigest(k, alg, cmp.Or(request.SM2Id, hsm.DefaultSM2ID))
	if err != nil {
		return nil, err
	}
	file, err := os.OpenFile(request.File, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	if info, err := file.Stat(); err != nil || !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%q is not a regular file", request.File)
	}
	_, err = io.Copy(h, reader(func(b []byte) (int, error) {
		if err := ctx.Err(); err != nil {
			return 0, err
		}
		return file.Read(b)
	}))
	return h.Sum(nil), err
}

type reader func(b []byte) (int, error)

func (r reader) Read(b []byte) (int, error) { return r(b) }
