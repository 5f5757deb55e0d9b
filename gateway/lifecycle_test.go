package gateway_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/kmsgate/kmsgate/gateway"
	"github.com/kmsgate/kmsgate/gateway/audit"
	"github.com/kmsgate/kmsgate/gateway/keypair"
	"github.com/kmsgate/kmsgate/gateway/kms"
	"github.com/kmsgate/kmsgate/hsm"
	"github.com/kmsgate/kmsgate/store"
	"github.com/kmsgate/kmsgate/store/storetest"
)

// newKey creates a key through the API and returns its id.
func (b *bench) newKey(pairs ...string) string {
	b.t.Helper()
	made := b.want(b.do(b.root, "CreateKey", append([]string{"KeySpec", "EC_P256"}, pairs...)...), 200, "")
	return made.Body["KeyMetadata"].(map[string]any)["KeyId"].(string)
}

func (b *bench) describe(keyId string) map[string]any {
	b.t.Helper()
	return b.want(b.do(b.root, "DescribeKey", "KeyId", keyId), 200, "").Body["KeyMetadata"].(map[string]any)
}

const (
	ok       = ""
	failed   = "Rejected.StateModifiedFailed"
	disabled = "Rejected.Disabled"
	deletion = "Rejected.PendingDeletion"
	imported = "Rejected.PendingImport"
	gone     = "Rejected.Unavailable"
)

// states are the columns of stateTable.
var states = []string{store.Enabled, store.Disabled, store.PendingDeletion, store.PendingImport, store.Unavailable}

// stateTable has the code that each operation returns for a key in each state. It lacks the
// operations that name no key.
var stateTable = map[string][5]string{
	"AsymmetricSign":        {ok, disabled, deletion, imported, gone},
	"AsymmetricVerify":      {ok, disabled, deletion, imported, gone},
	"GetPublicKey":          {ok, disabled, deletion, imported, gone},
	"CreateKeyVersion":      {ok, disabled, deletion, imported, gone},
	"DescribeKey":           {ok, ok, ok, ok, ok},
	"DescribeKeyVersion":    {ok, ok, ok, ok, ok},
	"ListKeyVersions":       {ok, ok, ok, ok, ok},
	"ListAliasesByKeyId":    {ok, ok, ok, ok, ok},
	"EnableKey":             {ok, ok, failed, failed, failed},
	"DisableKey":            {ok, ok, failed, failed, failed},
	"ScheduleKeyDeletion":   {ok, ok, failed, ok, failed},
	"CancelKeyDeletion":     {failed, failed, ok, failed, failed},
	"SetDeletionProtection": {ok, ok, deletion, ok, ok},
	"UpdateKeyDescription":  {ok, ok, ok, ok, ok},
	"CreateAlias":           {ok, ok, failed, ok, ok},
	"UpdateAlias":           {ok, ok, deletion, ok, ok},
	"DeleteAlias":           {ok, ok, ok, ok, ok},
	"TagResource":           {ok, ok, ok, ok, ok},
	"UntagResource":         {ok, ok, ok, ok, ok},
	"ListResourceTags":      {ok, ok, ok, ok, ok},
	"TagResources":          {ok, ok, ok, ok, ok},
	"UntagResources":        {ok, ok, ok, ok, ok},
	"ListTagResources":      {ok, ok, ok, ok, ok},
	"SetKeyPolicy":          {ok, ok, ok, ok, ok},
	"GetKeyPolicy":          {ok, ok, ok, ok, ok},
}

// namesNoKey are the operations that are not in stateTable.
var namesNoKey = append([]string{
	"CreateKey", "ListKeys", "ListAliases", "DescribeRegions", "DescribeAccountKmsStatus", "OpenKmsService",
	"GetKmsInstance", "ListKmsInstances",
}, accessPointOperations...)

