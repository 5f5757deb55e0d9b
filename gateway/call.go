package gateway

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/kmsgate/kmsgate/gateway/acs"
	"github.com/kmsgate/kmsgate/gateway/audit"
	"github.com/kmsgate/kmsgate/gateway/identity"
	"github.com/kmsgate/kmsgate/gateway/keypair"
	"github.com/kmsgate/kmsgate/gateway/kms"
	"github.com/kmsgate/kmsgate/hsm"
	"github.com/kmsgate/kmsgate/store"
)

// A call is one request on its way through the corridor. It belongs to one
// goroutine.
type call struct {
	server     *Server
	now        time.Time
	requestId  string
	door       door
	records    *store.Records      // as they are at the one moment that the call sees
	listener   *Listener           // nil but for what comes over the network
	claim      *acs.Claim          // nil but for what comes over the network
	principal  *identity.Principal // nil until the claim was verified
	action     string
	parameters map[string]string
	body       func() (content []byte, release func(), err error) // reads it; of the native door
	format     *kms.Format
	dryRun     bool
	confirmed  bool
	changed    bool        // records, so that there is a line in the outbox
	entry      audit.Entry // filled by whoever knows something
}

func (s *Server) newCall(d door, source string) *call {
	c := &call{server: s, now: s.Now().UTC(), requestId: uuid.NewString(), door: d, format: kms.FormatJSON}
	c.entry = audit.Entry{Time: c.now, RequestId: c.requestId, Door: string(d), Source: source}
	return c
}

// read takes over what a request claims and asks for. Nothing of it is
// believed yet.
func (c *call) read(claim *acs.Claim) {
	c.claim, c.action, c.parameters = claim, claim.Action, claim.Parameters
	c.entry.Protocol = claim.Protocol
	c.entry.AccessKeyId = kms.Clip(claim.AccessKeyId)
	c.entry.Action = kms.Clip(claim.Action)
}

// do takes the call through the corridor, from authentication to the answer.
func (c *call) do(ctx context.Context, authenticate func(c *call) (*identity.Principal, error)) (kms.Response, error) {
	c.records = c.server.Store.Now()
	p, err := authenticate(c)
	if err != nil {
		return nil, err
	}
	c.principal = p
	c.entry.Principal = p.Name
	// Every operation obeys DryRun: who sets it means that nothing shall be done.
	c.dryRun, _ = kms.ParseBool(c.parameters["DryRun"])
	c.entry.DryRun = c.dryRun
	resp, err := c.operate(ctx)
	if err != nil && c.dryRun {
		err = dryRunOf(err)
	}
	return resp, err
}

// operate looks the action up, charges for it and does it.
func (c *call) operate(ctx context.Context) (kms.Response, error) {
	o, err := c.operation()
	if err != nil {
		return nil, err
	}
	if err := c.charge(o); err != nil {
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
	resp, err := o.run(ctx, c)
	if err != nil {
		return nil, err
	}
	if !c.confirmed {
		return nil, fmt.Errorf("the operation %s answered without having confirmed", c.action)
	}
	resp.SetRequestId(c.requestId)
	return resp, nil
}

// dryRunOf keeps err for the log and puts a dry run's answer in front.
func dryRunOf(err error) error {
	api := apiError(err)
	if answer := kms.DryRunError(api); answer != api {
		return fmt.Errorf("%w (%w)", answer, err)
	}
	return err
}

// apiVersion is the only version of the API.
const apiVersion = "2016-01-20"

func (c *call) operation() (operation, error) {
	if c.door == nativeDoor {
		return c.nativeOperation()
	}
	if c.action == "" {
		return operation{}, kms.MissingParameter("Action")
	}
	if c.claim != nil && c.claim.Version != apiVersion {
		return operation{}, kms.ErrApiNotFound.Because("The only version is %s.", apiVersion)
	}
	o, ok := operations[c.action]
	if ok && (o.door == rpcDoor || !c.door.isRemote()) {
		if c.listener != nil && c.listener.BusinessOnly && !o.business {
			return operation{}, kms.ErrUnsupportedOperation.Because("This endpoint serves business operations only, of which %s is none.", c.action)
		}
		return o, nil
	}
	if slices.Contains(unsupported, c.action) {
		return operation{}, kms.ErrUnsupportedOperation.Because("%s is not an operation of a signing gateway.", c.action)
	}
	return operation{}, kms.ErrApiNotFound
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
		api, resp = c.apiError(err), nil
		c.entry.Status, c.entry.Code = api.Status, api.Code
		c.entry.Reason = kms.ClipTo(maxReason, err.Error())
	}
	c.entry.Duration = c.server.Now().Sub(c.now)
	if auditErr := c.audit(); auditErr != nil {
		auditErr = errors.Join(auditErr, discard(resp))
		api, resp, err = kms.ErrAuditLog, nil, auditErr
		if c.changed {
			api = kms.ErrAuditOwed
		}
	}
	c.server.metrics.count(c, api)
	c.log(api, err)
	return resp, api
}

