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

	"github.com/google/uuid"

	"github.com/kmsgate/kmsgate/gateway/audit"
	"github.com/kmsgate/kmsgate/gateway/keypair"
	"github.com/kmsgate/kmsgate/gateway/kms"
	"github.com/kmsgate/kmsgate/hsm"
	"github.com/kmsgate/kmsgate/store"
)

// inspectorOf returns the inspector of the token. It returns UnsupportedOperation if the
// gateway has none, because its keys are not in a token.
func inspectorOf(c *call) (hsm.Inspector, error) {
	if c.server.config.Inspector == nil {
		return nil, kms.ErrUnsupportedOperation.Because("This gateway keeps its keys outside of a token.")
	}
	return c.server.config.Inspector, nil
}

// describeToken returns what the token is and what it can do, and tries the latter.
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

// newTokenObject returns an object with its owner. records are the owners by CKA_ID;
// making says whether a key pair was being made when the object was seen.
func newTokenObject(o hsm.Object, records map[string]keypair.OwnedKey, making bool) kms.TokenObject {
	pair := keypair.OwnerOf(o, records, making)
	t := kms.TokenObject{Handle: o.Handle, Class: o.Class, KeyType: o.KeyType, KeySpec: o.KeySpec, Label: o.Label,
		ObjectId: hex.EncodeToString(o.ID), Owner: pair.Owner}
	t.OtherPublicKey = o.Public != nil && pair.Key.Public != nil && !bytes.Equal(o.Public, pair.Key.Public)
	return t
}

// listTokenObjects compares the objects in the token with the records.
func listTokenObjects(ctx context.Context, c *call, _ *kms.NoRequest) (*kms.ListTokenObjectsResponse, error) {
	inspector, err := inspectorOf(c)
	if err != nil {
		return nil, err
	}
	if err := c.confirm(); err != nil {
		return nil, err
	}
	making, oldOwners := c.server.pairs.Making(), keypair.Owners(c.records)
	objects, err := inspector.Objects(ctx)
	if err != nil {
		return nil, err
	}
	// A key pair is recorded before it is made. The records as they are now therefore have
	// every pair that was seen.
	owners := c.server.pairs.Owners()
	making = making || c.server.pairs.Making()
	resp := new(kms.ListTokenObjectsResponse)
	resp.Objects.Object, resp.Deviations.Deviation = []kms.TokenObject{}, []kms.Deviation{}
	private := make(map[string]int)
	for _, o := range objects {
		resp.Objects.Object = append(resp.Objects.Object, newTokenObject(o, owners, making))
		if o.Ours && (o.Purpose == hsm.PurposeKey || o.Purpose == hsm.PurposeAudit) && o.Class == hsm.ClassPrivateKey {
			private[string(o.ID)]++
		}
	}
	for id, owner := range owners {
		// A pair that was recorded only after the objects were read cannot have been seen.
		old, recorded := oldOwners[id]
		if recorded && old.Use != kms.UseOrphan && owner.Use != kms.UseOrphan && owner.Key.Sealed == nil && private[id] != 1 {
			resp.Deviations.Deviation = append(resp.Deviations.Deviation,
				kms.Deviation{Owner: owner.Owner, KeySpec: owner.Key.Spec, PrivateKeys: private[id]})
		}
	}
	slices.SortFunc(resp.Deviations.Deviation, func(a, b kms.Deviation) int {
		return cmp.Or(cmp.Compare(a.KeyId, b.KeyId), cmp.Compare(a.KeyVersionId, b.KeyVersionId))
	})
	return resp, nil
}