// TestStateTable checks every cell of stateTable.
func TestStateTable(t *testing.T) {
	for _, action := range operationsOf(kms.RPC) {
		row, known := stateTable[action]
		if known == slices.Contains(namesNoKey, action) {
			t.Errorf("%s: in stateTable %v, in namesNoKey %v, want it in one of them", action, known, known)
		}
		if !known {
			continue
		}
		t.Run(action, func(t *testing.T) {
			t.Parallel() // it spends its time waiting for the disk
			b := newBench(t)
			for i, state := range states {
				p := b.scenario(action)
				b.setState(b.targetOf(action, p), state)
				if a := b.do(b.root, action, p...); a.Code != row[i] {
					t.Errorf("in state %s: got %q, want %q", state, a.Code, row[i])
				}
				b.setState(b.key.KeyId, store.Enabled)
			}
		})
	}
}

// targetOf returns the id of the key whose state matters.
func (b *bench) targetOf(action string, pairs []string) string {
	p := params(pairs...)
	for _, name := range []string{
		p["KeyId"],
		p["ResourceId.1"],
		strings.TrimPrefix(p["ProtectedResourceArn"], "acs:kms:cn-hangzhou:1000000000000001:key/"),
		strings.TrimPrefix(p["AliasName"], "alias/"),
	} {
		if name != "" {
			return name
		}
	}
	b.t.Fatalf("%s: got parameters %q, want one that names a key", action, pairs)
	return ""
}

func (b *bench) setState(keyId, state string) {
	b.t.Helper()
	err := b.db.Update(func(tx *store.Tx) error {
		k, err := tx.Keys().Get(keyId)
		k.KeyState = state
		return errors.Join(err, tx.Keys().Put(k))
	})
	if err != nil {
		b.t.Fatal(err)
	}
}

// TestDeletion schedules a deletion, cancels it at the end of the window, and schedules it again.
func TestDeletion(t *testing.T) {
	b := newBench(t)
	keyId := b.newKey()
	b.want(b.do(b.root, "CreateAlias", "AliasName", "alias/doomed", "KeyId", keyId), 200, "")
	b.want(b.do(b.root, "CreateKeyVersion", "KeyId", keyId), 200, "")
	before := b.backend.Len()

	b.want(b.do(b.root, "ScheduleKeyDeletion", "KeyId", keyId, "PendingWindowInDays", "7"), 200, "")
	if m := b.describe(keyId); m["KeyState"] != "PendingDeletion" || m["DeleteDate"] != "2026-11-28T20:56:37Z" {
		t.Errorf("scheduled: got %v, want PendingDeletion in 7 days", m)
	}
	b.clock.move(7*24*time.Hour - time.Second)
	b.server.CarryOutDeletions(t.Context())
	b.want(b.do(b.root, "CancelKeyDeletion", "KeyId", keyId), 200, "")
	if m := b.describe(keyId); m["KeyState"] != "Enabled" || m["DeleteDate"] != "" {
		t.Errorf("canceled: got %v, want Enabled without a DeleteDate", m)
	}
	b.clock.move(time.Hour)
	b.server.CarryOutDeletions(t.Context())
	b.want(b.do(b.root, "AsymmetricSign", b.signParams("KeyId", keyId, "KeyVersionId", b.versions(keyId)[1])...),
		200, "")

	b.want(b.do(b.root, "ScheduleKeyDeletion", "KeyId", keyId, "PendingWindowInDays", "366"), 200, "")
	b.clock.move(366 * 24 * time.Hour)
	b.server.CarryOutDeletions(t.Context())
	b.want(b.do(b.root, "DescribeKey", "KeyId", keyId), 404, "Forbidden.KeyNotFound")
	b.want(b.do(b.root, "DescribeKey", "KeyId", "alias/doomed"), 404, "Forbidden.AliasNotFound")
	b.want(b.do(b.root, "DescribeKey", "KeyId", "alias/test"), 200, "")
	if n := b.backend.Len(); n != before-2 {
		t.Errorf("after the deletion: got %d key pairs, want %d: both of the key destroyed", n, before-2)
	}
	for _, e := range b.auditLines() {
		if e.Action == "DeleteKey" && e.KeyId == keyId && e.Status == 200 {
			return
		}
	}
	t.Error("DeleteKey: got no audit line, want one")
}