// apiError gives the error that the client is told.
func (c *call) apiError(err error) *kms.Error {
	if c.door == nativeDoor {
		return nativeError(err)
	}
	return apiError(err)
}

// maxReason is more than a denial that names the longest policy has.
const maxReason = 1024

// audit writes the call's line, and waits until it is on disk. It does not wait
// for the line of a caller who could not say who it is, and does without where
// there are too many of them.
func (c *call) audit() error {
	switch {
	case c.changed:
		return c.server.journal.Append(c.entry)
	case c.entry.Principal != "":
		return c.server.Audit.Append(c.entry)
	case c.server.unauthenticated.Allow(c.entry.Source, c.server.Now):
		c.server.Audit.Offer(c.entry, func() { c.server.unauthenticated.Count(c.entry.Source) })
	}
	return nil
}

// log writes the one line that a request has in the operator's log.
func (c *call) log(api *kms.Error, err error) {
	attrs := []any{"RequestId", c.requestId, "door", c.door, "action", c.entry.Action, "principal", c.entry.Principal,
		"source", c.entry.Source, "duration", c.entry.Duration}
	switch {
	case api == nil:
		c.server.Logger.Debug("request", attrs...)
	case errors.Is(err, hsm.ErrRefused), api.Status >= 500 && api != kms.ErrAuditLog && api != kms.ErrAuditOwed: // the log's trouble is told once, not with every request
		c.server.Logger.Error("request failed", append(attrs, "code", api.Code, "reason", err)...)
	default:
		c.server.Logger.Debug("request refused", append(attrs, "code", api.Code, "reason", kms.ClipTo(maxReason, err.Error()))...)
	}
}

// authorize asks the caller's policies for the call's action on a resource that
// is no key.
func (c *call) authorize(resource string) error { return c.permit(resource, nil) }

// keyless are the resources of the actions that are of no one key, as KMS names
// them. DescribeRegions has none: it takes authentication only.
var keyless = map[string]string{
	"CreateKey": "key", "ListKeys": "key", "ListTagResources": "key", "ListAliases": "alias",
	"DescribeAccountKmsStatus": "*", "OpenKmsService": "*", "ListKmsInstances": "keystore/*", "GenerateRandom": "*",
	"ListNetworkRules": networkKind, "ListPolicies": policyKind, "ListApplicationAccessPoints": accessPointKind,
}

// authorizeKeyless asks for the action of the call, which is of no one key.
func (c *call) authorizeKeyless() error {
	return c.authorize(c.server.arns.Resource(keyless[c.action]))
}

// authorizeKey asks for the action on a key, of which there may be none.
func (c *call) authorizeKey(keyId string, key *store.Key) error {
	return c.permit(c.server.arns.Key(keyId), key)
}

func (c *call) permit(resource string, key *store.Key) error {
	d, err := c.server.callers.Decide(c.records, c.principal, identity.Question{Action: c.action, Resource: resource, Key: key, Values: c.conditions()})
	if err != nil {
		return err
	}
	if !d.Allowed {
		return fmt.Errorf("%w (%s on %s: %s)", kms.ErrNoPermission, c.action, kms.Clip(resource), d.Reason)
	}
	return nil
}

// conditions gives the values of the condition keys that are of the request.
func (c *call) conditions() map[string]string {
	values := map[string]string{
		"acs:CurrentTime":     c.now.Format(time.RFC3339),
		"acs:SecureTransport": strconv.FormatBool(c.door.isRemote()), // plain HTTP does not get here
		"acs:MFAPresent":      "false",                               // a key is one factor
	}
	if c.door.isRemote() {
		values["acs:SourceIp"] = c.entry.Source
	}
	return values
}

// key gives the key that a request names by its id, an alias or an ARN, if the
// caller's policies and the key's allow the action on it. It is the only way to
// a key.
func (c *call) key(name string) (store.Key, error) {
	if len(name) > maxKeyName {
		return store.Key{}, kms.InvalidParameter("KeyId", "it has more than %d bytes", maxKeyName)
	}
	keyId, err := c.keyId(name)
	if err != nil {
		return store.Key{}, err
	}
	c.entry.KeyId = kms.Clip(keyId)
	var key *store.Key
	if k, err := c.records.Keys().Get(keyId); err == nil {
		key = &k
	}
	// Whoever may not use it does not learn whether there is such a key.
	if err := c.authorizeKey(keyId, key); err != nil {
		return store.Key{}, err
	}
	if key == nil {
		return store.Key{}, kms.ErrKeyNotFound
	}
	c.entry.KeySpec = string(key.KeySpec)
	return *key, nil
}

