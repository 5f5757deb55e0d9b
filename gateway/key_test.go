package gateway_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/kmsgate/kmsgate/gateway/kms"
)

func TestKeyMetadata(t *testing.T) {
	b := newBench(t)
	made := b.want(b.do(b.root, "CreateKey", "KeySpec", "EC_SM2", "KeyUsage", "SIGN/VERIFY", "Origin", "Aliyun_KMS",
		"ProtectionLevel", "SOFTWARE", "Description", "a b*c+d~e中'()!", "DKMSInstanceId", "kst-test",
		"EnableAutomaticRotation", "false", "Policy", keyPolicy, "Tags", `[{"TagKey":"k","TagValue":"v"}]`), 200, "")
	got := made.Body["KeyMetadata"].(map[string]any)
	keyId := got["KeyId"].(string)
	want := map[string]any{
		"Arn": "acs:kms:cn-hangzhou:1000000000000001:key/" + keyId, "AutomaticRotation": "Disabled", "CreationDate": "2026-11-21T20:56:37Z",
		"Creator": "root", "DKMSInstanceId": "kst-test", "DeleteDate": "", "Description": "a b*c+d~e中'()!", "KeyId": keyId,
		"KeySpec": "EC_SM2", "KeyState": "Enabled", "KeyUsage": "SIGN/VERIFY", "LastRotationDate": "", "MaterialExpireTime": "",
		"NextRotationDate": "", "Origin": "Aliyun_KMS", "PrimaryKeyVersion": "", "ProtectionLevel": "SOFTWARE", "RotationInterval": "",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("CreateKey (- want, + got): %s", diff)
	}
	want["DeletionProtection"], want["DeletionProtectionDescription"] = "Disabled", ""
	described := b.want(b.do(b.root, "DescribeKey", "KeyId", keyId), 200, "")
	if diff := cmp.Diff(any(want), described.Body["KeyMetadata"]); diff != "" {
		t.Errorf("DescribeKey (- want, + got): %s", diff)
	}
	k, err := b.db.Now().Keys().Get(keyId)
	if err != nil || k.Policy != keyPolicy || k.Tags["k"] != "v" {
		t.Errorf("record: got %+v, %v, want the policy and the tag", k, err)
	}
	listed := b.want(b.do(b.root, "ListKeyVersions", "KeyId", keyId), 200, "")
	wantVersions := map[string]any{"KeyVersion": []any{map[string]any{"KeyId": keyId, "KeyVersionId": b.versions(keyId)[0], "CreationDate": "2026-11-21T20:56:37Z"}}}
	if diff := cmp.Diff(any(wantVersions), listed.Body["KeyVersions"]); diff != "" || listed.Body["TotalCount"] != 1.0 {
		t.Errorf("ListKeyVersions: got TotalCount %v, want 1; versions (- want, + got): %s",
			listed.Body["TotalCount"], diff)
	}
	empty := b.want(b.do(b.root, "ListKeyVersions", "KeyId", keyId, "PageNumber", "3"), 200, "")
	if diff := cmp.Diff(any(map[string]any{"KeyVersion": []any{}}), empty.Body["KeyVersions"]); diff != "" {
		t.Errorf("ListKeyVersions past the end (- want, + got): %s", diff)
	}
}

// listed returns the ids of a page.
func listed(t *testing.T, a answer, plural, singular, id string) (ids []string) {
	t.Helper()
	list, ok := a.Body[plural].(map[string]any)[singular].([]any)
	if !ok {
		t.Fatalf("%s.%s: got %v, want an array", plural, singular, a.Body)
	}
	for _, item := range list {
		ids = append(ids, item.(map[string]any)[id].(string))
	}
	return ids
}

