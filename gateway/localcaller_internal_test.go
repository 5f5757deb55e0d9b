package gateway

import (
	"testing"

	"github.com/kmsgate/kmsgate/gateway/identity"
	"github.com/kmsgate/kmsgate/gateway/kms"
)

// TestLoginUidInEntry: the audit line has the uid that a person logged in with, also for a
// request that is refused.
func TestLoginUidInEntry(t *testing.T) {
	for action, refused := range map[string]bool{"ListUsers": false, signAction: true} {
		c := &call{server: &Server{callers: new(identity.Registry)}}
		l := localCaller{uid: 0, loginUid: "1000", request: kms.AdminRequest{Action: action}}
		p, err := l.principal(c)
		if (err != nil) != refused || !refused && p.Name != "local:0" {
			t.Errorf("%s: got %+v, %v, want refused %v", action, p, err, refused)
		}
		if c.entry.Principal != "local:0" || c.entry.LoginUid != "1000" {
			t.Errorf("%s: got the audit line %+v, want local:0 with the login uid 1000", action, c.entry)
		}
	}
}