// maxKeyName is more than an ARN of the longest alias has. Policies are matched
// against names in time that grows with them.
const maxKeyName = 2048

// keyId resolves aliases and ARNs.
func (c *call) keyId(name string) (string, error) {
	if strings.HasPrefix(name, "acs:") {
		resource, ours := strings.CutPrefix(name, c.server.arns.Resource(""))
		switch {
		case ours && strings.HasPrefix(resource, "key/"):
			return strings.TrimPrefix(resource, "key/"), nil
		case ours && strings.HasPrefix(resource, aliasPrefix):
			name = resource
		default: // of another region, account or service: as unknown as any other
			return name, nil
		}
	}
	if !strings.HasPrefix(name, aliasPrefix) {
		return name, nil
	}
	alias, err := c.alias(name)
	return alias.KeyId, err
}

// alias gives an alias. That there is none is told only to callers who may do
// what they ask for with every key; to others it must look as if there were a
// key that they may not use.
func (c *call) alias(aliasName string) (store.Alias, error) {
	c.entry.Alias = kms.Clip(aliasName)
	alias, err := c.records.Aliases().Get(aliasName)
	if errors.Is(err, store.ErrNotFound) {
		if err := c.authorizeKey("*", nil); err != nil {
			return store.Alias{}, err
		}
		return store.Alias{}, kms.ErrAliasNotFound
	}
	return alias, err
}

// version gives a version of a key that c.key gave, the oldest if no id is given.
func (c *call) version(key store.Key, keyVersionId string) (store.KeyVersion, error) {
	c.entry.KeyVersionId = kms.Clip(keyVersionId)
	version, err := c.findVersion(key.KeyId, keyVersionId)
	if errors.Is(err, store.ErrNotFound) {
		return store.KeyVersion{}, kms.ErrKeyVersionNotFound
	}
	if err != nil {
		return store.KeyVersion{}, err
	}
	c.entry.KeyVersionId = version.KeyVersionId
	return version, keypair.CheckRecord(version, key)
}

func (c *call) findVersion(keyId, keyVersionId string) (store.KeyVersion, error) {
	if keyVersionId != "" {
		return c.records.Version(keyId, keyVersionId)
	}
	if all := c.records.VersionsOf(keyId); len(all) > 0 {
		return all[0], nil
	}
	return store.KeyVersion{}, store.ErrNotFound
}

// update is for an operation that changes records and nothing else. It tries f on the
// records as the call sees them, so that whatever would be refused is refused before
// the point of no return, in a dry run too; then it confirms, and does f for good. f is
// called twice, the second time with the records as they are then.
func (c *call) update(f func(tx *store.Tx) error) error {
	if err := c.records.Try(f); err != nil {
		return err
	}
	if err := c.confirm(); err != nil {
		return err
	}
	return c.write(f)
}

// confirm is the point of no return: everything before it only looks, and after
// it nothing but a fault can keep the operation from succeeding. A dry run
// ends here. So does everything while the audit log cannot be written.
func (c *call) confirm() error {
	c.confirmed = true
	if err := c.server.Audit.Err(); err != nil {
		return fmt.Errorf("%w (%w)", kms.ErrAuditLog, err)
	}
	if c.dryRun {
		return kms.ErrDryRun
	}
	return nil
}

// write changes records on behalf of a confirmed call. The nonce goes into the
// same transaction, so that not even a restart lets the request be repeated; and
// so does the audit line, so that there is no change without one: what it says of
// the change has to be in the entry before.
func (c *call) write(f func(tx *store.Tx) error) error {
	if err := c.mayWrite(); err != nil {
		return err
	}
	entry := c.entry
	entry.Status = http.StatusOK
	err := c.server.journal.Update(entry, c.withNonce(f))
	c.changed = c.changed || err == nil
	return err
}

// record writes down what a confirmed call is going to do, which is nothing that
// anybody can see: it needs no audit line yet.
func (c *call) record(f func(tx *store.Tx) error) error {
	if err := c.mayWrite(); err != nil {
		return err
	}
	return c.server.Store.Update(c.withNonce(f))
}

func (c *call) mayWrite() error {
	if !c.confirmed || c.dryRun {
		return fmt.Errorf("the operation %s changes records without having confirmed", c.action)
	}
	return nil
}

func (c *call) withNonce(f func(tx *store.Tx) error) func(tx *store.Tx) error {
	return func(tx *store.Tx) error {
		if c.claim != nil {
			n := store.Nonce{AccessKeyId: c.claim.AccessKeyId, Nonce: c.claim.Nonce, Until: c.claim.Time.Add(identity.TimeWindow)}
			if err := tx.PutNonce(n, c.now); err != nil {
				return err
			}
		}
		return f(tx)
	}
}
