package servercert_test

import (
	"bytes"
	"crypto/x509"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kmsgate/kmsgate/internal/servercert"
)

// TestRenewal tests that a certificate of the CA is replaced, with a new key, once two thirds of its
// life have passed on the wall clock, and not earlier.
func TestRenewal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := issued(t)
		b.start()
		first := b.leaf()
		life := first.NotAfter.Sub(b.now())
		b.run()
		b.jump(life/3*2 - time.Hour)
		time.Sleep(2 * time.Minute)
		b.Reload()
		b.expectSame("an hour before two thirds", first)
		b.jump(time.Hour)
		time.Sleep(2 * time.Minute)
		b.expectReplaced("after two thirds", first)
		second := b.leaf()
		if bytes.Equal(second.RawSubjectPublicKeyInfo, first.RawSubjectPublicKeyInfo) {
			t.Error("the second certificate has the key of the first")
		}
		if left := second.NotAfter.Sub(b.now()); left < 824*day || !b.Expiry().Equal(second.NotAfter) {
			t.Errorf("the second certificate is valid for %v and Expiry is %v, want 825 days", left, b.Expiry())
		}
		time.Sleep(time.Hour)
		b.expectSame("an hour later", second)
		b.expectLines("after one renewal", "the server's certificate was replaced", 1)
	})
}

// TestClockWasAhead tests that a certificate that was issued while the clock was ahead is replaced
// once the clock is right: until then it is not valid yet.
func TestClockWasAhead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := issued(t)
		b.jump(3 * 365 * day)
		b.start()
		first := b.leaf()
		b.run()
		b.jump(-3 * 365 * day)
		time.Sleep(2 * time.Minute)
		b.expectReplaced("after the clock was set back", first)
		if second := b.leaf(); b.now().Before(second.NotBefore) || b.now().After(second.NotAfter) {
			t.Errorf("at %v the certificate is valid from %v until %v", b.now(), second.NotBefore, second.NotAfter)
		}
	})
}

// TestEndOfCA tests that a certificate that ends with the CA is not renewed, because another one
// would end no later, and that the CA's end is reported a year ahead and stops nothing.
func TestEndOfCA(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := issued(t)
		b.jump(b.authority.NotAfter().Sub(b.now()) - 366*day)
		b.start()
		if w := b.Warnings(); len(w) != 0 {
			t.Errorf("366 days before the CA's end: got the warnings %v, want none", w)
		}
		b.jump(2 * day)
		b.run()
		synctest.Wait()
		b.expectLines("364 days before the CA's end", "level=WARN msg=\"the CA's certificate expires at", 1)
		first := b.leaf()
		if !first.NotAfter.Equal(b.authority.NotAfter()) {
			t.Errorf("the certificate expires at %v, want the CA's end, %v", first.NotAfter, b.authority.NotAfter())
		}
		b.jump(344 * day)
		time.Sleep(time.Hour)
		b.expectSame("20 days before the CA's end", first)
		if w := b.Warnings(); len(w) != 1 || !strings.Contains(w[0].Do, "kmsgate init --new-ca") || w[0].Expired {
			t.Errorf("20 days before the CA's end: got the warnings %v, want one with kmsgate init --new-ca", w)
		}
		b.jump(21 * day)
		time.Sleep(day)
		b.expectLines("after the CA's end", "level=ERROR msg=\"the CA's certificate expired at", 1)
		if detail := b.Detail(); !strings.Contains(detail, "the CA's certificate expired at") {
			t.Errorf("after the CA's end: got the detail %q, want that the certificate expired", detail)
		}
		b.start() // as a gateway does that starts then
	})
}

// TestOperatorsCertificateExpires tests that an operator's certificate is reported 30 days ahead,
// once a day, and that Start refuses files with faults.
func TestOperatorsCertificateExpires(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := operators(t, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(31 * day) })
		b.start()
		b.run()
		synctest.Wait()
		const line = "the server's certificate expires at 2000-02-01T00:00:00Z"
		b.expectLines("31 days ahead", line, 0)
		b.jump(2 * day)
		time.Sleep(15 * time.Second)
		b.expectLines("29 days ahead", line, 1)
		if detail := b.Detail(); !strings.Contains(detail, line) || !strings.Contains(detail, "without a restart") {
			t.Errorf("got the detail %q, want %q with advice", detail, line)
		}
		time.Sleep(23 * time.Hour)
		b.expectLines("23 hours later", line, 1)
		time.Sleep(2 * time.Hour)
		b.expectLines("25 hours later", line, 2)
		b.jump(30 * day)
		if w := b.Warnings(); len(w) != 1 || !w[0].Expired {
			t.Errorf("after the end: got the warnings %v, want one that says so", w)
		}
		var faults servercert.Faults
		if err := b.Start(nil); !errors.As(err, &faults) || !strings.Contains(err.Error(), b.path("cert")) {
			t.Errorf("Start after the end: got %v, want Faults with the file's name", err)
		}
	})
}

// TestClockNotBelieved tests that a clock that is ahead and cannot be believed renews nothing.
func TestClockNotBelieved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := issued(t)
		b.start()
		first := b.leaf()
		b.run()
		b.doubtful.Store(true)
		b.jump(600 * day)
		time.Sleep(10 * time.Minute)
		b.expectSame("while the clock cannot be believed", first)
		b.doubtful.Store(false)
		time.Sleep(2 * time.Minute)
		b.expectReplaced("once it can", first)
	})
}
