// Package doctor finds problems of a gateway, its token and its records. It repairs those
// that it can repair without losing anything recorded. It prints nothing.
package doctor

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/target"
	"github.com/kmsgate/kmsgate/gateway/kms"
	"github.com/kmsgate/kmsgate/hsm"
	"github.com/kmsgate/kmsgate/internal/config"
	"github.com/kmsgate/kmsgate/softhsm"
)

// A Severity is how serious a finding is.
type Severity string

// The severities of findings.
const (
	Problem Severity = "problem" // something does not work, is lost, or is accessible to others
	Note    Severity = "note"    // something that the operator should know
)

// A Finding is one result of an examination.
type Finding struct {
	Severity Severity
	What     string   // a sentence
	Do       string   // advice for the operator; empty if nothing needs doing
	Symptoms []string `json:",omitempty"` // sentences about what has the same cause

	causes []string // texts: an error that contains one of them has the same cause
}

// A Diagnosis is the result of an examination.
type Diagnosis struct {
	UID        int    // the user that examined
	User       string // the user's name; empty if it is unknown
	Findings   []Finding
	Repaired   []string    // sentences about what an earlier Repair did
	Offers     []hsm.Offer // the capabilities of the token
	Incomplete bool        // the time was over before everything was examined

	strays []kms.TokenObject // Repair destroys them
	empty  []string          // files that Repair removes

	openErr error    // why the gateway could not be reached or opened
	late    []step   // the steps that have not finished
	skipped []string // sentences about what was not examined because of them
}

func (d *Diagnosis) problem(do, format string, args ...any) {
	d.Findings = append(d.Findings, Finding{Severity: Problem, What: fmt.Sprintf(format, args...), Do: do})
}

func (d *Diagnosis) note(do, format string, args ...any) {
	d.Findings = append(d.Findings, Finding{Severity: Note, What: fmt.Sprintf(format, args...), Do: do})
}

// symptom adds a sentence about an error to the finding that has the same cause. It reports
// whether there is such a finding.
func (d *Diagnosis) symptom(err error, sentence string) bool {
	text := err.Error()
	i := slices.IndexFunc(d.Findings, func(f Finding) bool {
		return slices.ContainsFunc(f.causes, func(cause string) bool { return strings.Contains(text, cause) })
	})
	if i < 0 {
		return false
	}
	d.Findings[i].Symptoms = append(d.Findings[i].Symptoms, sentence)
	return true
}

// add adds what one step has found.
func (d *Diagnosis) add(part *Diagnosis) {
	d.Findings = append(d.Findings, part.Findings...)
	d.Offers = append(d.Offers, part.Offers...)
	d.Incomplete = d.Incomplete || part.Incomplete
	d.strays = append(d.strays, part.strays...)
	d.empty = append(d.empty, part.empty...)
}

// Problems returns the number of findings that are problems.
func (d *Diagnosis) Problems() (n int) {
	for _, f := range d.Findings {
		if f.Severity == Problem {
			n++
		}
	}
	return n
}

// OpenError returns the error of Doctor.Dial, or nil if it succeeded or was not called.
func (d *Diagnosis) OpenError() error { return d.openErr }

// Strays describes the objects in the token that [Doctor.Repair] destroys.
func (d *Diagnosis) Strays() (all []string) {
	for _, o := range d.strays {
		all = append(all, describe(o))
	}
	return all
}

// EmptyFiles returns the paths of SoftHSM's empty files that [Doctor.Repair] removes.
func (d *Diagnosis) EmptyFiles() []string { return d.empty }

// DefaultTimeout is the time that an examination takes at most, unless Doctor.Timeout says
// otherwise.
const DefaultTimeout = 5 * time.Second

// A Doctor examines one gateway. The caller must close it.
type Doctor struct {
	// Configuration loads the gateway's configuration. It returns nil if that is unknown.
	Configuration func() (*config.Config, error)

	// Dial returns a caller of the gateway. With onlyRunning it does not open a stopped one.
	// The Doctor calls it once, after it has examined the files: opening an appliance mends
	// some of their problems.
	Dial func(onlyRunning bool) (target.Caller, error)

	// Timeout is the time that Examine and Close together take at most, whatever hangs. Zero
	// means DefaultTimeout.
	Timeout time.Duration

	// Command is the command line to show to an operator who must be another user. Empty means
	// "kmsgate doctor".
	Command string

	config  *config.Config // nil before Configuration, and if the configuration is unknown
	gateway target.Caller  // nil before Dial, and if Dial failed

	statfs func(path string, disk *syscall.Statfs_t) error // nil: syscall.Statfs; tests replace it
}

