package gateway_test

import (
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/kmsgate/kmsgate/gateway/kms"
)

// TestClockJumps lets the clock jump a year or a week ahead and back. No key is deleted because of that.
func TestClockJumps(t *testing.T) {
	const day = 24 * time.Hour
	b := newBench(t)
	keyId := b.newKey()
	b.want(b.do(b.root, "ScheduleKeyDeletion", "KeyId", keyId, "PendingWindowInDays", "7"), 200, "")
	pending := func(moment string) {
		t.Helper()
		b.server.CarryOutDeletions(t.Context())
		if state := b.describe(keyId)["KeyState"]; state != "PendingDeletion" {
			t.Fatalf("%s: got %v, want PendingDeletion", moment, state)
		}
	}
	for _, jump := range []time.Duration{8 * day, 365 * day} {
		b.clock.jump(jump)
		pending("after a jump")
		if status, text := b.observe("/ready"); status != 200 || !strings.HasPrefix(text, "ok\nwarning: ") || !strings.Contains(text, "it jumped by") {
			t.Errorf("/ready after a jump: got %d %q, want 200 and a warning", status, text)
		}
		if got := b.metric("kmsgate_clock_believed"); got != "0" {
			t.Errorf("kmsgate_clock_believed after a jump: got %s, want 0", got)
		}
		b.clock.move(25 * time.Second)
		b.clock.jump(-jump)
		pending("after the jump back")
		b.clock.move(day)
		pending("after a day of agreement")
	}
	b.clock.jump(30 * day)
	pending("after a jump that stays")
	b.server.Flush()
	b.stop()
	b.start()
	pending("after a restart")
	var described kms.DescribeClockResponse
	if err := b.server.Call(t.Context(), "DescribeClock", nil, &described); err != nil || described.Clock.Believed || described.Clock.KeysDue != 1 {
		t.Errorf("DescribeClock: got %+v, %v, want a clock that is not believed and one key due", described.Clock, err)
	}
	if err := b.server.Call(t.Context(), "ConfirmClock", nil, nil); err != nil {
		t.Fatal(err)
	}
	if status, text := b.observe("/ready"); status != 200 || text != "ok\n" {
		t.Errorf("/ready after an operator's word: got %d %q, want 200 ok", status, text)
	}
	b.server.CarryOutDeletions(t.Context())
	b.want(b.do(b.root, "DescribeKey", "KeyId", keyId), 404, "Forbidden.KeyNotFound")
}

// TestStartsLate starts the gateway when a deletion has fallen due while it was stopped. A wrong clock
// looks the same, so the deletion waits for a day.
func TestStartsLate(t *testing.T) {
	b := newBench(t)
	keyId := b.newKey()
	b.want(b.do(b.root, "ScheduleKeyDeletion", "KeyId", keyId, "PendingWindowInDays", "7"), 200, "")
	b.server.Flush()
	b.stop()
	b.clock.move(8 * 24 * time.Hour)
	b.start()
	b.clock.move(24*time.Hour - time.Second)
	b.server.CarryOutDeletions(t.Context())
	b.want(b.do(b.root, "DescribeKey", "KeyId", keyId), 200, "")
	b.clock.move(time.Second)
	b.server.CarryOutDeletions(t.Context())
	b.want(b.do(b.root, "DescribeKey", "KeyId", keyId), 404, "Forbidden.KeyNotFound")
}

// TestReplayAfterJump repeats changes after the clock was set ahead and back. A client whose clock is right
// can make changes all the time, except while the gateway's clock is wrong.
func TestReplayAfterJump(t *testing.T) {
	for _, restart := range []bool{false, true} {
		b := newBench(t)
		create := func(name string) url.Values {
			v := b.sign(b.root, "GET", "CreateAlias", params("AliasName", "alias/"+name, "KeyId", b.key.KeyId))
			b.want(b.send("GET", "/?"+v.Encode(), nil), 200, "")
			b.want(b.do(b.root, "DeleteAlias", "AliasName", "alias/"+name), 200, "")
			return v
		}
		refused := func(moment string, v url.Values) {
			t.Helper()
			if a := b.send("GET", "/?"+v.Encode(), nil); a.Status != 400 {
				t.Errorf("%s (restarted: %v): got %d %s, want 400", moment, restart, a.Status, a.Code)
			}
		}
		before := create("before")
		b.clock.jump(time.Hour)
		during := create("during")
		for range 40 { // long enough for everything to be forgotten that is forgotten after 30 minutes
			b.clock.move(time.Minute)
			create("more")
		}
		if restart {
			b.server.Flush()
			b.stop()
			b.start()
		}
		b.clock.jump(-time.Hour)
		create("again") // 40 minutes after the first, by the right clock
		for range 12 * 4 {
			b.clock.move(5 * time.Minute)
			create("more")
			refused("the change before the jump", before)
			refused("the change while the clock was wrong", during)
		}
	}
}

// TestScheduledByWrongClock schedules a deletion while the clock is a year behind. The window begins when
// the clock has been corrected and can be believed again.
func TestScheduledByWrongClock(t *testing.T) {
	const day = 24 * time.Hour
	b := newBench(t)
	keyId := b.newKey()
	b.clock.jump(-365 * day)
	b.want(b.do(b.root, "ScheduleKeyDeletion", "KeyId", keyId, "PendingWindowInDays", "7"), 200, "")
	b.clock.jump(365 * day)
	for range 8 { // a day until the clock is believed, and seven days
		b.server.CarryOutDeletions(t.Context())
		b.want(b.do(b.root, "DescribeKey", "KeyId", keyId), 200, "")
		b.clock.move(day)
	}
	b.server.CarryOutDeletions(t.Context())
	b.want(b.do(b.root, "DescribeKey", "KeyId", keyId), 404, "Forbidden.KeyNotFound")
}
