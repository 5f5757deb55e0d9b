package ceremony

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/google/uuid"

	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/attestation"
	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/target"
	"github.com/kmsgate/kmsgate/gateway/kms"
	"github.com/kmsgate/kmsgate/internal/durable"
)

// A Ceremony carries out a plan.
type Ceremony struct {
	Plan Plan

	path       string   // of the transcript
	directory  *os.File // the transcript's, locked; nil before Prepare
	caller     target.Caller
	transcript Transcript
	survey     *survey
	steps      []step
	complete   bool
}

// Open reads a plan.
func Open(path string) (*Ceremony, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	if info, err := file.Stat(); err != nil || !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a regular file", path)
	}
	text, err := io.ReadAll(io.LimitReader(file, MaxPlan+1))
	if err != nil {
		return nil, err
	}
	plan, err := ParsePlan(text)
	if err != nil {
		return nil, fmt.Errorf("the plan %q has mistakes:\n%w", path, err)
	}
	return &Ceremony{Plan: plan, path: DefaultPath(path), transcript: Transcript{
		Format: transcriptFormat, Title: plan.Title, Operators: plan.Operators, Plan: string(text), Steps: []Step{}, Keys: []KeyRecord{}}}, nil
}

// Close lets other ceremonies write into the transcript's directory.
func (c *Ceremony) Close() error {
	if c.directory == nil {
		return nil
	}
	return c.directory.Close()
}

// lock locks the transcript's directory against other ceremonies, until Close.
func (c *Ceremony) lock() (err error) {
	dir := filepath.Dir(c.path)
	if c.directory, err = os.Open(dir); err != nil {
		return err
	}
	if err := durable.Lock(c.directory); errors.Is(err, durable.ErrLocked) {
		return fmt.Errorf("another ceremony has its transcript in %s, and has not ended: wait, or choose another directory with --out (%w)", dir, err)
	} else if err != nil {
		return err
	}
	return nil
}

// Prepare compares the plan with a gateway's instance, and sends dry runs of missing steps. It changes
// nothing. The transcript's path is path, or DefaultPath if that is empty.
func (c *Ceremony) Prepare(ctx context.Context, caller target.Caller, path string) (err error) {
	if path != "" {
		c.path = path
	}
	if err := c.lock(); err != nil {
		return err
	}
	if c.transcript.Instance, err = target.Instance(ctx, caller); err != nil {
		return err
	}
	if err := c.load(); err != nil {
		return err
	}
	c.caller = &referring{caller, "ceremony " + c.transcript.Ceremony}
	c.survey = &survey{caller: c.caller, plan: c.Plan}
	if c.steps, err = c.look(ctx); err != nil {
		return err
	}
	if err := c.survey.checkOffers(ctx); err != nil {
		return err
	}
	var untried []step
	for _, s := range c.steps {
		// The gateway may still be carrying out the request of an earlier run.
		if recorded, _ := c.transcript.step(s.Action, s.Name); s.State == Missing && recorded.State != Begun {
			untried = append(untried, s)
		}
	}
	return c.survey.try(ctx, untried)
}

// look compares the plan with the instance, and returns its steps with what is done of them.
func (c *Ceremony) look(ctx context.Context) ([]step, error) {
	if err := c.survey.look(ctx); err != nil {
		return nil, err
	}
	steps, err := c.Plan.steps()
	if err != nil {
		return nil, err
	}
	for i := range steps {
		s := &steps[i]
		recorded, ok := c.transcript.step(s.Action, s.Name)
		wasThere := ok && recorded.State != Begun && recorded.State != Missing
		switch {
		case !c.survey.has(s.Step) && wasThere:
			return nil, fmt.Errorf("%q is gone, which this ceremony had recorded (%s): choose another transcript with --out to carry the plan out again", s.Name, s.Action)
		case !c.survey.has(s.Step):
			continue
		case wasThere:
			if keyId := c.survey.keyIds[s.key]; keyId != recorded.KeyId {
				return nil, fmt.Errorf("%s names key %s, and this ceremony had recorded %s: put the alias back, or choose another transcript with --out", s.key, keyId, recorded.KeyId)
			}
			s.Step = recorded
		case ok && recorded.State == Begun:
			s.Step = recorded
			s.Step.State, s.Step.KeyId = Lost, c.survey.keyIds[s.key]
		default:
			s.Step.State, s.Step.KeyId = Existed, c.survey.keyIds[s.key]
		}
	}
	return steps, nil
}

// load finds out whether the ceremony is complete, continues or is new.
func (c *Ceremony) load() error {
	partial, begun, err := readPartial(c.path)
	if err != nil {
		return err
	}
	finished, err := readTranscript(c.path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	wrote := err == nil
	if begun {
		if err := c.checkSame(partial, partialPath(c.path)); err != nil {
			return err
		}
		if wrote && finished.Ceremony != partial.Ceremony {
			return fmt.Errorf("%s is of another ceremony: choose another transcript with --out", c.path)
		}
		c.transcript = partial
		return nil
	}
	if wrote {
		if err := c.checkSame(finished, c.path); err != nil {
			return err
		}
		text, err := finished.encode()
		if err != nil {
			return err
		}
		if !attestation.Covers(c.path, text) {
			return fmt.Errorf("%s exists without its attestation: restore that, or choose another transcript with --out", c.path)
		}
		c.transcript, c.complete = finished, true
		return nil
	}
	for _, path := range attestation.Files(c.path) {
		if _, err := os.Lstat(path); err == nil {
			return fmt.Errorf("%s exists: move it away, or choose another transcript with --out", path)
		}
	}
	c.transcript.Ceremony, c.transcript.Began = uuid.NewString(), time.Now().UTC()
	return nil
}

// checkSame checks that a transcript is of this plan and this instance.
func (c *Ceremony) checkSame(t Transcript, path string) error {
	if t.Plan != c.transcript.Plan {
		return fmt.Errorf("%s is of another plan, or of this one before it was changed: choose another transcript with --out", path)
	}
	if t.Instance != c.transcript.Instance {
		return fmt.Errorf("%s is of instance %s, but the gateway is %s: address the other gateway, or choose another transcript with --out", path, t.Instance, c.transcript.Instance)
	}
	return nil
}

// Steps returns the steps of the plan, in their order.
func (c *Ceremony) Steps() []Step {
	all := []Step{}
	for _, s := range c.steps {
		all = append(all, s.Step)
	}
	return all
}

// A PlannedStep is a Step with what it creates, for people.
type PlannedStep struct {
	Step
	Details string
}

// PlannedSteps is Steps with what each creates.
func (c *Ceremony) PlannedSteps() []PlannedStep {
	all := []PlannedStep{}
	for _, s := range c.steps {
		all = append(all, PlannedStep{s.Step, s.details})
	}
	return all
}

// Complete reports whether the ceremony has ended before, so there is nothing to do.
func (c *Ceremony) Complete() bool { return c.complete }

// Path returns the path of the transcript.
func (c *Ceremony) Path() string { return c.path }

// Instance returns the ARN of the instance.
func (c *Ceremony) Instance() string { return c.transcript.Instance }

// referring is a caller whose requests all have a Reference in the audit log.
type referring struct {
	target.Caller
	reference string
}

func (r *referring) Call(ctx context.Context, action string, parameters map[string]string, answer any) error {
	return r.Do(ctx, kms.AdminRequest{Action: action, Parameters: parameters, Reference: r.reference}, answer)
}
