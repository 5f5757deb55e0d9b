package gateway

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"runtime/debug"
	"time"

	"github.com/google/uuid"

	"github.com/kmsgate/kmsgate/gateway/audit"
	"github.com/kmsgate/kmsgate/gateway/identity"
	"github.com/kmsgate/kmsgate/gateway/kms"
	"github.com/kmsgate/kmsgate/hsm"
	"github.com/kmsgate/kmsgate/store"
)

// A call is one request on its way through the corridor. It belongs to one
// goroutine.
type call struct {
	server    *Server
	door      door
	now       time.Time
	requestId string

	// Set by the door, which reads what the request claims and asks for.
	action     string
	parameters map[string]string
	nonce      *store.Nonce // to be remembered by what the call changes; nil: there is none

	records   *store.Records      // as they are at the one moment that the call sees
	principal *identity.Principal // nil until the claim was verified
	operation operation           // zero until it was looked up
	dryRun    bool
	confirmed bool
	changed   bool // records, so that there is a line in the outbox

	entry audit.Entry // filled by whoever knows something
}

// serve takes one request through the corridor: read, authenticate, look the operation
// up, charge its quota, decode, do, write the audit line, answer.
func (s *Server) serve(ctx context.Context, d door, source string) error {
	c := &call{server: s, door: d, now: s.config.Now().UTC(), requestId: uuid.NewString()}
	c.entry = audit.Entry{Time: c.now, RequestId: c.requestId, Door: string(d.name()), Source: source}
	resp, err := recovered(func() (kms.Response, error) {
		if err := d.read(c); err != nil {
			return nil, err
		}
		return c.do(ctx)
	})
	resp, api := c.finish(resp, err)
	return d.answer(c, resp, api)
}

// do takes what was read to its answer.
func (c *call) do(ctx context.Context) (kms.Response, error) {
	if err := c.authenticate(ctx); err != nil {
		return nil, err
	}
	// Every operation obeys DryRun: who sets it means that nothing shall be done.
	c.dryRun, _ = kms.ParseBool(c.parameters["DryRun"])
	c.entry.DryRun = c.dryRun
	resp, err := c.operate(ctx)
	if err != nil && c.dryRun {
		err = dryRunOf(err)
	}
	return resp, err
}

// authenticate says who asks, by the records as they are now. From here on the call
// sees no others, unless it has to wait for more of its request and asks again.
func (c *call) authenticate(ctx context.Context) (err error) {
	c.records = c.server.config.Store.Now()
	if c.principal, err = c.door.authenticate(ctx, c); err != nil {
		return err
	}
	c.entry.Principal = c.principal.Name
	return nil
}

// operate looks the operation up, charges for it and does it.
func (c *call) operate(ctx context.Context) (resp kms.Response, err error) {
	if c.operation, err = c.door.lookup(c); err != nil {
		return nil, err
	}
	if err := c.charge(); err != nil {
		return nil, err
	}
	if text := c.parameters["DryRun"]; text != "" {
		if _, ok := kms.ParseBool(text); !ok {
			return nil, kms.InvalidParameter("DryRun", `%q is neither "true" nor "false"`, kms.Clip(text))
		}
	}
	if err := kms.CheckFormat(c.parameters["Format"]); err != nil {
		return nil, err
	}
	if resp, err = c.operation.run(ctx, c); err != nil {
		return nil, err
	}
	if !c.confirmed {
		return nil, fmt.Errorf("the operation %s answered without having confirmed", c.action)
	}
	resp.SetRequestId(c.requestId)
	return resp, nil
}

// charge takes a call from what it is to be charged to, or returns
// Rejected.Throttling.
func (c *call) charge() error {
	for i, name := range c.operation.charges {
		if i == 0 {
			c.entry.Quota = string(name)
		}
		userName := c.principal.Name
		if name == kms.QuotaDedicatedInstance {
			userName = ""
		}
		perSecond := c.server.config.Quotas.PerSecond(name, c.principal.Quotas)
		if !c.server.buckets.Take(userName, name, perSecond, c.server.config.Now) {
			c.entry.Quota = string(name)
			return kms.ErrThrottling
		}
	}
	return nil
}

// dryRunOf keeps err for the log and puts a dry run's answer in front.
func dryRunOf(err error) error {
	api := apiError(err)
	if answer := kms.DryRunError(api); answer != api {
		return fmt.Errorf("%w (%w)", answer, err)
	}
	return err
}

// recovered runs f and turns a panic into an error.
func recovered(f func() (kms.Response, error)) (resp kms.Response, err error) {
	defer func() {
		if p := recover(); p != nil {
			resp, err = nil, fmt.Errorf("panic: %v\n%s", p, debug.Stack())
		}
	}()
	return f()
}

// finish writes the audit line and gives what the client is told: resp, or the
// error. If the line cannot be written it is an error whatever resp is.
func (c *call) finish(resp kms.Response, err error) (kms.Response, *kms.Error) {
	var api *kms.Error
	c.entry.Status = http.StatusOK
	if err != nil {
		api, resp = c.door.errorOf(err), nil
		c.entry.Status, c.entry.Code = api.Status, api.Code
		c.entry.Reason = kms.ClipTo(kms.MaxReason, err.Error())
	}
	c.entry.Duration = c.server.config.Now().Sub(c.now)
	if auditErr := c.audit(); auditErr != nil {
		auditErr = errors.Join(auditErr, discard(resp))
		api, resp, err = kms.ErrAuditLog, nil, auditErr
		if c.changed {
			api = kms.ErrAuditPending
		}
	}
	c.server.metrics.count(c, api)
	c.log(api, err)
	return resp, api
}

// audit writes the call's line, and waits until it is on disk. It does not wait
// for the line of a caller who could not say who it is, and does without where
// there are too many of them.
func (c *call) audit() error {
	switch {
	case c.changed:
		return c.server.journal.Append(c.entry)
	case c.entry.Principal != "":
		return c.server.config.Audit.Append(c.entry)
	case c.server.unauthenticated.Allow(c.entry.Source, c.server.config.Now):
		c.server.config.Audit.Offer(c.entry, func() { c.server.unauthenticated.Count(c.entry.Source) })
	}
	return nil
}

// log writes the one line that a request has in the operator's log.
func (c *call) log(api *kms.Error, err error) {
	attrs := []any{"RequestId", c.requestId, "door", c.door.name(), "action", c.entry.Action, "principal", c.entry.Principal,
		"source", c.entry.Source, "duration", c.entry.Duration}
	switch {
	case api == nil:
		c.server.config.Logger.Debug("request", attrs...)
	case errors.Is(err, hsm.ErrRefused), api.Status >= 500 && api != kms.ErrAuditLog && api != kms.ErrAuditPending: // the log's trouble is told once, not with every request
		c.server.config.Logger.Error("request failed", append(attrs, "code", api.Code, "reason", err)...)
	default:
		c.server.config.Logger.Debug("request refused", append(attrs, "code", api.Code, "reason", kms.ClipTo(kms.MaxReason, err.Error()))...)
	}
}