// destroyTokenObject destroys an object that carries our label but has no record. The
// request must have everything that ListTokenObjects returned about the object, because
// another object may have its handle by now.
func destroyTokenObject(ctx context.Context, c *call, req *kms.DestroyTokenObjectRequest) (*kms.EmptyResponse, error) {
	inspector, err := inspectorOf(c)
	if err != nil {
		return nil, err
	}
	c.entry.Subject = kms.Clip(req.Label + "/" + req.ObjectId)
	if err := c.server.pairs.Enter(ctx); err != nil {
		return nil, err
	}
	defer c.server.pairs.Exit()
	o, err := findObject(ctx, inspector, req)
	if err != nil {
		return nil, err
	}
	if err := checkNotLost(c.server.config.Audit, o); err != nil {
		return nil, err
	}
	// A key pair is recorded before it is made. An object that was seen and has no record
	// now will therefore never get one. The check is a change of records for two reasons: a
	// change fails if an earlier one may have been lost, and its audit line is certain
	// before the object is gone.
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
	return emptyResponse(err)
}

// checkNotLost refuses a key pair that the audit log says was created, and whose key was not deleted. The
// database that has no record of it is then an older one.
func checkNotLost(log *audit.Log, o hsm.Object) error {
	id, err := uuid.FromBytes(o.ID)
	if err != nil || o.Purpose != hsm.PurposeKey {
		return nil
	}
	var keyId string
	err = audit.Search(log, id.String(), func(line audit.Line) error {
		if e := line.Entry; e != nil && e.Code == "" && !e.DryRun && e.KeyVersionId == id.String() {
			keyId = e.KeyId
		}
		return nil
	})
	if err != nil || keyId == "" {
		return err
	}
	deleted := false
	err = audit.Search(log, keyId, func(line audit.Line) error {
		e := line.Entry
		deleted = deleted || e != nil && e.Code == "" && e.KeyId == keyId && e.Action == keypair.DeleteKey
		return nil
	})
	if err != nil || deleted {
		return err
	}
	return kms.ErrObjectInUse.Because("The audit log says that key %s was created with it, and was not deleted: the database "+
		"seems to be an older one. Restore a newer one.", keyId)
}

// findObject returns the object that a request describes.
func findObject(ctx context.Context, inspector hsm.Inspector, req *kms.DestroyTokenObjectRequest) (hsm.Object, error) {
	objects, err := inspector.Objects(ctx)
	if err != nil {
		return hsm.Object{}, err
	}
	for _, o := range objects {
		if strconv.FormatUint(uint64(o.Handle), 10) == req.Handle && o.Class == req.Class && o.Label == req.Label &&
			hex.EncodeToString(o.ID) == req.ObjectId {
			return o, nil
		}
	}
	return hsm.Object{}, kms.ErrObjectNotFound
}

// testKeyVersion signs with a version, verifies the signatures, and returns how long they
// took. It works in every state of the key: the signatures do not leave the gateway, and
// they sign no caller's digest.
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
	times, err := tryVersion(ctx, c, key, version, count)
	if err != nil {
		return nil, err
	}
	ms := func(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
	return &kms.TestKeyVersionResponse{
		KeyId: version.KeyId, KeyVersionId: version.KeyVersionId, KeySpec: key.KeySpec, Signatures: count,
		MinMilliseconds: ms(times[0]), MedianMilliseconds: ms(times[len(times)/2]), MaxMilliseconds: ms(times[len(times)-1]),
	}, nil
}

// tryVersion signs with a version of a key, verifies the signatures, and returns how long they took,
// sorted.
func tryVersion(ctx context.Context, c *call, key permitted, version store.KeyVersion, count int) ([]time.Duration, error) {
	if key.KeyState != store.Enabled {
		defer c.server.config.Backend.Forget(version.Key)
	}
	times, err := c.server.pairs.Test(ctx, version.Key, count)
	c.server.pairs.RecordTest(version, err)
	if err != nil {
		return nil, explain(err)
	}
	return times, nil
}

// explain returns an error that tells a local administrator why a key does not sign.
// Clients do not learn the reason.
func explain(err error) error {
	if hsm.IsTransient(err) {
		return err
	}
	return kms.ErrKeyUnavailable.Because("%s.", kms.ClipTo(kms.MaxReason, err.Error()))
}
