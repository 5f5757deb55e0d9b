package gateway

import (
	"bytes"
	"cmp"
	"context"
	"encoding/hex"
	"errors"
	"slices"
	"strconv"
	"time"

	"github.com/kmsgate/kmsgate/gateway/keypair"
	"github.com/kmsgate/kmsgate/gateway/kms"
	"github.com/kmsgate/kmsgate/hsm"
	"github.com/kmsgate/kmsgate/store"
)

// inspectorOf gives what tells of the token. There is none where it is no token.
func inspectorOf(c *call) (hsm.Inspector, error) {
	if c.server.config.Inspector == nil {
		return nil, kms.ErrUnsupportedOperation.Because("This gateway's keys are in no token that could be looked into.")
	}
	return c.server.config.Inspector, nil
}

// describeToken tells what the token is and can do, and tries the latter.
func describeToken(ctx context.Context, c *call, _ *kms.NoRequest) (*kms.DescribeTokenResponse, error) {
	inspector, err := inspectorOf(c)
	if err != nil {
		return nil, err
	}
	if err := c.confirm(); err != nil {
		return nil, err
	}
	survey, err := inspector.Survey(ctx)
	return &kms.DescribeTokenResponse{Survey: survey}, err
}

func newTokenObject(o hsm.Object, records map[string]keypair.Recorded, making bool) kms.TokenObject {
	pair := keypair.OwnerOf(o, records, making)
	t := kms.TokenObject{Handle: o.Handle, Class: o.Class, KeyType: o.KeyType, KeySpec: o.KeySpec, Label: o.Label,
		ObjectId: hex.EncodeToString(o.ID), Owner: pair.Owner}
	t.OtherPublicKey = o.Public != nil && pair.Key.Public != nil && !bytes.Equal(o.Public, pair.Key.Public)
	return t
}

// listTokenObjects compares the token with the records.
func listTokenObjects(ctx context.Context, c *call, _ *kms.NoRequest) (*kms.ListTokenObjectsResponse, error) {
	inspector, err := inspectorOf(c)
	if err != nil {
		return nil, err
	}
	if err := c.confirm(); err != nil {
		return nil, err
	}
	making, before := c.server.pairs.Making(), keypair.Owners(c.records)
	objects, err := inspector.Objects(ctx)
	if err != nil {
		return nil, err
	}
	// What is recorded after an object was seen was recorded before it was made.
	after := c.server.pairs.Owners()
	making = making || c.server.pairs.Making()
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
		if was, recorded := before[id]; recorded && was.Use != kms.UseOrphan && record.Use != kms.UseOrphan && record.Key.Sealed == nil && private[id] != 1 {
			resp.Deviations.Deviation = append(resp.Deviations.Deviation, kms.Deviation{Owner: record.Owner, KeySpec: record.Key.Spec, PrivateKeys: private[id]})
		}
	}
	slices.SortFunc(resp.Deviations.Deviation, func(a, b kms.Deviation) int {
		return cmp.Or(cmp.Compare(a.KeyId, b.KeyId), cmp.Compare(a.KeyVersionId, b.KeyVersionId))
	})
	return resp, nil
}

// destroyTokenObject destroys an object of ours that no record speaks of. It
// takes all that ListTokenObjects said of it: another object can have the handle
// by now.
func destroyTokenObject(ctx context.Context, c *call, req *kms.DestroyTokenObjectRequest) (*kms.EmptyResponse, error) {
	inspector, err := inspectorOf(c)
	if err != nil {
		return nil, err
	}
	c.entry.Subject = kms.Clip(req.Label + "/" + req.ObjectId)
	if err := c.server.pairs.Enter(ctx); err != nil {
		return nil, err
	}
	defer c.server.pairs.Leave()
	o, err := find(ctx, inspector, req)
	if err != nil {
		return nil, err
	}
	// Whoever makes a key pair records it before, so that what has been seen and
	// has no record now will have none.
	// In a change, which fails where a change may have been lost; and whose line
	// is certain before anything is gone.
	err = c.update(func(tx *store.Tx) error {
		if use := keypair.OwnerOf(o, keypair.Owners(tx.Records), c.server.pairs.Making()).Use; use != kms.UseStray {
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

// testKeyVersion has a version sign, checks what it signs, and tells how long
// that takes. It does so in every state of the key, which is not the signatures'
// business: nobody sees them, and what they sign is nobody's digest.
func testKeyVersion(ctx context.Context, c *call, req *kms.TestKeyVersionRequest) (*kms.TestKeyVersionResponse, error) {
	count := 1
	if req.Count != nil {
		count = *req.Count
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
		defer c.server.config.Backend.Forget(version.Key)
	}
	times, err := c.server.pairs.Test(ctx, version.Key, count)
	c.server.pairs.Tested(version.KeyVersionId, err)
	if err != nil {
		return nil, explain(err)
	}
	ms := func(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
	return &kms.TestKeyVersionResponse{KeyId: version.KeyId, KeyVersionId: version.KeyVersionId, KeySpec: key.KeySpec, Signatures: count,
		MinMilliseconds: ms(times[0]), MedianMilliseconds: ms(times[len(times)/2]), MaxMilliseconds: ms(times[len(times)-1])}, nil
}

// explain gives a local administrator the reason why a key does not sign, which
// clients are not told.
func explain(err error) error {
	if hsm.IsTransient(err) {
		return err
	}
	return kms.ErrKeyUnavailable.Because("%s.", kms.ClipTo(kms.MaxReason, err.Error()))
}
