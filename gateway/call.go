package gateway

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"runtime/debug"
	"time"

	"github.com/kmsgate/kmsgate/gateway/acs"
	"github.com/kmsgate/kmsgate/gateway/audit"
	"github.com/kmsgate/kmsgate/gateway/front"
	"github.com/kmsgate/kmsgate/gateway/identity"
	"github.com/kmsgate/kmsgate/gateway/kms"
	"github.com/kmsgate/kmsgate/gateway/limit"
	"github.com/kmsgate/kmsgate/hsm"
	"github.com/kmsgate/kmsgate/store"
)

// A call is one request on its way through the corridor. Only one goroutine uses it.
type call struct {
	server    *Server
	door      door
	now       time.Time // on this machine's clock, for records and decisions
	began     time.Time // the same moment, on the monotonic clock too
	requestId string

	// The door sets these to what the request claims and asks for, by the time that the claim is
	// verified.
	action     string
	parameters map[string]string
	nonce      *acs.Claim // a change by this call stores its nonce; nil if the request has none or it is stored

	records   *store.Records      // the records of the one moment that the call sees
	principal *identity.Principal // nil until the claim is verified
	operation operation           // zero until it is looked up
	dryRun    bool
	confirmed bool
	changed   bool // the call changed records, and its audit line is in the outbox

	used *store.KeyVersion // the answer tells something made with this version's key pair; nil if nothing
	line uint64            // the number of the audit line; 0 until it is written, and for a change or an intent

	intent   *audit.Intent     // the audit line, if the log writes it while the backend signs; otherwise nil
	reserved limit.Reservation // of the second line that the intent may need
	sending  bool              // the answer may have begun to leave

	entry audit.Entry // the audit line, filled in along the way
}

// serve takes one request through the corridor: read, authenticate, look the operation up,
// charge a quota, decode, run, write the audit line, check the key's state again, answer.
func (s *Server) serve(ctx context.Context, d door, source string) error {
	c := &call{server: s, door: d, began: s.config.Now(), requestId: newRequestId(), records: s.config.Store.Now()}
	c.now = c.began.UTC().Round(0)
	c.entry = audit.Entry{Time: c.now, RequestId: c.requestId, Door: string(d.name()), Source: source}
	defer endIntent(c)
	resp, err := catchPanic(func() (kms.Response, error) {
		if err := d.read(c); err != nil {
			return nil, err
		}
		return c.do(ctx)
	})
	if c.principal == nil && isVerdict(c.door.errorOf(err)) {
		front.Unauthenticated(ctx)
	}
	resp, apiErr, err := c.finish(resp, err)
	return release(c, resp, apiErr, err)
}

// isVerdict reports whether an error says something about the caller. A gateway that is busy or unavailable has
// not judged it.
func isVerdict(e *kms.Error) bool {
	return e.Status != http.StatusServiceUnavailable && e.Status != http.StatusTooManyRequests
}

// do carries out a request that the door has read, and returns the response.
func (c *call) do(ctx context.Context) (kms.Response, error) {
	if err := c.authenticate(ctx); err != nil {
		return nil, err
	}
	if err := checkServing(c); err != nil {
		return nil, err
	}
	// DryRun applies to every operation: a caller who sets it wants nothing done.
	c.dryRun, _ = kms.ParseBool(c.parameters["DryRun"])
	c.entry.DryRun = c.dryRun
	resp, err := c.operate(ctx)
	if err != nil && c.dryRun {
		err = dryRunError(err)
	}
	return resp, err
}

// authenticate identifies the caller from the current records. From then on the call sees
// only these records, unless it waits for the rest of its request and authenticates again.
func (c *call) authenticate(ctx context.Context) (err error) {
	c.records = c.server.config.Store.Now()
	if c.principal, err = c.door.authenticate(ctx, c); err != nil {
		return err
	}
	c.entry.Principal = c.principal.Name
	front.Authenticated(ctx)
	return nil
}

// checkServing refuses a call over the network if somebody else has changed the database, or while the
// audit log's disk is so full that the rest is kept for administrators, who are at the local doors.
func checkServing(c *call) error {
	if !c.door.name().IsRemote() {
		return nil
	}
	if err := c.server.config.Store.Tampered(); err != nil {
		return fmt.Errorf("%w (%w)", kms.ErrUnavailable, err)
	}
	if err := c.server.config.Audit.Scarce(); err != nil {
		return fmt.Errorf("%w (%w)", kms.ErrAuditLog, err)
	}
	return nil
}

// operate looks the operation up, charges its quotas and runs it. It charges a call of an
// operation that does not exist, too.
func (c *call) operate(ctx context.Context) (resp kms.Response, err error) {
	var unknown error
	c.operation, unknown = c.door.lookup(c)
	if err := c.charge(); err != nil {
		return nil, err
	}
	if unknown != nil {
		return nil, unknown
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
		return nil, fmt.Errorf("operation %q returned a response without confirming", c.action)
	}
	resp.SetRequestId(c.requestId)
	return resp, nil
}

// charge counts the call against each quota that the door names. It returns
// Rejected.Throttling if one of them is used up.
func (c *call) charge() error {
	for i, name := range c.door.charges(c) {
		if i == 0 {
			c.entry.Quota = string(name)
		}
		userName := c.principal.QuotaUser()
		if name == kms.QuotaDedicatedInstance {
			userName = "" // all callers share it
		}
		perSecond := c.server.quotas.Load().PerSecond(name, c.principal.Quotas)
		if !c.server.buckets.Take(userName, name, perSecond, c.server.config.Now) {
			c.entry.Quota = string(name)
			return kms.ErrThrottling
		}
	}
	return nil
}