// TestDeletionWhileAway checks a deletion that falls due while the gateway is stopped, if the token
// fails when the gateway carries it out.
func TestDeletionWhileAway(t *testing.T) {
	b := newBench(t)
	keyId := b.newKey()
	b.want(b.do(b.root, "ScheduleKeyDeletion", "KeyId", keyId, "PendingWindowInDays", "7"), 200, "")
	b.stop()
	b.clock.move(8 * 24 * time.Hour)
	b.backend.FailDestroy(hsm.ErrUnavailable)
	b.start()
	b.server.CarryOutDeletions(t.Context())
	b.want(b.do(b.root, "DescribeKey", "KeyId", keyId), 404, "Forbidden.KeyNotFound")
	if n := b.backend.Len(); n != 2 {
		t.Errorf("while the token destroys nothing: got %d key pairs, want 2", n)
	}
	b.backend.FailDestroy(nil)
	b.server.CarryOutDeletions(t.Context())
	if n := b.backend.Len(); n != 1 {
		t.Errorf("afterwards: got %d key pairs, want 1, the bench's", n)
	}
}

// TestKeepDueKeys checks that KeepDueKeys cancels only the deletions that fell due while the
// gateway was stopped, so that the next start deletes nothing.
func TestKeepDueKeys(t *testing.T) {
	b := newBench(t)
	due, later := b.newKey(), b.newKey()
	b.want(b.do(b.root, "ScheduleKeyDeletion", "KeyId", due, "PendingWindowInDays", "7"), 200, "")
	b.want(b.do(b.root, "ScheduleKeyDeletion", "KeyId", later, "PendingWindowInDays", "30"), 200, "")
	b.stop()
	b.clock.move(8 * 24 * time.Hour)
	db, err := storetest.Open(filepath.Join(b.dir, "db"))
	if err != nil {
		t.Fatal(err)
	}
	log, err := audit.Open(audit.Config{Path: filepath.Join(b.dir, "audit.log"), Logger: quiet})
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(keypair.KeepDueKeys(db, log, "local:0", b.clock.Now, quiet), log.Close(), db.Close()); err != nil {
		t.Fatal(err)
	}
	b.start()
	for keyId, want := range map[string]string{due: "Enabled", later: "PendingDeletion"} {
		if m := b.describe(keyId); m["KeyState"] != want {
			t.Errorf("got %v, want state %s", m, want)
		}
	}
	b.want(b.do(b.root, "AsymmetricSign", b.signParams("KeyId", due, "KeyVersionId", b.versions(due)[0])...), 200, "")
	for _, e := range b.auditLines() {
		if e.Action == "CancelKeyDeletion" && e.KeyId == due && e.Status == 200 && e.Principal == "local:0" {
			return
		}
	}
	t.Error("KeepDueKeys: got no audit line CancelKeyDeletion, want one")
}

func TestDeletionProtection(t *testing.T) {
	b := newBench(t)
	arn := "acs:kms:cn-hangzhou:1000000000000001:key/" + b.key.KeyId
	b.want(b.do(b.root, "SetDeletionProtection", "ProtectedResourceArn", arn, "EnableDeletionProtection", "true", "DeletionProtectionDescription", "the root"), 200, "")
	if m := b.describe(b.key.KeyId); m["DeletionProtection"] != "Enabled" || m["DeletionProtectionDescription"] != "the root" {
		t.Errorf("protected: got %v, want Enabled with the description", m)
	}
	b.want(b.do(b.root, "ScheduleKeyDeletion", "KeyId", b.key.KeyId, "PendingWindowInDays", "7"),
		409, "Rejected.StateModifiedFailed")
	b.want(b.do(b.root, "SetDeletionProtection", "KeyId", b.key.KeyId, "EnableDeletionProtection", "false"), 200, "")
	if m := b.describe(b.key.KeyId); m["DeletionProtection"] != "Disabled" || m["DeletionProtectionDescription"] != "" {
		t.Errorf("not protected: got %v, want Disabled without a description", m)
	}
	b.want(b.do(b.root, "ScheduleKeyDeletion", "KeyId", b.key.KeyId, "PendingWindowInDays", "7"), 200, "")
}

