package gateway_test

import (
	"testing"
	"time"
)

// TestKeyVersionUses checks that LastUsedDate is the time of a version's last signature, also
// after a restart. Requests that make no signature do not count.
func TestKeyVersionUses(t *testing.T) {
	b := newBench(t)
	check := func(want string) {
		t.Helper()
		var list struct {
			KeyVersions struct {
				KeyVersion []struct{ KeyVersionId, LastUsedDate string }
			}
		}
		b.local("ListKeyVersionUses", &list, "KeyId", b.key.KeyId)
		got := list.KeyVersions.KeyVersion
		if len(got) != 1 || got[0].KeyVersionId != b.versions(b.key.KeyId)[0] || got[0].LastUsedDate != want {
			t.Errorf("ListKeyVersionUses: got %+v, want %q", got, want)
		}
	}
	check("")
	b.local("AsymmetricSign", nil, b.signParams("DryRun", "false")...)
	check("2026-11-21T20:56:37Z")
	b.clock.move(time.Minute)
	b.local("DisableKey", nil, "KeyId", b.key.KeyId)
	b.refused(409, "Rejected.Disabled", "AsymmetricSign", b.signParams()...)
	b.local("EnableKey", nil, "KeyId", b.key.KeyId)
	b.refused(400, "DryRunOperationError", "AsymmetricSign", b.signParams("DryRun", "true")...)
	b.local("GetPublicKey", nil, "KeyId", b.key.KeyId, "KeyVersionId", b.versions(b.key.KeyId)[0])
	check("2026-11-21T20:56:37Z")
	b.server.Flush()
	check("2026-11-21T20:56:37Z")
	b.local("AsymmetricSign", nil, b.signParams()...)
	check("2026-11-21T20:57:37Z")
	b.server.Flush()
	b.stop()
	b.start()
	check("2026-11-21T20:57:37Z")
	b.refused(404, "Forbidden.KeyNotFound", "ListKeyVersionUses", "KeyId", "00000000-0000-0000-0000-000000000000")
}
