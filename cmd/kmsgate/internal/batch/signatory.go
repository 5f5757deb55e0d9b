package batch

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/signer"
	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/target"
	"github.com/kmsgate/kmsgate/gateway/kms"
	"github.com/kmsgate/kmsgate/hsm"
)

// A signatory answers lines of a list. It is safe for concurrent use.
type signatory struct {
	client  signer.Client
	journal *journal
	waiting func(err error) // called before a wait for the gateway, not too often

	mu    sync.Mutex
	keys  map[name]*lookup // guarded by mu
	found int              // guarded by mu; the lookups that have succeeded

	noticing sync.Mutex
	noticed  time.Time // guarded by noticing; when waiting was last called
}

// A name is how a request names a key version and an algorithm.
type name struct{ Key, Version, Algorithm string }

// A lookup is the search for a key. It is shared by all lines that want the same key.
type lookup struct {
	ready chan struct{} // closed when the others are set
	key   signer.Key
	err   error
}

// newSignatory returns a signatory that uses the keys that a journal already has.
func newSignatory(c signer.Client, j *journal, waiting func(err error)) (*signatory, error) {
	s := &signatory{client: c, journal: j, waiting: waiting, keys: make(map[name]*lookup)}
	for _, u := range j.uses {
		k, err := signer.NewKey(u.KeyId, u.KeyVersionId, u.Signs, u.PublicKey)
		if err != nil {
			return nil, fmt.Errorf("reading the journal of the batch: %w", err)
		}
		found := &lookup{ready: make(chan struct{}), key: k}
		close(found.ready)
		s.keys[u.Name] = found
		s.found++
	}
	return s, nil
}

// answer answers a line. An error means that the line has no result.
func (s *signatory) answer(ctx context.Context, l line) (Result, error) {
	result := Result{Line: l.number, Request: l.hash}
	if l.text == nil {
		result.refuse(fmt.Errorf("the line has more than %d KiB", MaxLine>>10))
		return result, nil
	}
	request, err := decodeRequest(l.text)
	if err != nil {
		result.refuse(fmt.Errorf("the line is not a request: %w", err))
		return result, nil
	}
	result.Id = request.Id
	k, err := s.find(ctx, name{request.Key, request.Version, request.Algorithm})
	if isRefusal(err) {
		result.refuse(err)
		return result, nil
	}
	if err != nil {
		return result, err
	}
	result.KeyId, result.KeyVersionId, result.Algorithm = k.KeyId, k.KeyVersionId, string(k.Algorithm)
	digest, err := request.digest(ctx, hsm.Key{Spec: k.Spec(), Public: k.Public()}, k.Algorithm)
	if err != nil {
		result.refuse(err)
		return result, ctx.Err()
	}
	result.Digest = hex.EncodeToString(digest)
	client := s.client
	client.Reference = reference(s.journal.begin.Batch, l.number)
	err = s.call(ctx, l.number, func() (err error) {
		result.Signature, err = client.Sign(ctx, k, digest)
		return err
	})
	if isRefusal(err) {
		result.refuse(err)
		return result, nil
	}
	return result, err
}

// isRefusal reports whether an error is about one line alone, and so its result. An internal failure
// is one: the gateway answers, and has been asked again during Patience.
func isRefusal(err error) bool {
	var refusal *kms.Error
	var unfit *signer.UnfitError
	if errors.As(err, &unfit) {
		return true
	}
	return errors.As(err, &refusal) && refusal.Status != http.StatusServiceUnavailable &&
		!errors.Is(err, kms.ErrUserNotFound) && !signer.IsForNobody(err)
}

// mayPass reports whether an error of a gateway is one that waiting may change.
func mayPass(err error) bool {
	var refusal *kms.Error
	var connection *net.OpError
	if errors.As(err, &refusal) {
		return refusal.Status >= http.StatusInternalServerError || errors.Is(err, kms.ErrThrottling)
	}
	return errors.Is(err, kms.ErrNoAnswer) || errors.Is(err, target.ErrUnreachable) || errors.As(err, &connection)
}

// canHaveSigned reports whether a gateway that failed with an error that may pass can have signed
// before. It reads a quota and refuses a connection before it signs.
func canHaveSigned(err error) bool {
	var refusal *kms.Error
	return errors.Is(err, kms.ErrNoAnswer) || errors.As(err, &refusal) && !errors.Is(err, kms.ErrThrottling)
}

// The bounds of the wait between two tries.
const (
	minWait = 20 * time.Millisecond
	maxWait = time.Second
)

// call asks the gateway until it answers. It waits for a quota as long as that takes, and otherwise
// for Patience. number is that of the line if the gateway signs it, else 0.
func (s *signatory) call(ctx context.Context, number int, ask func() error) error {
	var failing time.Time // since when; zero if the gateway answers
	for wait := minWait; ; wait = min(2*wait, maxWait) {
		asked := time.Now()
		err := ask()
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil: // whatever the answer is, it may be about that
			return ctx.Err()
		case !mayPass(err):
			return err
		}
		if number > 0 && canHaveSigned(err) {
			if err := s.journal.append(record{Again: &Span{number, number}}); err != nil {
				return err
			}
		}
		switch {
		case errors.Is(err, kms.ErrThrottling):
			failing = time.Time{}
		case failing.IsZero():
			failing = asked
			s.notice(err)
		}
		if !failing.IsZero() && time.Since(failing) >= Patience {
			return err
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// noticeInterval is the shortest time between two calls of waiting.
const noticeInterval = 10 * time.Second

func (s *signatory) notice(err error) {
	s.noticing.Lock()
	defer s.noticing.Unlock()
	if s.waiting != nil && time.Since(s.noticed) >= noticeInterval {
		s.noticed = time.Now()
		s.waiting(err)
	}
}

// find returns the key of a name. All lines with the same name get the same key, in every run of the
// batch, even if somebody moves an alias or creates a version.
func (s *signatory) find(ctx context.Context, n name) (signer.Key, error) {
	s.mu.Lock()
	l := s.keys[n]
	mine := l == nil
	if mine {
		if s.found >= MaxNames {
			s.mu.Unlock()
			return signer.Key{}, &signer.UnfitError{Reason: fmt.Sprintf("requests name keys in %d other ways: split the list", MaxNames)}
		}
		l = &lookup{ready: make(chan struct{})}
		s.keys[n] = l
	}
	s.mu.Unlock()
	if !mine {
		select {
		case <-l.ready:
			return l.key, l.err
		case <-ctx.Done():
			return signer.Key{}, ctx.Err()
		}
	}
	l.key, l.err = s.lookUp(ctx, n)
	s.mu.Lock()
	if l.err == nil {
		s.found++
	} else {
		delete(s.keys, n) // a later line may find it
	}
	s.mu.Unlock()
	close(l.ready)
	return l.key, l.err
}

// lookUp asks the gateway for a key and records it.
func (s *signatory) lookUp(ctx context.Context, n name) (k signer.Key, err error) {
	err = s.call(ctx, 0, func() (err error) {
		k, err = s.client.Find(ctx, n.Key, n.Version, n.Algorithm)
		return err
	})
	if err != nil {
		return k, err
	}
	k.Name = k.KeyId // an alias may be moved
	return k, s.journal.use(use{Name: n, Signs: string(k.Algorithm),
		Key: Key{KeyId: k.KeyId, KeyVersionId: k.KeyVersionId, KeySpec: string(k.Spec()), PublicKey: k.Public()}})
}