func TestVersions(t *testing.T) {
	const interval = 7 * 24 * time.Hour
	b := newBench(t, func(c *gateway.Config) { c.MinVersionInterval = interval })
	b.want(b.do(b.root, "CreateKeyVersion", "KeyId", "alias/test"), 400, "Rejected.UnsupportedOperation")
	for n := 2; n <= 50; n++ {
		b.clock.move(interval)
		made := b.want(b.do(b.root, "CreateKeyVersion", "KeyId", "alias/test"), 200, "").Body["KeyVersion"].(map[string]any)
		described := b.want(b.do(b.root, "DescribeKeyVersion", "KeyId", b.key.KeyId, "KeyVersionId", made["KeyVersionId"].(string)), 200, "")
		if got := described.Body["KeyVersion"].(map[string]any); got["CreationDate"] != made["CreationDate"] || got["KeyId"] != b.key.KeyId {
			t.Errorf("DescribeKeyVersion: got %v, want %v as created", got, made)
		}
	}
	b.clock.move(interval)
	b.want(b.do(b.root, "CreateKeyVersion", "KeyId", "alias/test"), 400, "Rejected.LimitExceeded")
	ids := b.versions(b.key.KeyId)
	if len(ids) != 50 || ids[0] != b.key.KeyVersionId {
		t.Fatalf("got %d versions, the first %s, want 50, %s", len(ids), ids[0], b.key.KeyVersionId)
	}
	for _, id := range []string{ids[0], ids[49]} { // old versions must stay usable
		b.want(b.do(b.root, "AsymmetricSign", b.signParams("KeyVersionId", id)...), 200, "")
	}
	page := b.want(b.do(b.root, "ListKeyVersions", "KeyId", b.key.KeyId, "PageNumber", "5"), 200, "")
	if got := listed(t, page, "KeyVersions", "KeyVersion", "KeyVersionId"); !slices.Equal(got, ids[40:]) {
		t.Errorf("last page: got %v, want %v", got, ids[40:])
	}
	b.want(b.do(b.root, "DescribeKeyVersion", "KeyId", b.newKey(), "KeyVersionId", ids[0]),
		404, "Forbidden.KeyVersionNotFound")
}

// TestDeletionsSpareCreations carries out deletions while keys are being created. Every key whose
// creation was acknowledged must sign.
func TestDeletionsSpareCreations(t *testing.T) {
	b := newBench(t)
	stop := make(chan struct{})
	var deleting sync.WaitGroup
	deleting.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				b.server.CarryOutDeletions(t.Context())
			}
		}
	})
	var makers sync.WaitGroup
	for range 8 {
		makers.Go(func() {
			for range 10 {
				keyId := b.newKey()
				b.want(b.do(b.root, "AsymmetricSign", b.signParams("KeyId", keyId, "KeyVersionId", b.versions(keyId)[0])...), 200, "")
			}
		})
	}
	makers.Wait()
	close(stop)
	deleting.Wait()
	if n := b.backend.Len(); n != 81 {
		t.Errorf("got %d key pairs, want 81", n)
	}
}