func TestListKeys(t *testing.T) {
	b := newBench(t)
	all := []string{b.key.KeyId}
	for i := range 11 {
		made := b.do(b.root, "CreateKey", "KeySpec", "EC_P256K", "Tags", fmt.Sprintf(`[{"TagKey":"n","TagValue":"%d"}]`, i%2))
		all = append(all, made.Body["KeyMetadata"].(map[string]any)["KeyId"].(string))
	}
	slices.Sort(all)
	page := func(pairs ...string) (answer, []string) {
		t.Helper()
		a := b.want(b.do(b.root, "ListKeys", pairs...), 200, "")
		return a, listed(t, a, "Keys", "Key", "KeyId")
	}
	a, first := page()
	if diff := cmp.Diff(all[:10], first); diff != "" || a.Body["PageNumber"] != 1.0 || a.Body["PageSize"] != 10.0 || a.Body["TotalCount"] != 12.0 {
		t.Errorf("first page: got %v, want 10 of 12 keys (- want, + got): %s", a.Body, diff)
	}
	if _, second := page("PageNumber", "2"); !slices.Equal(second, all[10:]) {
		t.Errorf("second page: got %v, want %v", second, all[10:])
	}
	if _, empty := page("PageNumber", "2147483647", "PageSize", "100"); len(empty) != 0 {
		t.Errorf("page past the end: got %v, want no keys", empty)
	}
	filter := func(want int, filters ...any) {
		t.Helper()
		text, err := json.Marshal(filters)
		if err != nil {
			t.Fatal(err)
		}
		a, ids := page("PageSize", "100", "Filters", string(text))
		if len(ids) != want || a.Body["TotalCount"] != float64(want) {
			t.Errorf("%s: got %d keys and TotalCount %v, want %d", text, len(ids), a.Body["TotalCount"], want)
		}
	}
	criterion := func(key string, values ...string) any { return map[string]any{"Key": key, "Values": values} }
	filter(1, criterion("KeySpec", "EC_P256"))
	filter(12, criterion("KeySpec", "EC_P256", "EC_P256K"), criterion("KeyState", "Enabled"))
	filter(0, criterion("KeySpec", "EC_P256"), criterion("TagKey", "n"))
	filter(6, criterion("TagKey", "n"), criterion("TagValue", "0"))
	filter(1, criterion("KeyId", b.key.KeyId), criterion("AliasName", "alias/none", "alias/test"))
	filter(0, criterion("AliasName", "alias/none"))
	filter(12, criterion("KeyUsage", "SIGN/VERIFY"), criterion("ProtectionLevel", "HSM"), criterion("DKMSInstanceId", "kst-test"), criterion("CreatorType", "User"))
	filter(11, criterion("Creator", "root"))
}

func TestListAliases(t *testing.T) {
	b := newBench(t)
	for _, name := range []string{"alias/a b~c*d+e=中'()!", "alias/b"} {
		b.want(b.do(b.root, "CreateAlias", "AliasName", name, "KeyId", "alias/test"), 200, "")
		b.want(b.do(b.root, "AsymmetricSign", b.signParams("KeyId", name)...), 200, "")
	}
	a := b.want(b.do(b.root, "ListAliases", "PageSize", "2"), 200, "")
	want := []any{
		map[string]any{"AliasName": "alias/a b~c*d+e=中'()!", "AliasArn": "acs:kms:cn-hangzhou:1000000000000001:alias/a b~c*d+e=中'()!", "KeyId": b.key.KeyId},
		map[string]any{"AliasName": "alias/b", "AliasArn": "acs:kms:cn-hangzhou:1000000000000001:alias/b", "KeyId": b.key.KeyId},
	}
	if diff := cmp.Diff(any(map[string]any{"Alias": want}), a.Body["Aliases"]); diff != "" || a.Body["TotalCount"] != 3.0 {
		t.Errorf("got %v, want 3 aliases in total (- want, + got): %s", a.Body, diff)
	}
}

// TestCreateNamedKeyAtOnce sends requests for one alias at the same time. One key is created, and the
// token keeps one pair.
func TestCreateNamedKeyAtOnce(t *testing.T) {
	b := newBench(t)
	c := b.admin()
	keys, pairs := b.db.Now().Keys().Len(), b.backend.Len()
	const requests = 8
	errs := make([]error, requests)
	var group sync.WaitGroup
	for i := range errs {
		group.Go(func() {
			errs[i] = c.Call(t.Context(), "CreateNamedKey", params("AliasName", "alias/once", "KeySpec", "EC_P256"), nil)
		})
	}
	group.Wait()
	created := 0
	for _, err := range errs {
		switch {
		case err == nil:
			created++
		case !errors.Is(err, kms.ErrAliasExists):
			t.Errorf("got %v, want %v", err, kms.ErrAliasExists)
		}
	}
	if b.db.Now().Keys().Len() != keys+1 || b.backend.Len() != pairs+1 || created != 1 {
		t.Errorf("got %d answers, %d keys and %d pairs more, want one each", created, b.db.Now().Keys().Len()-keys, b.backend.Len()-pairs)
	}
}
