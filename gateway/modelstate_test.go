package gateway_test

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/kmsgate/kmsgate/store"
)

const day = 24 * time.Hour

// A modelInput is a request or an event, as the model sees it. Fields that do not matter to its
// action are zero.
type modelInput struct {
	action  string
	keyId   string
	version string // a KeyVersionId
	alias   string // an AliasName
	tag     int
	value   string
	protect bool
	passes  time.Duration // seen, and on the clock
	steps   time.Duration // of the clock alone
}

// The actions that no request asks for.
const (
	passTime     = "time passes"
	resolveAlias = "an alias names a key" // the first part of a request that names its key by an alias
	deleteKey    = "DeleteKey"            // by the gateway, when the deletion is due
)

// A modelOutput is an answer. An error has a code; the value of a change is empty.
type modelOutput struct{ code, value string }

// A modelState is what the records must be at one moment. It does not change.
type modelState struct {
	keys    map[string]modelKey // by KeyId
	aliases map[string]string   // AliasName → KeyId
	passed  time.Duration       // the time that was seen to pass
	stepped time.Duration       // how far the wall clock has been set ahead in all
	agreed  time.Duration       // the time that was seen to pass since the wall clock was set
}

// A modelKey is a key of a modelState.
type modelKey struct {
	state       string
	protected   bool
	description string
	tags        [modelTags]string // an empty value means that the key lacks the tag
	versions    string            // KeyVersionIds, separated by spaces
	due         time.Duration     // while PendingDeletion: the key must not be deleted before so much time has passed
	dueOnClock  time.Duration     // while PendingDeletion: likewise, on the wall clock
}

// recordsModel is the sequential model of the gateway's records. It is not partitioned, because one
// change can touch a key and aliases; histories are short enough for it.
var recordsModel = porcupine.Model{
	Init: func() any {
		return modelState{keys: make(map[string]modelKey), aliases: make(map[string]string)}
	},
	Step: func(state, req, answer any) (bool, any) {
		return state.(modelState).step(req.(modelInput), answer.(modelOutput))
	},
	Equal: func(a, b any) bool {
		s, o := a.(modelState), b.(modelState)
		return s.passed == o.passed && s.stepped == o.stepped && s.agreed == o.agreed && maps.Equal(s.keys, o.keys) && maps.Equal(s.aliases, o.aliases)
	},
}

// step reports whether the gateway may give an answer, and returns the state after it.
func (s modelState) step(req modelInput, answer modelOutput) (bool, modelState) {
	if codes := s.refusals(req); len(codes) > 0 {
		return slices.Contains(codes, answer.code), s
	}
	if slices.Contains(modelReads, req.action) || req.action == resolveAlias {
		return answer == modelOutput{value: s.read(req)}, s
	}
	return answer == modelOutput{}, s.change(req)
}

// refusals returns the codes with which the gateway may refuse a request. It must refuse the
// request if there is one, and carry it out if there is none.
func (s modelState) refusals(req modelInput) (codes []string) {
	k, exists := s.keys[req.keyId]
	_, named := s.aliases[req.alias]
	switch req.action {
	case passTime, resolveAlias, "ListAliases", "ListKeys", "CreateKey":
		return nil
	case "DeleteAlias":
		exists = true // only the alias matters
	}
	if !exists {
		codes = append(codes, "Forbidden.KeyNotFound")
	}
	if !named && (req.action == "UpdateAlias" || req.action == "DeleteAlias") {
		codes = append(codes, "Forbidden.AliasNotFound")
	}
	if len(codes) > 0 || req.action == "DeleteAlias" {
		return codes
	}
	code := ok
	switch {
	case req.action == deleteKey:
		// The clock is believed once it has agreed for a day with the time that passes.
		believed := s.passed+s.stepped >= k.dueOnClock && s.agreed >= day
		if k.state != store.PendingDeletion || k.due > s.passed && !believed {
			code = "the deletion is not due"
		}
	case req.action == "AsymmetricSign" && !slices.Contains(strings.Fields(k.versions), req.version):
		code = "Forbidden.KeyVersionNotFound"
	default:
		code = stateTable[req.action][slices.Index(states, k.state)]
	}
	if code == ok && req.action == "ScheduleKeyDeletion" && k.protected {
		code = failed
	}
	if code == ok && req.action == "CreateAlias" && named {
		code = "AliasAlreadyExists"
	}
	if code == ok {
		return nil
	}
	return []string{code}
}

// read returns the value of the answer to a request that reads or signs.
func (s modelState) read(req modelInput) string {
	k := s.keys[req.keyId]
	var parts []string
	switch req.action {
	case resolveAlias:
		return s.aliases[req.alias]
	case "DescribeKey":
		return keyText(k.state, k.protected, k.description)
	case "AsymmetricSign":
		return req.keyId + " " + req.version
	case "ListKeyVersions":
		parts = strings.Fields(k.versions)
	case "ListResourceTags":
		for tag, value := range k.tags {
			if value != "" {
				parts = append(parts, fmt.Sprintf("%d=%s", tag, value))
			}
		}
	case "ListAliasesByKeyId", "ListAliases":
		for alias, keyId := range s.aliases {
			if req.action == "ListAliases" {
				parts = append(parts, alias+"="+keyId)
			} else if keyId == req.keyId {
				parts = append(parts, alias)
			}
		}
	case "ListKeys":
		parts = slices.Collect(maps.Keys(s.keys))
	}
	return sortedText(parts)
}

// keyText is the value of the answer to DescribeKey.
func keyText(state string, protected bool, description string) string {
	return fmt.Sprintf("%s %t %q", state, protected, description)
}

// sortedText is the value of the answer to a request for a list.
func sortedText(parts []string) string { return strings.Join(slices.Sorted(slices.Values(parts)), " ") }

// change returns the state after a change or an event.
func (s modelState) change(req modelInput) modelState {
	next := s
	next.keys, next.aliases = maps.Clone(s.keys), maps.Clone(s.aliases)
	k := s.keys[req.keyId]
	switch req.action {
	case passTime:
		next.passed += req.passes
		next.agreed += req.passes
		if req.steps != 0 {
			next.stepped, next.agreed = next.stepped+req.steps, 0
		}
		return next
	case deleteKey:
		delete(next.keys, req.keyId)
		maps.DeleteFunc(next.aliases, func(_, keyId string) bool { return keyId == req.keyId })
		return next
	case "CreateAlias", "UpdateAlias":
		next.aliases[req.alias] = req.keyId
		return next
	case "DeleteAlias":
		delete(next.aliases, req.alias)
		return next
	case "CreateKey":
		k = modelKey{state: store.Enabled, versions: req.version}
	case "CreateKeyVersion":
		k.versions += " " + req.version
	case "TagResource":
		k.tags[req.tag] = req.value
	case "UntagResource":
		k.tags[req.tag] = ""
	case "DisableKey":
		k.state = store.Disabled
	case "EnableKey":
		k.state = store.Enabled
	case "ScheduleKeyDeletion":
		k.state, k.due, k.dueOnClock = store.PendingDeletion, s.passed+7*day, s.passed+s.stepped+7*day
	case "CancelKeyDeletion":
		k.state, k.due, k.dueOnClock = store.Enabled, 0, 0
	case "SetDeletionProtection":
		k.protected = req.protect
	case "UpdateKeyDescription":
		k.description = req.value
	}
	next.keys[req.keyId] = k
	return next
}