// TestOneVersionWins races 16 callers for the one version that a key may get now.
func TestOneVersionWins(t *testing.T) {
	b := newBench(t, func(c *gateway.Config) { c.MinVersionInterval = time.Hour })
	b.clock.move(time.Hour)
	var callers sync.WaitGroup
	for range 16 {
		callers.Go(func() { b.do(b.root, "CreateKeyVersion", "KeyId", b.key.KeyId) })
	}
	callers.Wait()
	if n := len(b.versions(b.key.KeyId)); n != 2 || b.backend.Len() != 2 {
		t.Errorf("got %d versions and %d key pairs, want 2 of each", n, b.backend.Len())
	}
}

func TestUpdateAlias(t *testing.T) {
	b := newBench(t)
	other := b.newKey()
	b.want(b.do(b.root, "UpdateAlias", "AliasName", "alias/test", "KeyId", other), 200, "")
	if got := b.describe("alias/test")["KeyId"]; got != other {
		t.Errorf("alias/test: got key %v, want %s", got, other)
	}
	b.want(b.do(b.root, "UpdateAlias", "AliasName", "alias/none", "KeyId", other), 404, "Forbidden.AliasNotFound")
	b.want(b.do(b.root, "UpdateAlias", "AliasName", "alias/test", "KeyId", "none"), 404, "Forbidden.KeyNotFound")
	names := func(keyId string) []string {
		return listed(t, b.want(b.do(b.root, "ListAliasesByKeyId", "KeyId", keyId), 200, ""), "Aliases", "Alias", "AliasName")
	}
	if got := names(other); !slices.Equal(got, []string{"alias/test"}) {
		t.Errorf("aliases of the new key: got %v, want alias/test", got)
	}
	if got := names(b.key.KeyId); len(got) != 0 {
		t.Errorf("aliases of the old key: got %v, want none", got)
	}
	// UpdateAlias needs a permission for the alias, for the old key and for the new key.
	allow := func(resources ...string) string {
		return `{"Version":"1","Statement":[{"Effect":"Allow","Action":"kms:UpdateAlias","Resource":["acs:kms:*:*:` +
			strings.Join(resources, `","acs:kms:*:*:`) + `"]}]}`
	}
	all := []string{"alias/test", "key/" + other, "key/" + b.key.KeyId}
	for i := range all {
		two := slices.Delete(slices.Clone(all), i, i+1)
		c := b.newUser(fmt.Sprint("two", i), allow(two...))
		b.want(b.do(c, "UpdateAlias", "AliasName", "alias/test", "KeyId", b.key.KeyId), 403, "Forbidden.NoPermission")
	}
	b.want(b.do(b.newUser("three", allow(all...)), "UpdateAlias", "AliasName", "alias/test", "KeyId", b.key.KeyId),
		200, "")
}

