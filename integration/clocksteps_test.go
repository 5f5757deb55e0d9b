package integration

import (
	"net/http"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	kms "github.com/alibabacloud-go/kms-20160120/v3/client"
	"github.com/alibabacloud-go/tea/tea"

	"github.com/kmsgate/kmsgate/gateway/audit"
	"github.com/kmsgate/kmsgate/hsm"
	"github.com/kmsgate/kmsgate/integration/devgateway"
)

// expired is the answer to a request whose time is not that of the gateway's clock.
const expired = "400 InvalidTimeStamp.Expired"

// TestClockSteps sets the wall clock of a gateway wrong for some seconds and right again: an hour
// back, an hour ahead, eight days ahead and a year ahead. A key that was scheduled for deletion in
// seven days must still be there, a change that was recorded before must not be accepted again, and
// the audit log must get checkpoints.
func TestClockSteps(t *testing.T) {
	t.Parallel()
	clock := newSkewedClock(t)
	g, l := newInstance(t, skewedBinary(t), clock.environment()), newLedger(newRandom(t))
	g.start(t)
	client := require[*kms.Client](t)(devgateway.SDK(g.env))
	doomed, doomedVersion, err := newKey(client)
	if err != nil {
		t.Fatal(err)
	}
	require[*kms.ScheduleKeyDeletionResponse](t)(client.ScheduleKeyDeletion(
		&kms.ScheduleKeyDeletionRequest{KeyId: &doomed, PendingWindowInDays: tea.Int32(7)}))
	sender := &http.Client{Transport: trusting(t, g.env), Timeout: longWait}
	recorded := recordChange(t, g, client, sender)
	signers, changers := callerCounts()
	l.start(t, g.env, signers, changers)
	l.served(t, "after the start")

	for _, step := range []struct{ ahead, duration time.Duration }{
		{-time.Hour, 3 * time.Second},
		{time.Hour, 3 * time.Second},
		{8 * 24 * time.Hour, 12 * time.Second}, // more than the 10 s between two searches for keys that are due
		{365 * 24 * time.Hour, 3 * time.Second},
	} {
		clock.step(step.ahead)
		waitLong(t, "the gateway to see the step of the clock", func() bool {
			request := require[*http.Request](t)(rawRequest{action: "DescribeRegions"}.sign(g.env, time.Now()))
			code, err := sendRaw(sender, request)
			return err == nil && code == expired
		})
		<-time.After(long(step.duration, 25*time.Second)) // duration of the fault
		clock.step(0)
		l.served(t, "after the clock was wrong by "+step.ahead.String())
	}
	if failures := l.failures(temporary, expired); failures != "" {
		t.Errorf("unexpected answers:\n%s", failures)
	}
	if code, err := sendRaw(sender, recorded); code != "400 SignatureNonceUsed" {
		t.Errorf("a recorded change: got %q, %v, want 400 SignatureNonceUsed", code, err)
	}
	checkpoints := countInLog(t, g, `"checkpoint"`)
	waitLong(t, "another checkpoint", func() bool { return countInLog(t, g, `"checkpoint"`) > checkpoints })
	require[*kms.CancelKeyDeletionResponse](t)(client.CancelKeyDeletion(&kms.CancelKeyDeletionRequest{KeyId: &doomed}))
	if err := signAndVerify(newSDK{client}, doomed, doomedVersion, hsm.ECDSA_SHA_256); err != nil {
		t.Errorf("the key that was scheduled for deletion: %v", err)
	}
	l.prove(t, g)
}

// recordChange makes a change with a request, and returns that.
func recordChange(t *testing.T, g *instance, client *kms.Client, sender *http.Client) *http.Request {
	t.Helper()
	keyId, _, err := newKey(client)
	if err != nil {
		t.Fatal(err)
	}
	change := rawRequest{action: "UpdateKeyDescription", query: url.Values{"KeyId": {keyId}, "Description": {"recorded"}}}
	request := require[*http.Request](t)(change.sign(g.env, time.Now()))
	if code, err := sendRaw(sender, request); code != answered || err != nil {
		t.Fatalf("UpdateKeyDescription: got %q, %v", code, err)
	}
	return request
}

// countInLog returns how often a text occurs in the audit log. It may miss a file that is rotated
// while it reads.
func countInLog(t *testing.T, g *instance, text string) (n int) {
	t.Helper()
	files, err := audit.Files(g.env["KMSGATE_AUDIT_FILE"])
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		content, err := os.ReadFile(file)
		if err != nil {
			continue
		}
		n += strings.Count(string(content), text)
	}
	return n
}
