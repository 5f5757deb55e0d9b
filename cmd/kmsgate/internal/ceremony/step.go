package ceremony

import (
	"encoding/json"
	"maps"
	"slices"
	"time"
)

// A Step is one operation of a ceremony.
type Step struct {
	Action    string // the API's operation
	Name      string // what it creates: a policy, a user, USER/POLICY or an alias
	State     State
	Time      time.Time `json:",omitzero"`
	RequestId string    `json:",omitempty"` // of the operation, as in the audit log
	KeyId     string    `json:",omitempty"` // of the key that the alias names
}

// A State says how far a step has come.
type State string

// The states of a step.
const (
	Missing State = "to do"
	Begun   State = "begun" // its request was about to be sent
	Done    State = "done"
	Existed State = "was there" // not created by this ceremony
	// Lost means that the result exists, and an interrupted run had begun the step and recorded no
	// answer. If that run sent its request, the audit log has it.
	Lost State = "there after an interruption"
)

// A step is a Step with its request.
type step struct {
	Step
	parameters map[string]string
	details    string // what is created, for people
	key        string // the name of the key that the step is about; empty for none
	needsKey   bool   // the request has the key's KeyId
}

// steps returns the steps of a plan, in their order.
func (p Plan) steps() (all []step, err error) {
	add := func(action, name, details, key string, parameters map[string]string) {
		maps.DeleteFunc(parameters, func(_, value string) bool { return value == "" })
		all = append(all, step{Step: Step{Action: action, Name: name, State: Missing}, parameters: parameters,
			details: details, key: key, needsKey: key != "" && action != "CreateNamedKey"})
	}
	for _, policy := range p.Policies {
		add("CreateRamPolicy", policy.Name, string(policy.Document), "", map[string]string{"PolicyName": policy.Name, "PolicyDocument": string(policy.Document), "Description": policy.Description})
	}
	for _, u := range p.Users {
		add("CreateUser", u.Name, u.Description, "", map[string]string{"UserName": u.Name, "Comments": u.Description})
		for _, name := range u.Policies {
			add("AttachPolicyToUser", u.Name+"/"+name, "", "", map[string]string{"UserName": u.Name, "PolicyName": name})
		}
	}
	for _, k := range p.Keys {
		tags, err := k.tags()
		if err != nil {
			return nil, err
		}
		add("CreateNamedKey", k.Alias, k.details(), k.Alias, map[string]string{"AliasName": k.Alias, "KeySpec": k.Spec, "Description": k.Description, "Policy": string(k.Policy), "Tags": tags})
		if k.Protect {
			add("SetDeletionProtection", k.Alias, "", k.Alias, map[string]string{"EnableDeletionProtection": "true", "DeletionProtectionDescription": p.Title})
		}
	}
	for _, a := range p.Aliases {
		add("CreateAlias", a.Name, "of "+a.Key, a.Key, map[string]string{"AliasName": a.Name})
	}
	return all, nil
}

// details describes a key in one line.
func (k Key) details() string {
	text := k.Spec
	if k.Description != "" {
		text += ", " + k.Description
	}
	for _, name := range slices.Sorted(maps.Keys(k.Tags)) {
		text += ", tag " + name + "=" + k.Tags[name]
	}
	if k.Policy != "" {
		text += ", policy " + string(k.Policy)
	}
	return text
}

// tags returns a key's tags, as the API takes them.
func (k Key) tags() (string, error) {
	if len(k.Tags) == 0 {
		return "", nil
	}
	type tag struct{ TagKey, TagValue string }
	var all []tag
	for _, name := range slices.Sorted(maps.Keys(k.Tags)) {
		all = append(all, tag{name, k.Tags[name]})
	}
	text, err := json.Marshal(all)
	return string(text), err
}