func TestTags(t *testing.T) {
	b := newBench(t)
	tags := func(keyId string) (got []string) {
		t.Helper()
		a := b.want(b.do(b.root, "ListResourceTags", "KeyId", keyId), 200, "")
		for _, tag := range a.Body["Tags"].(map[string]any)["Tag"].([]any) {
			m := tag.(map[string]any)
			got = append(got, fmt.Sprintf("%s=%s", m["TagKey"], m["TagValue"]))
		}
		return got
	}
	check := func(keyId string, want ...string) {
		t.Helper()
		if got := tags(keyId); !slices.Equal(got, want) {
			t.Errorf("got tags %v, want %v", got, want)
		}
	}
	one, two := b.newKey(), b.newKey()
	check(one)
	b.want(b.do(b.root, "TagResource", "KeyId", one, "Tags", `[{"TagKey":"a","TagValue":"1"},{"TagKey":"b","TagValue":""}]`), 200, "")
	check(one, "a=1", "b=")
	b.want(b.do(b.root, "TagResource", "KeyId", one, "Tags", `[{"TagKey":"a","TagValue":"2"}]`), 200, "")
	check(one, "a=2", "b=")
	b.want(b.do(b.root, "UntagResource", "KeyId", one, "TagKeys", `["b","none"]`), 200, "")
	check(one, "a=2")
	region := []string{"RegionId", "cn-hangzhou", "ResourceType", "key", "ResourceId.1", one, "ResourceId.2", two}
	b.want(b.do(b.root, "TagResources", append(region, "Tag.1.Key", "c", "Tag.1.Value", "3", "Tag.2.Key", "d", "Tag.2.Value", "4")...), 200, "")
	check(one, "a=2", "c=3", "d=4")
	check(two, "c=3", "d=4")
	b.want(b.do(b.root, "TagResources", append(region, "Tag.1.Key", "c", "Tag.3.Key", "gap")...),
		400, "InvalidParameter")
	// Lists can also be JSON text.
	b.want(b.do(b.root, "UntagResources", "RegionId", "cn-hangzhou", "ResourceType", "key", "ResourceId", `["`+one+`"]`, "TagKey", `["d"]`), 200, "")
	check(one, "a=2", "c=3")
	listed := func(want int, pairs ...string) {
		t.Helper()
		a := b.want(b.do(b.root, "ListTagResources", append([]string{"RegionId", "cn-hangzhou", "ResourceType", "key"}, pairs...)...), 200, "")
		if got := a.Body["TagResources"].(map[string]any)["TagResource"].([]any); len(got) != want || a.Body["NextToken"] != "" {
			t.Errorf("ListTagResources %v: got %v, want %d tags", pairs, a.Body, want)
		}
	}
	listed(2, "ResourceId.1", one)
	listed(4, "Tag.1.Key", "c")
	listed(2, "Tag.1.Key", "c", "Tag.1.Value", "3", "Tag.2.Key", "a")
	listed(0, "Tag.1.Key", "none")
	b.want(b.do(b.root, "ListTagResources", "RegionId", "cn-hangzhou", "ResourceType", "key"), 400, "MissingParameter")
	b.want(b.do(b.root, "UntagResources", append(region, "All", "true")...), 200, "")
	check(one)
	check(two)
	// The operation tags all keys or none, and the second key does not exist.
	b.want(b.do(b.root, "TagResources", "RegionId", "cn-hangzhou", "ResourceType", "key", "ResourceId.1", one, "ResourceId.2", uuid.NewString(),
		"Tag.1.Key", "e", "Tag.1.Value", "5"), 404, "Forbidden.KeyNotFound")
	check(one)
	var members []string
	for i := range 20 {
		members = append(members, fmt.Sprintf(`{"TagKey":"%d","TagValue":"v"}`, i))
	}
	b.want(b.do(b.root, "TagResource", "KeyId", one, "Tags", "["+strings.Join(members, ",")+"]"), 200, "")
	b.want(b.do(b.root, "TagResource", "KeyId", one, "Tags", `[{"TagKey":"one more","TagValue":"v"}]`),
		400, "Rejected.LimitExceeded")
	b.want(b.do(b.root, "TagResource", "SecretName", "s", "Tags", `[]`), 400, "UnsupportedOperation")
}

func TestKeyPolicies(t *testing.T) {
	b := newBench(t)
	got := b.want(b.do(b.root, "GetKeyPolicy", "KeyId", b.key.KeyId), 200, "").Body["Policy"].(string)
	if !strings.Contains(got, `"acs:ram::1000000000000001:*"`) {
		t.Errorf("default key policy: got %s, want one for all users of the account", got)
	}
	b.want(b.do(b.root, "SetKeyPolicy", "KeyId", b.key.KeyId, "Policy", got), 200, "")
	b.want(b.do(b.root, "SetKeyPolicy", "KeyId", b.key.KeyId, "Policy", keyPolicy, "PolicyName", "default"), 200, "")
	if got := b.want(b.do(b.root, "GetKeyPolicy", "KeyId", b.key.KeyId, "PolicyName", "default"), 200, "").Body["Policy"]; got != keyPolicy {
		t.Errorf("GetKeyPolicy: got %v, want %s", got, keyPolicy)
	}
	for _, action := range []string{"SetKeyPolicy", "GetKeyPolicy"} {
		b.want(b.do(b.root, action, "KeyId", b.key.KeyId, "Policy", keyPolicy, "PolicyName", "other"),
			404, "Forbidden.ResourceNotFound")
	}
}

