// Package servercert holds the certificate that the gateway's listeners present. It is the
// operator's, from two files, or one that the gateway's CA issues. It changes while the gateway
// runs: a handshake uses the certificate that was in use when the handshake began, so a change
// fails none.
//
// An operator's certificate is replaced only by one that expires no sooner. A certificate of the CA is
// replaced when it is due, or when it is not valid yet because the clock was ahead. Everything else is
// refused, and the certificate in use stays.
package servercert

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/kmsgate/kmsgate/internal/ca"
)

// No wait is longer than these, because the wall clock can jump and files change unannounced.
const (
	readEvery  = 10 * time.Second       // between two looks at the operator's files
	renewEvery = time.Minute            // between two looks whether a certificate of the CA is due
	renewSoon  = time.Second            // the shortest wait for a certificate that is almost due
	warnEvery  = 24 * time.Hour         // between two logged warnings
	settleTime = 200 * time.Millisecond // how long the operator's files must stay the same before they are used
)

// Config says where the certificate comes from: the CA or, if it is nil, the two files.
type Config struct {
	CA *ca.Authority

	CertificateFile string // the operator's certificate chain in PEM, the server's certificate first
	KeyFile         string // its private key in PEM

	Now func() time.Time // the wall clock; nil means time.Now
	// Believed reports whether Now can be believed; nil means that it can. While it cannot, the CA renews
	// nothing: clients whose clocks are right would refuse a certificate of the future.
	Believed func() bool
	Logger   *slog.Logger // nil means slog.Default()
}

// Certificates hold the certificate in use. They are safe for concurrent use.
type Certificates struct {
	config  Config
	current atomic.Pointer[served]  // nil before Start
	refused atomic.Pointer[refusal] // what the last look refused; nil if it refused nothing

	looking sync.Mutex // at most one look at a time: a look can wait for a disk
	names   []string   // of the certificates that the CA issues; guarded by looking
	warned  time.Time  // when warnings were last logged; guarded by looking
}

// A served certificate does not change.
type served struct {
	certificate *tls.Certificate
	content     digest    // of the operator's files
	renewal     time.Time // when the CA must issue the next one
}

// A refusal is a certificate that is not served.
type refusal struct {
	content digest // of the operator's files, or of the CA's error
	err     error
}

// New returns Certificates that hold no certificate yet.
func New(c Config) *Certificates {
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Believed == nil {
		c.Believed = func() bool { return true }
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	return &Certificates{config: c}
}

// Start makes the first certificate: the operator's, or one that the CA issues for these DNS
// names and IP addresses. If the operator's files have faults, the error wraps [Faults].
func (c *Certificates) Start(names []string) error {
	c.looking.Lock()
	defer c.looking.Unlock()
	c.names = names
	first, err := c.first()
	if err == nil {
		c.current.Store(first)
	}
	return err
}

func (c *Certificates) first() (*served, error) {
	if c.config.CA != nil {
		return c.issue()
	}
	f := read(c.config.CertificateFile, c.config.KeyFile)
	certificate, err := f.parse(c.now())
	if err != nil {
		return nil, fmt.Errorf("loading the certificate %q with the key %q: %w",
			c.config.CertificateFile, c.config.KeyFile, err)
	}
	return &served{certificate: certificate, content: f.digest()}, nil
}

// GetCertificate returns the certificate in use. It is for [tls.Config].
func (c *Certificates) GetCertificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	current := c.current.Load()
	if current == nil {
		return nil, errors.New("the server has no certificate yet")
	}
	return current.certificate, nil
}

// Expiry returns when the certificate in use expires. Before Start it is zero.
func (c *Certificates) Expiry() time.Time {
	current := c.current.Load()
	if current == nil {
		return time.Time{}
	}
	return current.certificate.Leaf.NotAfter
}

// Run keeps the certificate current until ctx is done. It takes the operator's certificate
// some 10 s after a change of its files. It has the CA issue another certificate, with a new key,
// within a minute of the moment when two thirds of the certificate's life have passed on the wall
// clock. It logs each replacement, each content that it refuses, and once a day all [Warning]s.
// Call Start first.
func (c *Certificates) Run(ctx context.Context) {
	c.check()
	timer := time.NewTimer(c.wait())
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		c.check()
		timer.Reset(c.wait())
	}
}

// wait returns the time until the next look.
func (c *Certificates) wait() time.Duration {
	if c.config.CA == nil {
		return readEvery
	}
	if current := c.current.Load(); current != nil {
		if left := current.renewal.Sub(c.now()); left > 0 {
			return min(max(left, renewSoon), renewEvery)
		}
	}
	return renewEvery
}

