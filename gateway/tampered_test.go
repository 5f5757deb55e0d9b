package gateway_test

import (
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kmsgate/kmsgate/gateway/kms"
)

// TestTamperedDatabase replaces the database of a gateway that serves by another file: an earlier copy, in which
// a key is enabled. At the next change, the gateway stops to serve, and says why. (The store's tests change the
// content of the file.)
func TestTamperedDatabase(t *testing.T) {
	b := newBench(t)
	path := filepath.Join(b.dir, "db")
	earlier, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	b.want(b.do(b.root, "DisableKey", "KeyId", b.key.KeyId), 200, "")
	if err := errors.Join(os.WriteFile(path+".earlier", earlier, 0o600), os.Rename(path+".earlier", path)); err != nil {
		t.Fatal(err)
	}
	b.want(b.do(b.root, "CreateAlias", "AliasName", "alias/next", "KeyId", b.key.KeyId), 503, kms.ErrUnavailable.Code)
	b.want(b.do(b.root, "AsymmetricSign", b.signParams()...), 503, kms.ErrUnavailable.Code)
	b.want(b.do(b.root, "ListKeys"), 503, kms.ErrUnavailable.Code)
	status, text := b.observe("/ready")
	if status != http.StatusServiceUnavailable || !strings.Contains(text, "another was put in its place") {
		t.Errorf("/ready: got %d %q, want 503 and the reason", status, text)
	}
	b.local("ListKeys", nil) // an administrator can still look
}
