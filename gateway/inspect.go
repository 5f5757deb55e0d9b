package gateway

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"slices"
	"strconv"
	"time"

	"github.com/kmsgate/kmsgate/gateway/kms"
	"github.com/kmsgate/kmsgate/hsm"
	"github.com/kmsgate/kmsgate/store"
)

// inspectTime is how long the token may take to be looked through: 60,000 objects
// take 12 s on SoftHSM.
const inspectTime = 45 * time.Second

// inspector gives what tells of the token. There is none where it is no token.
func (c *call) inspector() (hsm.Inspector, error) {
	if c.server.Inspector == nil {
		return nil, kms.ErrUnsupportedOperation.Because("This gateway's keys are in no token that could be looked into.")
	}
	return c.server.Inspector, nil
}

// describeToken tells what the token is and can do, and tries the latter.
func describeToken(ctx context.Context, c *call, _ *kms.NoRequest) (*kms.DescribeTokenResponse, error) {
	inspector, err := c.inspector()
	if err != nil {
		return nil, err
	}
	if err := c.confirm(); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, inspectTime)
	defer cancel()
	survey, err := inspector.Survey(ctx)
	return &kms.DescribeTokenResponse{Survey: survey}, err
}

// What an object in the token is for, or what holds it.
const (
	useVersion  = "key version"
	useAudit    = "audit key"
	useSealing  = "sealing key"
	useCanary   = "canary"
	useOrphan   = "being made or destroyed"
	useStray    = "stray"     // it is ours, and no record speaks of it
	useAnothers = "another's" // it has no label of ours
)

// A recordedPair is a key pair that a record speaks of.
type recordedPair struct {
	kms.Owner
	key hsm.Key
}

// owners gives all records of key pairs by CKA_ID.
func owners(records *store.Records) map[string]recordedPair {
	all := make(map[string]recordedPair)
	add := func(key hsm.Key, o kms.Owner) { all[string(key.ID)] = recordedPair{o, key} }
	for o := range records.Orphans().All() {
		add(o.Key, kms.Owner{Use: useOrphan, KeyVersionId: o.KeyVersionId})
	}
	if key := records.AuditKey(); key.ID != nil {
		add(key, kms.Owner{Use: useAudit})
	}
	for k := range records.Keys().All() {
		names := kms.AliasNames{Alias: []string{}} // an empty list is [], not null
		for _, a := range records.AliasesOf(k.KeyId) {
			names.Alias = append(names.Alias, a.AliasName)
		}
		for _, v := range records.VersionsOf(k.KeyId) {
			add(v.Key, kms.Owner{Use: useVersion, KeyId: k.KeyId, KeyVersionId: v.KeyVersionId, KeyState: k.KeyState, Aliases: names})
		}
	}
	return all
}

// ownerOf says what an object is for. While key pairs are being made, what has no
// id yet may become one of them.
func ownerOf(o hsm.Object, records map[string]recordedPair, making bool) recordedPair {
	if record, ok := records[string(o.ID)]; ok && o.Ours && o.Purpose == hsm.PurposeKey {
		return record
	}
	use := useStray
	switch {
	case !o.Ours:
		use = useAnothers
	case o.Purpose == hsm.PurposeSealing:
		use = useSealing
	case o.Purpose == hsm.PurposeCanary:
		use = useCanary
	case making && len(o.ID) == 0:
		use = useOrphan
	}
	return recordedPair{Owner: kms.Owner{Use: use, Aliases: kms.AliasNames{Alias: []string{}}}}
}

func newTokenObject(o hsm.Object, records map[string]recordedPair, making bool) kms.TokenObject {
	pair := ownerOf(o, records, making)
	t := kms.TokenObject{Handle: o.Handle, Class: o.Class, KeyType: o.KeyType, KeySpec: o.KeySpec, Label: o.Label,
		ObjectId: hex.EncodeToString(o.ID), Owner: pair.Owner}
	t.OtherPublicKey = o.Public != nil && pair.key.Public != nil && !bytes.Equal(o.Public, pair.key.Public)
	return t
}

// listTokenObjects compares the token with the records.
func listTokenObjects(ctx context.Context, c *call, _ *kms.NoRequest) (*kms.ListTokenObjectsResponse, error) {
	inspector, err := c.inspector()
	if err != nil {
		return nil, err
	}
	if err := c.confirm(); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, inspectTime)
	defer cancel()
	making, before := c.server.isMaking(), owners(c.records)
	objects, err := inspector.Objects(ctx)
	if err != nil {
		return nil, err
	}
	// What is recorded after an object was seen was recorded before it was made.
	after := owners(c.server.Store.Now())
	making = making || c.server.isMaking()
	resp := new(kms.ListTokenObjectsResponse)
	resp.Objects.Object, resp.Deviations.Deviation = []kms.TokenObject{}, []kms.Deviation{}
	private := make(map[string]int)
	for _, o := range objects {
		resp.Objects.Object = append(resp.Objects.Object, newTokenObject(o, after, making))
		if o.Ours && o.Purpose == hsm.PurposeKey && o.Class == hsm.ClassPrivateKey {
			private[string(o.ID)]++
		}
	}
	for id, record := range after {
		// One that was recorded only afterwards cannot have been seen.
		if _, settled := before[id]; settled && record.Use != useOrphan && record.key.Sealed == nil && private[id] != 1 {
			resp.Deviations.Deviation = append(resp.Deviations.Deviation, kms.Deviation{Owner: record.Owner, KeySpec: record.key.Spec, PrivateKeys: private[id]})
		}
	}
	slices.SortFunc(resp.Deviations.Deviation, func(a, b kms.Deviation) int {
		return cmp.Or(cmp.Compare(a.KeyId, b.KeyId), cmp.Compare(a.KeyVersionId, b.KeyVersionId))
	})
	return resp, nil
}