// check looks once, and logs what is new.
func (c *Certificates) check() {
	c.looking.Lock()
	defer c.looking.Unlock()
	known := c.refused.Load()
	changed, err := c.look()
	refused := c.refused.Load()
	switch {
	case changed:
		c.logReplaced()
	case err != nil && (known == nil || known.content != refused.content):
		c.logRefused(err)
	}
	c.warn()
}

// Reload looks at once, and logs the result. Before Start it does nothing.
func (c *Certificates) Reload() {
	c.looking.Lock()
	defer c.looking.Unlock()
	if c.current.Load() == nil {
		return
	}
	changed, err := c.look()
	switch {
	case changed:
		c.logReplaced()
	case err != nil:
		c.logRefused(err)
	default:
		c.config.Logger.Info("the server's certificate has not changed", "expires", inUTC(c.Expiry()))
	}
}

// look replaces the certificate in use if there is another one, and reports whether it did. An
// error says why it refused the other one.
func (c *Certificates) look() (changed bool, err error) {
	current := c.current.Load()
	if current == nil {
		return false, nil
	}
	var next *served
	var content digest
	if c.config.CA != nil {
		next, content, err = c.renew(current)
	} else {
		next, content, err = c.reread(current)
	}
	if err != nil {
		c.refused.Store(&refusal{content, err})
		return false, err
	}
	c.refused.Store(nil)
	if next == nil {
		return false, nil
	}
	c.current.Store(next)
	return true, nil
}

// renew returns the CA's next certificate, or nil if none is due.
func (c *Certificates) renew(current *served) (*served, digest, error) {
	now, leaf := c.now(), current.certificate.Leaf
	// The clock was ahead when that certificate was issued.
	early := now.Before(leaf.NotBefore)
	due := !now.Before(current.renewal) && c.config.CA.NotAfter().After(leaf.NotAfter) && c.config.Believed()
	if !early && !due {
		return nil, digest{}, nil
	}
	next, err := c.issue()
	if err != nil {
		return nil, sha256.Sum256([]byte(err.Error())), err
	}
	return next, digest{}, nil
}

func (c *Certificates) issue() (*served, error) {
	now := c.now()
	certificate, err := c.config.CA.Issue(c.names, now)
	if err != nil {
		return nil, err
	}
	life := certificate.Leaf.NotAfter.Sub(now)
	return &served{certificate: &certificate, renewal: now.Add(life / 3 * 2)}, nil
}

// reread returns the certificate in the operator's files, or nil if it is the one in use.
func (c *Certificates) reread(current *served) (*served, digest, error) {
	f := read(c.config.CertificateFile, c.config.KeyFile)
	content := f.digest()
	if content == current.content {
		return nil, content, nil
	}
	// A chain that is being written can be a valid, shorter one.
	time.Sleep(settleTime)
	if again := read(c.config.CertificateFile, c.config.KeyFile); again.digest() != content {
		return nil, content, nil // the next look finds the rest
	}
	certificate, err := f.parse(c.now())
	if err != nil {
		return nil, content, err
	}
	if leaf, inUse := certificate.Leaf, current.certificate.Leaf; leaf.NotAfter.Before(inUse.NotAfter) {
		return nil, content, Faults{{certificateField, fmt.Sprintf("the certificate expires at %s, sooner than the "+
			"one in use, which expires at %s (install one that expires later, or restart the gateway to use this one)",
			inUTC(leaf.NotAfter), inUTC(inUse.NotAfter))}}
	}
	return &served{certificate: certificate, content: content}, content, nil
}

func (c *Certificates) logReplaced() {
	c.config.Logger.Info("the server's certificate was replaced", "expires", inUTC(c.Expiry()))
}

func (c *Certificates) logRefused(err error) {
	c.config.Logger.Warn(c.refusalText(), "err", err, "expires", inUTC(c.Expiry()))
}

// refusalText says what was refused, for the log and for /ready.
func (c *Certificates) refusalText() string {
	if c.config.CA != nil {
		return "the CA cannot renew the server's certificate; the one in use stays"
	}
	return "the files of the server's certificate were refused; the one in use stays"
}

// now returns the time without a reading of the monotonic clock, which does not follow jumps of
// the wall clock, as certificates do.
func (c *Certificates) now() time.Time { return c.config.Now().Round(0) }

func inUTC(t time.Time) string { return t.UTC().Format(time.RFC3339) }