// TestOneWins races 16 callers for one alias.
func TestOneWins(t *testing.T) {
	b := newBench(t)
	codes := make(chan string, 16)
	var callers sync.WaitGroup
	for range cap(codes) {
		callers.Go(func() {
			codes <- b.do(b.root, "CreateAlias", "AliasName", "alias/race", "KeyId", b.key.KeyId).Code
		})
	}
	callers.Wait()
	close(codes)
	won := 0
	for code := range codes {
		if code == "" {
			won++
		} else if code != "AliasAlreadyExists" {
			t.Errorf("got code %s, want AliasAlreadyExists or success", code)
		}
	}
	if won != 1 {
		t.Errorf("got %d successful callers, want 1", won)
	}
}

// TestConcurrentChanges lets 32 callers change 5 keys, and then checks that the records are
// consistent.
func TestConcurrentChanges(t *testing.T) {
	b := newBench(t)
	var keyIds []string
	for range 5 {
		keyIds = append(keyIds, b.newKey())
	}
	expected := []string{"", "Rejected.StateModifiedFailed", "Rejected.Disabled", "Rejected.PendingDeletion", "AliasAlreadyExists", "Forbidden.AliasNotFound", "Rejected.LimitExceeded"}
	var callers sync.WaitGroup
	for i := range 32 {
		random := rand.New(rand.NewPCG(1, uint64(i)))
		callers.Go(func() {
			for range 15 {
				keyId := keyIds[random.IntN(len(keyIds))]
				alias := fmt.Sprintf("alias/%d", random.IntN(5))
				calls := [][]string{
					{"EnableKey", "KeyId", keyId}, {"DisableKey", "KeyId", keyId}, {"CreateKeyVersion", "KeyId", keyId},
					{"ScheduleKeyDeletion", "KeyId", keyId, "PendingWindowInDays", "7"}, {"CancelKeyDeletion", "KeyId", keyId},
					{"CreateAlias", "AliasName", alias, "KeyId", keyId}, {"UpdateAlias", "AliasName", alias, "KeyId", keyId}, {"DeleteAlias", "AliasName", alias},
					{"TagResource", "KeyId", keyId, "Tags", fmt.Sprintf(`[{"TagKey":"%d","TagValue":"v"}]`, random.IntN(30))},
				}
				call := calls[random.IntN(len(calls))]
				if a := b.do(b.root, call[0], call[1:]...); !slices.Contains(expected, a.Code) {
					t.Errorf("%v: got %s %s, want one of %q", call, a.Code, a.Message, expected)
				}
			}
		})
	}
	callers.Wait()
	versions := 1 // that of the bench's key
	records := b.db.Now()
	for a := range records.Aliases().All() {
		if !slices.Contains(records.AliasesOf(a.KeyId), a) {
			t.Errorf("aliases of key %s: got none with the name %s, want it", a.KeyId, a.AliasName)
		}
	}
	if records.Orphans().Len() != 0 {
		t.Errorf("got orphans %v, want none", slices.Collect(records.Orphans().All()))
	}
	for _, keyId := range keyIds {
		k, err := records.Keys().Get(keyId)
		if err != nil || len(k.Tags) > 20 || (k.KeyState == store.PendingDeletion) == k.DeleteDate.IsZero() {
			t.Errorf("key %s: got %+v, %v, want at most 20 tags, and a DeleteDate only if PendingDeletion",
				keyId, k, err)
		}
		versions += len(records.VersionsOf(keyId))
	}
	if n := b.backend.Len(); n != versions {
		t.Errorf("got %d key pairs, want %d, one for each version", n, versions)
	}
}
