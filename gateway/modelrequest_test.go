package gateway_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/kmsgate/kmsgate/gateway"
	"github.com/kmsgate/kmsgate/gateway/kms"
	"github.com/kmsgate/kmsgate/hsm"
)

// A modelCall is a request and its answer.
type modelCall struct {
	client       int
	reference    string // the audit line of the request has it
	req          modelInput
	named        string // the alias that named the key; empty if req.keyId did
	began, ended int64  // numbers of simulation.order
	answered     bool   // false if the process was killed before its answer
	carriedOut   bool   // the answer is an error that says that the request was carried out
	status       int
	code, value  string
}

// request sends a request of a client.
func (s *simulation) request(client int, r request) {
	req, named := s.resolve(r)
	if !s.call(client, req, named) {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch r.Action {
	case "CreateKey":
		s.slots[r.Slot] = req.keyId
		s.versions[req.keyId] = []string{req.version}
	case "CreateKeyVersion":
		if named == "" {
			s.versions[req.keyId] = append(s.versions[req.keyId], req.version)
		}
	}
}

// resolve returns what a request of a program means now, and the alias that names its key, if one
// does.
func (s *simulation) resolve(r request) (req modelInput, named string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	const missing = "missing"
	alias := fmt.Sprintf("alias/%d", r.Alias)
	req = modelInput{action: r.Action, keyId: s.slots[r.Slot]}
	if req.keyId == "" {
		req.keyId = missing
	}
	switch r.Action {
	case "CreateKey", "CreateKeyVersion":
		s.made++
		req.version = fmt.Sprintf("00000000-0000-4000-8000-%012d", s.made)
	case "AsymmetricSign":
		req.version = missing
		if all := s.versions[req.keyId]; len(all) > 0 {
			req.version = all[r.Version%len(all)]
		}
	case "CreateAlias", "UpdateAlias", "DeleteAlias":
		req.alias = alias
	case "TagResource":
		req.tag, req.value = r.Tag, r.Value
	case "UntagResource":
		req.tag = r.Tag
	case "UpdateKeyDescription":
		req.value = r.Value
	case "SetDeletionProtection":
		req.protect = r.Protect
	}
	switch r.Action {
	case "CreateKey":
		req.keyId = fmt.Sprintf("key-%d", s.made)
	case "DeleteAlias", "ListAliases", "ListKeys":
		req.keyId = ""
	case "CreateAlias", "UpdateAlias": // the error would not say which of two aliases is missing
	default:
		if r.ByAlias {
			req.keyId, named = "", alias
		}
	}
	return req, named
}

// call sends a request through the local door and records it. It reports whether the gateway has
// acknowledged it.
func (s *simulation) call(client int, req modelInput, named string) bool {
	p := s.enter()
	if p == nil {
		return false
	}
	defer p.calls.Done()
	c := &modelCall{client: client, req: req, named: named, began: s.order.Add(1)}
	s.mu.Lock()
	c.reference = fmt.Sprintf("call %d", len(s.calls))
	s.calls = append(s.calls, c)
	s.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	ctx = gateway.WithPreset(ctx, gateway.Preset{KeyId: req.keyId, KeyVersionId: req.version})
	var answer modelAnswer
	err := p.server.Do(ctx, kms.AdminRequest{
		Action: req.action, Parameters: req.parameters(named), AsAdministrator: true, Reference: c.reference,
	}, &answer)
	c.ended = s.order.Add(1)
	if p.token.isKilled() {
		return false // the answer is that of a process without files
	}
	c.answered, c.status, c.value = true, 200, answer.value(req.action)
	var apiErr *kms.Error
	if errors.As(err, &apiErr) {
		c.status, c.code, c.value = apiErr.Status, apiErr.Code, ""
		c.carriedOut = strings.Contains(apiErr.Message, "was carried out")
	} else if err != nil {
		s.fail("an answer cannot be read", "%s %+v: %v", c.reference, req, err)
	}
	return err == nil
}

// parameters returns the parameters of a request. If named is not empty, it names the key.
func (req modelInput) parameters(named string) map[string]string {
	m := params("KeyId", req.keyId)
	if named != "" {
		m["KeyId"] = named
	}
	switch req.action {
	case "CreateKey":
		m = params("KeySpec", string(hsm.EC_P256))
	case "DeleteAlias":
		m = params("AliasName", req.alias)
	case "CreateAlias", "UpdateAlias":
		m["AliasName"] = req.alias
	case "ScheduleKeyDeletion":
		m["PendingWindowInDays"] = "7"
	case "SetDeletionProtection":
		m["EnableDeletionProtection"] = fmt.Sprint(req.protect)
	case "UpdateKeyDescription":
		m["Description"] = req.value
	case "TagResource":
		m["Tags"] = fmt.Sprintf(`[{"TagKey":"%d","TagValue":"%s"}]`, req.tag, req.value)
	case "UntagResource":
		m["TagKeys"] = fmt.Sprintf(`["%d"]`, req.tag)
	case "AsymmetricSign":
		m["KeyVersionId"], m["Algorithm"], m["Digest"] = req.version, string(hsm.ECDSA_SHA_256), digest
	case "ListKeyVersions", "ListAliasesByKeyId", "ListAliases", "ListKeys":
		m["PageSize"] = "100"
	}
	return m
}

// A modelAnswer has the members of answers that the model knows.
type modelAnswer struct {
	KeyId, KeyVersionId string
	KeyMetadata         struct{ KeyState, DeletionProtection, Description string }
	KeyVersions         struct {
		KeyVersion []struct{ KeyVersionId string }
	}
	Tags struct {
		Tag []struct{ TagKey, TagValue string }
	}
	Aliases struct {
		Alias []struct{ AliasName, KeyId string }
	}
	Keys struct{ Key []struct{ KeyId string } }
}

// value returns what an answer says, in the words of modelState.read.
func (a modelAnswer) value(action string) string {
	var parts []string
	switch action {
	case "DescribeKey":
		return keyText(a.KeyMetadata.KeyState, a.KeyMetadata.DeletionProtection == "Enabled", a.KeyMetadata.Description)
	case "AsymmetricSign":
		return a.KeyId + " " + a.KeyVersionId
	case "ListKeyVersions":
		for _, v := range a.KeyVersions.KeyVersion {
			parts = append(parts, v.KeyVersionId)
		}
	case "ListResourceTags":
		for _, t := range a.Tags.Tag {
			parts = append(parts, t.TagKey+"="+t.TagValue)
		}
	case "ListAliasesByKeyId":
		for _, alias := range a.Aliases.Alias {
			parts = append(parts, alias.AliasName)
		}
	case "ListAliases":
		for _, alias := range a.Aliases.Alias {
			parts = append(parts, alias.AliasName+"="+alias.KeyId)
		}
	case "ListKeys":
		for _, k := range a.Keys.Key {
			parts = append(parts, k.KeyId)
		}
	}
	return sortedText(parts)
}
