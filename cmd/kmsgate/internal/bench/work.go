package bench

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"sync"

	"github.com/kmsgate/kmsgate/gateway/kms"
	"github.com/kmsgate/kmsgate/hsm"
)

// An Operation is what the calls of a load do.
type Operation string

// The operations.
const (
	Sign      Operation = "sign"      // AsymmetricSign
	Verify    Operation = "verify"    // AsymmetricVerify of a valid signature
	PublicKey Operation = "publickey" // GetPublicKey
)

var Operations = []Operation{Sign, Verify, PublicKey}

// A Key is a key version that the calls use. Key has its KeySpec and its public key.
type Key struct {
	KeyId, KeyVersionId string
	Algorithm           hsm.Algorithm
	Key                 hsm.Key
}

// A Work is one operation with one key at one endpoint. Connect makes its callers. Every caller has its
// own digest, so an answer to another caller does not pass for a good one.
type Work struct {
	Endpoint  *Endpoint
	Operation Operation
	Key       Key

	mu      sync.Mutex
	samples []*sample // of each caller
}

// A sample holds some of the answers to one caller: the last of every interval.
type sample struct {
	digest   []byte
	answers  [][]byte
	seen     int
	interval int
}

// maxSamples is how many answers a sample holds at most.
const maxSamples = 32

// add keeps an answer, or not. When the sample is full, every other answer goes, so that those that
// stay are spread over the whole time.
func (s *sample) add(body []byte) {
	s.seen++
	if s.seen%s.interval != 0 {
		return
	}
	if len(s.answers) == maxSamples {
		for i := range maxSamples / 2 {
			s.answers[i] = s.answers[2*i+1]
		}
		s.answers = s.answers[:maxSamples/2]
		s.interval *= 2
		if s.seen%s.interval != 0 {
			return
		}
	}
	s.answers = append(s.answers, append([]byte(nil), body...))
}

// Connect returns a caller, for [Load.Run]. It makes one call, so that a mistake is found before the
// load.
func (w *Work) Connect(ctx context.Context, _ int) (Caller, error) {
	s := &sample{digest: make([]byte, hsm.DigestSize), interval: 1}
	_, _ = rand.Read(s.digest) // it never fails
	parameters := map[string]string{"KeyId": w.Key.KeyId, "KeyVersionId": w.Key.KeyVersionId}
	action := "GetPublicKey"
	if w.Operation != PublicKey {
		action = "AsymmetricSign"
		parameters["Algorithm"] = string(w.Key.Algorithm)
		parameters["Digest"] = base64.StdEncoding.EncodeToString(s.digest)
	}
	if w.Operation == Verify {
		signature, err := w.signature(ctx, parameters)
		if err != nil {
			return nil, err
		}
		action, parameters["Value"] = "AsymmetricVerify", signature
	}
	c := w.Endpoint.call(action, parameters, s.add)
	if err := c.Call(ctx); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.samples = append(w.samples, s)
	return c, nil
}

// signature has the endpoint sign, and returns the signature as the API has it.
func (w *Work) signature(ctx context.Context, parameters map[string]string) (string, error) {
	var body []byte
	c := w.Endpoint.call("AsymmetricSign", parameters, func(b []byte) { body = append(body, b...) })
	if err := errors.Join(c.Call(ctx), c.Close()); err != nil {
		return "", err
	}
	var answer struct{ Value string }
	if err := json.Unmarshal(body, &answer); err != nil {
		return "", fmt.Errorf("reading the answer to AsymmetricSign: %w", err)
	}
	return answer.Value, nil
}

// Check checks some answers to each caller, and returns how many. A signature must verify with the
// public key, AsymmetricVerify must have answered true, and GetPublicKey with the key.
func (w *Work) Check() (checked int, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, s := range w.samples {
		for _, body := range s.answers {
			if err := w.check(s.digest, body); err != nil {
				return checked, fmt.Errorf("checking the answer %.500q: %w", body, err)
			}
			checked++
		}
	}
	return checked, nil
}

func (w *Work) check(digest, body []byte) error {
	switch w.Operation {
	case Sign:
		var answer kms.AsymmetricSignResponse
		if err := json.Unmarshal(body, &answer); err != nil {
			return err
		}
		if valid, err := hsm.Verify(w.Key.Key, w.Key.Algorithm, digest, answer.Value); err != nil || !valid {
			return errors.Join(errors.New("the signature does not verify with the public key"), err)
		}
	case Verify:
		var answer kms.AsymmetricVerifyResponse
		if err := json.Unmarshal(body, &answer); err != nil || !answer.Value {
			return errors.Join(errors.New("AsymmetricVerify refused a signature that the endpoint made"), err)
		}
	case PublicKey:
		var answer kms.GetPublicKeyResponse
		if err := json.Unmarshal(body, &answer); err != nil {
			return err
		}
		if block, _ := pem.Decode([]byte(answer.PublicKey)); block == nil || string(block.Bytes) != string(w.Key.Key.Public) {
			return errors.New("the public key differs from the one read before the load")
		}
	}
	return nil
}