// closeTime returns the part of the time that Close takes at most.
func (dr *Doctor) closeTime() time.Duration { return min(dr.timeout()/5, 10*time.Second) }

func (dr *Doctor) timeout() time.Duration { return cmp.Or(dr.Timeout, DefaultTimeout) }

// Close closes the connection to the gateway, or the appliance. If that hangs, Close returns
// an error, and the end of the process closes it.
func (dr *Doctor) Close() error {
	if dr.gateway == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), dr.closeTime())
	defer cancel()
	err, ok := start(step{}, dr.gateway.Close).wait(ctx)
	if !ok {
		return fmt.Errorf("closing the instance has not finished within %v; it ends with this process", dr.closeTime())
	}
	return err
}

// An examination is one call of Examine.
type examination struct {
	*Doctor
	found *Diagnosis
	owner int       // of the instance's directory; -1 if it is unknown
	ca    []Finding // about the CA's files; dropped if the instance cannot be opened, because the error then names them
}

// Examine examines the configuration, the files, the token and the records, in this order:
// the state of a file can be why the appliance does not open. It changes only what opening
// an appliance changes. It returns in time even if a file system, the token or the gateway
// hangs, and then reports which of them.
func (dr *Doctor) Examine(ctx context.Context) *Diagnosis {
	ctx, cancel := context.WithTimeout(ctx, dr.timeout()-dr.closeTime())
	defer cancel()
	e := &examination{Doctor: dr, found: &Diagnosis{Findings: []Finding{}, Repaired: []string{}, Offers: []hsm.Offer{}}}
	e.identify(ctx)
	if e.configure(ctx) && e.enter(ctx) {
		empty := e.examineFiles(ctx)
		if e.open(ctx) && e.answers(ctx) {
			e.examineGateway(ctx, empty)
		}
	}
	e.found.reportLate()
	return e.found
}

// examineGateway examines whatever only the gateway knows.
func (e *examination) examineGateway(ctx context.Context, empty []softhsm.Finding) {
	e.ask(ctx, 0.5, step{"Listing the access points", gatewayAdvice}, e.examineAccessPoints)
	e.ask(ctx, 0.5, step{"Listing the client keys", gatewayAdvice}, func(ctx context.Context, d *Diagnosis) {
		e.examineClientKeys(ctx, d, time.Now())
	})
	e.ask(ctx, 0.5, step{"Listing the users", gatewayAdvice}, e.examineSigningUser)
	answered := false
	finished := e.ask(ctx, 0.75, step{"Examining the token", tokenAdvice}, func(ctx context.Context, d *Diagnosis) {
		answered = e.examineToken(ctx, d)
	})
	if !finished || !answered {
		return
	}
	var missing map[string]bool
	finished = e.ask(ctx, 0.75, step{"Comparing the token with the records", tokenAdvice},
		func(ctx context.Context, d *Diagnosis) { missing = e.compare(ctx, d, empty) })
	if !finished || missing == nil {
		return
	}
	e.ask(ctx, 1, step{"Testing the keys", tokenAdvice}, func(ctx context.Context, d *Diagnosis) {
		e.examineKeys(ctx, d, missing)
	})
}

// Repair destroys the strays and removes the empty files that an examination found. It
// returns sentences about what it did. The gateway checks each object against its records
// again before it destroys it.
func (dr *Doctor) Repair(ctx context.Context, d *Diagnosis) (repaired []string, err error) {
	for _, o := range d.strays {
		err := dr.gateway.Call(ctx, "DestroyTokenObject", map[string]string{
			"Handle": strconv.FormatUint(uint64(o.Handle), 10), "Class": o.Class,
			"Label": o.Label, "ObjectId": o.ObjectId,
		}, nil)
		// Some tokens destroy a public key together with its private key.
		if err != nil && !errors.Is(err, kms.ErrObjectNotFound) {
			return repaired, fmt.Errorf("destroying %s: %w", describe(o), err)
		}
		repaired = append(repaired, fmt.Sprintf("Destroyed %s.", describe(o)))
	}
	for _, path := range d.empty {
		if err := softhsm.RemoveEmpty(path); err != nil {
			return repaired, fmt.Errorf("removing the empty file %q: %w", path, err)
		}
		repaired = append(repaired, fmt.Sprintf("Removed %q.", path))
	}
	return repaired, nil
}

// isNotFound reports whether err says that a key, a version or a resource does not exist.
func isNotFound(err error) bool {
	return errors.Is(err, kms.ErrKeyNotFound) || errors.Is(err, kms.ErrKeyVersionNotFound) ||
		errors.Is(err, kms.ErrResourceNotFound)
}