// dryRunError returns the answer to a dry run that failed with err. It wraps err for the
// log.
func dryRunError(err error) error {
	apiErr := apiError(err)
	if answer := kms.DryRunError(apiErr); answer != apiErr {
		return fmt.Errorf("%w (%w)", answer, err)
	}
	return err
}

// catchPanic runs f and turns a panic into an error.
func catchPanic(f func() (kms.Response, error)) (resp kms.Response, err error) {
	defer func() {
		if p := recover(); p != nil {
			resp, err = nil, fmt.Errorf("panic: %v\n%s", p, debug.Stack())
		}
	}()
	return f()
}

// finish writes the audit line and returns what the client receives: resp or an error, with its
// cause. If the line cannot be written, that is an error, even if the operation succeeded.
func (c *call) finish(resp kms.Response, err error) (kms.Response, *kms.Error, error) {
	var apiErr *kms.Error
	c.entry.Status = http.StatusOK
	if err != nil {
		apiErr, resp = c.door.errorOf(err), nil
		c.entry.Status, c.entry.Code = apiErr.Status, apiErr.Code
		c.entry.Reason = kms.ClipTo(kms.MaxReason, err.Error())
	}
	c.entry.DurationNanoseconds = c.server.config.Now().Sub(c.began)
	if auditErr := c.audit(); auditErr != nil {
		auditErr = errors.Join(auditErr, discard(resp))
		apiErr, resp, err = kms.ErrAuditLog, nil, auditErr
		if c.changed {
			apiErr = kms.ErrAuditPending
		}
	}
	return resp, apiErr, err
}

// audit writes the call's audit line and waits until it is on disk. Refusals are an exception,
// unless they are those of administrators: beyond a limit, and while the rest of the disk is kept
// for administrators, audit only counts them. It does not wait for the lines of callers who could
// not authenticate.
func (c *call) audit() (err error) {
	log, refusals := c.server.config.Audit, c.server.refusals
	switch {
	case c.changed:
		return c.server.journal.Append(c.entry)
	case c.intent != nil && c.entry.Code == "":
		return c.intent.Wait()
	case c.intent != nil:
		return c.intent.Withhold(c.entry)
	}
	refusal := limit.Refusal{Time: c.now, Source: c.entry.Source, Principal: c.entry.Principal, Code: c.entry.Code}
	isStranger := refusal.Principal == ""
	switch {
	case refusal.Code == "", !isStranger && !c.door.name().IsRemote():
		c.line, err = log.AppendNumbered(c.entry)
		return err
	case log.Scarce() != nil:
		refusals.Count(refusal)
	case !refusals.Allow(refusal, c.server.config.Now): // it is counted
	case isStranger:
		log.Offer(c.entry, func() { refusals.Count(refusal) })
	default:
		return log.Append(c.entry)
	}
	return nil
}

// intend has the call's audit line written while the backend signs. It must be called after confirm,
// and the entry must be complete except for the result. If the signature fails, the call needs a second line. So
// intend does nothing for a remote caller whose lines for refusals are used up or reserved: that call's line is
// written after the signature, if it must have one.
func intend(c *call) (err error) {
	if c.door.name().IsRemote() {
		var ok bool
		if c.reserved, ok = c.server.refusals.Reserve(c.entry.Principal, c.server.config.Now); !ok {
			return nil
		}
	}
	c.entry.DurationNanoseconds = c.server.config.Now().Sub(c.began)
	if c.intent, err = c.server.config.Audit.Intend(c.entry); err != nil {
		return fmt.Errorf("%w (%w)", kms.ErrAuditLog, err)
	}
	return nil
}

// endIntent undoes intend at the end of a call, also after a panic.
func endIntent(c *call) {
	if c.intent != nil {
		c.intent.Close(c.sending)
	}
	c.server.refusals.Release(c.reserved, c.entry.Code != "", c.server.config.Now)
}

// log writes a line about the request to the operator's log. Each request has one line.
func (c *call) log(apiErr *kms.Error, err error) {
	if apiErr == nil && !c.server.config.Logger.Enabled(context.Background(), slog.LevelDebug) {
		return // the attributes would cost five allocations
	}
	attrs := []any{"RequestId", c.requestId, "door", c.door.name(), "action", c.entry.Action,
		"principal", c.entry.Principal, "source", c.entry.Source, "duration", c.entry.DurationNanoseconds}
	if apiErr == nil {
		c.server.config.Logger.Debug("request", attrs...)
		return
	}
	attrs = append(attrs, "code", apiErr.Code)
	switch {
	// The audit log reports its own failure, once and not with every request. A caller who leaves is
	// no fault of the gateway.
	case errors.Is(err, hsm.ErrRefused),
		apiErr.Status >= 500 && apiErr != kms.ErrAuditLog && apiErr != kms.ErrAuditPending && !errors.Is(err, context.Canceled):
		c.server.config.Logger.Error("request failed", append(attrs, "err", err)...)
	default:
		c.server.config.Logger.Debug("request refused", append(attrs, "err", kms.ClipTo(kms.MaxReason, err.Error()))...)
	}
}