// isMaking reports whether a key pair is being made.
func (s *Server) isMaking() (making bool) {
	s.making.Range(func(_, _ any) bool {
		making = true
		return false
	})
	return making
}

// destroyTokenObject destroys an object of ours that no record speaks of. It
// takes all that ListTokenObjects said of it: another object can have the handle
// by now.
func destroyTokenObject(ctx context.Context, c *call, req *kms.DestroyTokenObjectRequest) (*kms.EmptyResponse, error) {
	inspector, err := c.inspector()
	if err != nil {
		return nil, err
	}
	c.entry.Subject = kms.Clip(req.Label + "/" + req.ObjectId)
	ctx, cancel := context.WithTimeout(ctx, inspectTime)
	defer cancel()
	if err := c.server.pairs.enter(ctx); err != nil {
		return nil, err
	}
	defer c.server.pairs.leave()
	o, err := find(ctx, inspector, req)
	if err != nil {
		return nil, err
	}
	// Whoever makes a key pair records it before, so that what has been seen and
	// has no record now will have none.
	// In a change, which fails where a change may have been lost; and whose line
	// is certain before anything is gone.
	err = c.update(func(tx *store.Tx) error {
		if use := ownerOf(o, owners(tx.Records), c.server.isMaking()).Use; use != useStray {
			return kms.ErrObjectInUse.Because("It is: %s.", use)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	err = inspector.DestroyObject(ctx, o)
	if errors.Is(err, hsm.ErrNotFound) {
		err = kms.ErrObjectNotFound
	}
	return done(err)
}

// find gives the object that a request speaks of.
func find(ctx context.Context, inspector hsm.Inspector, req *kms.DestroyTokenObjectRequest) (hsm.Object, error) {
	objects, err := inspector.Objects(ctx)
	if err != nil {
		return hsm.Object{}, err
	}
	for _, o := range objects {
		if strconv.FormatUint(uint64(o.Handle), 10) == req.Handle && o.Class == req.Class && o.Label == req.Label && hex.EncodeToString(o.ID) == req.ObjectId {
			return o, nil
		}
	}
	return hsm.Object{}, kms.ErrObjectNotFound
}

const maxTestSignatures = 100

// testKeyVersion has a version sign, checks what it signs, and tells how long
// that takes. It does so in every state of the key, which is not the signatures'
// business: nobody sees them, and what they sign is nobody's digest.
func testKeyVersion(ctx context.Context, c *call, req *kms.TestKeyVersionRequest) (*kms.TestKeyVersionResponse, error) {
	count := 1
	if req.Count != nil {
		count = *req.Count
	}
	if count < 1 || count > maxTestSignatures {
		return nil, kms.InvalidParameter("Count", "%d is not 1 to %d", count, maxTestSignatures)
	}
	key, err := c.key(req.KeyId)
	if err != nil {
		return nil, err
	}
	version, err := c.version(key, req.KeyVersionId)
	if err != nil {
		return nil, err
	}
	if err := c.confirm(); err != nil {
		return nil, err
	}
	if key.KeyState != store.Enabled {
		defer c.server.Backend.Forget(version.Key)
	}
	times, err := c.server.testSignatures(ctx, version.Key, count)
	c.server.watch.tested(version.KeyVersionId, err)
	if err != nil {
		return nil, tellingOf(err)
	}
	ms := func(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
	return &kms.TestKeyVersionResponse{KeyId: version.KeyId, KeyVersionId: version.KeyVersionId, KeySpec: key.KeySpec, Signatures: count,
		MinMilliseconds: ms(times[0]), MedianMilliseconds: ms(times[len(times)/2]), MaxMilliseconds: ms(times[len(times)-1])}, nil
}

// tellingOf gives a local administrator the reason why a key does not sign, which
// clients are not told.
func tellingOf(err error) error {
	if hsm.IsTransient(err) {
		return err
	}
	return kms.ErrKeyUnavailable.Because("%s.", kms.ClipTo(maxReason, err.Error()))
}

// testSignatures makes signatures with each of the key's algorithms in turn,
// checks each, and gives their times in order.
func (s *Server) testSignatures(ctx context.Context, k hsm.Key, count int) ([]time.Duration, error) {
	algorithms := hsm.Algorithms(k.Spec)
	times := make([]time.Duration, 0, count)
	for i := range count {
		took, err := s.testSignature(ctx, k, algorithms[i%len(algorithms)])
		if err != nil {
			return nil, err
		}
		times = append(times, took)
	}
	slices.Sort(times)
	return times, nil
}

var errOtherKey = errors.New("its signature does not verify with its recorded public key: another private key is in the place of this version's")

// testSignature signs a digest that no client can have wanted to be signed: it is
// of a text that begins with what it is for, and ends at random.
func (s *Server) testSignature(ctx context.Context, k hsm.Key, alg hsm.Algorithm) (time.Duration, error) {
	digest := sha256.Sum256([]byte("kmsgate test signature|" + rand.Text()))
	ctx, cancel := context.WithTimeout(ctx, signTimeout)
	defer cancel()
	began := time.Now()
	signature, err := s.Backend.Sign(ctx, k, alg, digest[:])
	if err != nil {
		return 0, err
	}
	took := time.Since(began)
	valid, err := hsm.Verify(k, alg, digest[:], signature)
	if err == nil && !valid {
		err = errOtherKey
	}
	return took, err
}
