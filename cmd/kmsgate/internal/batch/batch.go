// Package batch signs many digests or files that a list names, and proves afterwards what it
// signed.
//
// A list is lines of JSON, each a [Request]. Every line of the list gets one line in the output, a
// [Result], in the same order: a signature or a refusal. When the output is complete, the gateway
// attests a [Manifest] of both files, and a [Verifier] needs nothing but the files and the audit
// key's public half. The memory does not depend on the length of the list.
//
// # Kills and faults
//
// While a batch runs, its results are in a journal, OUT.partial, the list that it began with is in
// OUT.partial.list, and OUT does not exist. A line is in flight from its request to the gateway
// until its result is flushed to the journal. Lines in flight are fewer than [Window] lines apart. A
// batch that ended early continues when it is run again. Only lines that were in flight can be signed
// again, and so can lines for which the gateway failed to answer, or answered that it or its token
// is unavailable. The journal has each start before its first request, and each such line before it
// is asked for again, so the manifest names them all. In the gateway's audit log each signature has
// the batch and the line as its Reference.
//
// A quota is waited for. A gateway or a token that is unavailable is waited for during [Patience],
// and then ends the run. A line to which the gateway answers with an internal failure for as long is
// refused.
package batch

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/kmsgate/kmsgate/gateway/kms"
)

// Limits of a batch.
const (
	Window   = 32          // lines in flight
	MaxLine  = 64 << 10    // bytes of a line of the list, without its end
	MaxKeys  = kms.MaxList // key versions that sign
	MaxNames = 1000        // ways in which requests name keys: Key, Version and Algorithm
	maxId    = 256         // bytes of a request's Id

	// Patience is how long a run waits for a gateway or a token that does not answer.
	Patience = time.Minute
)

// A Result is a line of the output. Either Signature or Error is set.
type Result struct {
	Line         int    // of the list, from 1 on
	Request      string // the SHA-256 of the list's line without its end, in hexadecimal
	Id           string `json:",omitempty"`
	KeyId        string `json:",omitempty"`
	KeyVersionId string `json:",omitempty"`
	Algorithm    string `json:",omitempty"`
	Digest       string `json:",omitempty"` // what was signed or refused, in hexadecimal
	Signature    []byte `json:",omitempty"` // as the API has it, in base64
	Code         string `json:",omitempty"` // the API's error code, if the gateway refused
	Error        string `json:",omitempty"` // clipped to kms.MaxReason bytes
}

// refuse makes an error the result.
func (r *Result) refuse(err error) {
	var refusal *kms.Error
	if errors.As(err, &refusal) {
		r.Code = refusal.Code
	}
	// Without half a character at its end: JSON would change that.
	r.Error = strings.ToValidUTF8(kms.ClipTo(kms.MaxReason, err.Error()), "")
}

// reference is what the audit log says that a signature belongs to.
func reference(batch string, line int) string { return fmt.Sprintf("batch %s line %d", batch, line) }
