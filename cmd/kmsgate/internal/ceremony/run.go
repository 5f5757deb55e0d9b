package ceremony

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"slices"
	"time"

	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/attestation"
	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/target"
	"github.com/kmsgate/kmsgate/gateway/kms"
	"github.com/kmsgate/kmsgate/hsm"
)

// Run creates what is missing, and writes the transcript with its attestation. If it fails, running
// it again in a new Ceremony continues.
func (c *Ceremony) Run(ctx context.Context) (p Proof, err error) {
	const again = "run the same command again to continue; a changed plan needs another transcript: --out"
	shown := c.Steps()
	if c.steps, err = c.look(ctx); err != nil {
		return p, err
	}
	// The gateway may have carried out the request of an earlier run since.
	if !slices.EqualFunc(shown, c.Steps(), func(a, b Step) bool { return a == b || a.State == Missing && b.State == Lost }) {
		return p, errors.New("the instance has changed since its steps were shown: run the same command again")
	}
	for i := range c.steps {
		if err := c.take(ctx, &c.steps[i]); err != nil {
			return p, fmt.Errorf("%w (%s)", err, again)
		}
	}
	// Others may have changed something since.
	if c.steps, err = c.look(ctx); err == nil {
		err = c.recordKeys(ctx)
	}
	if err != nil {
		return p, fmt.Errorf("%w (%s)", err, again)
	}
	c.transcript.Steps, c.transcript.Ended = c.Steps(), time.Now().UTC()
	text, err := c.transcript.encode()
	if err != nil {
		return p, err
	}
	p.Transcript = c.transcript
	p.Attestation, err = attestation.Write(ctx, c.caller, attestation.Ceremony, c.path, text, c.transcript.versions(), true)
	if err != nil {
		return p, fmt.Errorf("every step is done, but the transcript is not attested: %w (%s)", err, again)
	}
	if err := p.check(); err != nil {
		return p, fmt.Errorf("every step is done, but the transcript %s is not proven: %w", c.path, err)
	}
	return p, os.Remove(partialPath(c.path))
}

// take carries out a missing step, and saves the partial transcript before its request and after it.
func (c *Ceremony) take(ctx context.Context, s *step) error {
	if s.State == Missing {
		recorded, _ := c.transcript.step(s.Action, s.Name)
		s.Step.State, s.Step.Time = Begun, time.Now().UTC()
		c.transcript.setStep(s.Step)
		if err := c.transcript.save(c.path); err != nil {
			return err
		}
		if err := c.request(ctx, s, recorded.State == Begun); err != nil {
			return fmt.Errorf("%s of %q: %w", s.Action, s.Name, err)
		}
	}
	c.transcript.setStep(s.Step)
	return c.transcript.save(c.path)
}

// request sends a step's request. If again is set, an earlier run may have sent it too, and the gateway
// may still carry that one out.
func (c *Ceremony) request(ctx context.Context, s *step, again bool) error {
	var created kms.DescribeKeyResponse // every answer has its RequestId
	err := c.caller.Call(ctx, s.Action, c.survey.parameters(*s), &created)
	var refusal *kms.Error
	refused := errors.As(err, &refusal) && refusal.Status < http.StatusInternalServerError
	switch {
	case err == nil:
		if s.Action == "CreateNamedKey" {
			c.survey.keyIds[s.key] = created.KeyMetadata.KeyId
		}
		s.Step.State, s.Step.RequestId, s.Step.KeyId = Done, created.RequestId, c.survey.keyIds[s.key]
		return nil
	case refused && again:
		if lookErr := c.survey.look(ctx); lookErr != nil {
			return errors.Join(err, lookErr)
		}
		if c.survey.has(s.Step) {
			s.Step.State, s.Step.KeyId = Lost, c.survey.keyIds[s.key]
			return nil
		}
	case refused: // the gateway did not carry it out
		s.Step.State, s.Step.Time = Missing, time.Time{}
		c.transcript.setStep(s.Step)
		return errors.Join(err, c.transcript.save(c.path))
	}
	return err
}

// recordKeys records the plan's keys as they now are.
func (c *Ceremony) recordKeys(ctx context.Context) error {
	c.transcript.Keys = []KeyRecord{}
	for _, k := range c.Plan.Keys {
		r := KeyRecord{Alias: k.Alias, KeySpec: hsm.KeySpec(k.Spec)}
		var described kms.DescribeKeyResponse
		if err := c.caller.Call(ctx, "DescribeKey", map[string]string{"KeyId": k.Alias}, &described); err != nil {
			return fmt.Errorf("key %q: %w", k.Alias, err)
		}
		r.KeyId, r.DeletionProtection = described.KeyMetadata.KeyId, described.KeyMetadata.DeletionProtection
		versions, err := target.KeyVersions.All(ctx, c.caller, map[string]string{"KeyId": r.KeyId})
		if err != nil {
			return fmt.Errorf("key %q: %w", k.Alias, err)
		}
		for _, v := range versions {
			r.KeyVersionIds = append(r.KeyVersionIds, v.KeyVersionId)
		}
		if r.Policy, err = keyPolicy(ctx, c.caller, r.KeyId); err != nil {
			return fmt.Errorf("key %q: %w", k.Alias, err)
		}
		c.transcript.Keys = append(c.transcript.Keys, r)
	}
	return nil
}

// versions returns the key versions of a transcript.
func (t Transcript) versions() (all []kms.KeyVersionName) {
	for _, k := range t.Keys {
		for _, id := range k.KeyVersionIds {
			all = append(all, kms.KeyVersionName{KeyId: k.KeyId, KeyVersionId: id})
		}
	}
	return all
}
