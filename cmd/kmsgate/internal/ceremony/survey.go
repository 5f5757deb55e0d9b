package ceremony

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/target"
	"github.com/kmsgate/kmsgate/gateway/kms"
)

// A survey compares a plan with an instance.
type survey struct {
	caller target.Caller
	plan   Plan
	there  map[string]bool   // "Action Name" of steps whose result exists
	keyIds map[string]string // of existing keys, by their names in the plan
	// differences are how existing things contradict the plan.
	differences []error
}

func (s *survey) differ(format string, args ...any) {
	s.differences = append(s.differences, fmt.Errorf(format, args...))
}

// has reports whether what a step creates exists.
func (s *survey) has(step Step) bool { return s.there[step.Action+" "+step.Name] }

// look reads from the instance everything that the plan names. The error lists the differences.
func (s *survey) look(ctx context.Context) error {
	s.there, s.keyIds, s.differences = make(map[string]bool), make(map[string]string), nil
	for _, find := range []func(context.Context) error{s.findPolicies, s.findUsers, s.findKeys, s.findAliases} {
		if err := find(ctx); err != nil {
			return err
		}
	}
	if len(s.differences) > 0 {
		return fmt.Errorf("the instance differs from the plan (change one of them):\n%w", errors.Join(s.differences...))
	}
	return nil
}

func (s *survey) findPolicies(ctx context.Context) error {
	for _, p := range s.plan.Policies {
		var existing kms.GetRamPolicyResponse
		err := s.caller.Call(ctx, "GetRamPolicy", map[string]string{"PolicyName": p.Name}, &existing)
		if errors.Is(err, kms.ErrPolicyNotFound) {
			continue
		}
		if err != nil {
			return fmt.Errorf("policy %q: %w", p.Name, err)
		}
		s.there["CreateRamPolicy "+p.Name] = true
		if !p.Document.Equal(existing.Policy.PolicyDocument) {
			s.differ("policy %q has another document", p.Name)
		}
		s.compare("policy", p.Name, p.Description, existing.Policy.Description)
	}
	return nil
}

// compare compares a description.
func (s *survey) compare(kind, name, planned, existing string) {
	if planned != existing {
		s.differ("%s %q has the description %q, not %q", kind, name, existing, planned)
	}
}

func (s *survey) findUsers(ctx context.Context) error {
	if len(s.plan.Users) == 0 {
		return nil
	}
	var list kms.ListUsersResponse
	if err := s.caller.Call(ctx, "ListUsers", nil, &list); err != nil {
		return err
	}
	var policies kms.ListRamPoliciesResponse
	if err := s.caller.Call(ctx, "ListRamPolicies", nil, &policies); err != nil {
		return err
	}
	for _, u := range s.plan.Users {
		for _, name := range u.Policies {
			if !slices.ContainsFunc(s.plan.Policies, func(p Policy) bool { return p.Name == name }) &&
				!slices.ContainsFunc(policies.Policies.Policy, func(p kms.RamPolicyItem) bool { return p.PolicyName == name }) {
				s.differ("policy %q of user %q neither exists nor is in the plan", name, u.Name)
			}
		}
		i := slices.IndexFunc(list.Users.User, func(e kms.UserItem) bool { return e.UserName == u.Name })
		if i < 0 {
			continue
		}
		existing := list.Users.User[i]
		s.there["CreateUser "+u.Name] = true
		s.compare("user", u.Name, u.Description, existing.Comments)
		for _, name := range existing.Policies.Policy {
			s.there["AttachPolicyToUser "+u.Name+"/"+name] = true
			if !slices.Contains(u.Policies, name) {
				s.differ("user %q also has policy %q", u.Name, name)
			}
		}
	}
	return nil
}

func (s *survey) findKeys(ctx context.Context) error {
	versions := 0
	for _, k := range s.plan.Keys {
		if err := s.findKey(ctx, k); err != nil {
			return fmt.Errorf("key %q: %w", k.Alias, err)
		}
		if s.keyIds[k.Alias] == "" { // it will have one
			versions++
			continue
		}
		all, err := target.KeyVersions.All(ctx, s.caller, map[string]string{"KeyId": s.keyIds[k.Alias]})
		if err != nil {
			return fmt.Errorf("key %q: %w", k.Alias, err)
		}
		versions += len(all)
	}
	if versions > MaxKeys {
		s.differ("the plan's keys have %d versions, more than the %d of one attestation: split the plan", versions, MaxKeys)
	}
	return nil
}

// checkOffers checks that the token offers the KeySpecs of the keys that are missing: the gateway's
// dry run does not ask the token.
func (s *survey) checkOffers(ctx context.Context) error {
	missing := slices.DeleteFunc(slices.Clone(s.plan.Keys), func(k Key) bool { return s.keyIds[k.Alias] != "" })
	if len(missing) == 0 {
		return nil
	}
	var answer kms.DescribeTokenResponse
	if err := s.caller.Call(ctx, "DescribeToken", nil, &answer); err != nil {
		return err
	}
	var errs []error
	for _, k := range missing {
		for _, o := range answer.Survey.Offers {
			if string(o.KeySpec) == k.Spec && !o.Offered {
				errs = append(errs, fmt.Errorf("key %q: the token does not make keys of KeySpec %s: %s", k.Alias, k.Spec, o.Reason))
			}
		}
	}
	return errors.Join(errs...)
}

func (s *survey) findKey(ctx context.Context, k Key) error {
	var existing kms.DescribeKeyResponse
	err := s.caller.Call(ctx, "DescribeKey", map[string]string{"KeyId": k.Alias}, &existing)
	if errors.Is(err, kms.ErrAliasNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	m := existing.KeyMetadata
	for other, keyId := range s.keyIds {
		if keyId == m.KeyId {
			s.differ("key %q is the same as key %q: %s", k.Alias, other, keyId)
		}
	}
	s.there["CreateNamedKey "+k.Alias] = true
	s.there["SetDeletionProtection "+k.Alias] = m.DeletionProtection == "Enabled"
	s.keyIds[k.Alias] = m.KeyId
	if m.KeySpec != k.Spec {
		s.differ("key %q is of KeySpec %s, not %s", k.Alias, m.KeySpec, k.Spec)
	}
	if m.KeyState != "Enabled" {
		s.differ("key %q is %s", k.Alias, m.KeyState)
	}
	s.compare("key", k.Alias, k.Description, m.Description)
	if err := s.compareTags(ctx, k, m.KeyId); err != nil || k.Policy == "" {
		return err
	}
	policy, err := keyPolicy(ctx, s.caller, m.KeyId)
	if err == nil && !k.Policy.Equal(policy) {
		s.differ("key %q has another policy", k.Alias)
	}
	return err
}

func keyPolicy(ctx context.Context, c target.Caller, keyId string) (string, error) {
	var answer kms.GetKeyPolicyResponse
	err := c.Call(ctx, "GetKeyPolicy", map[string]string{"KeyId": keyId}, &answer)
	return answer.Policy, err
}

func (s *survey) compareTags(ctx context.Context, k Key, keyId string) error {
	var answer kms.ListResourceTagsResponse
	if err := s.caller.Call(ctx, "ListResourceTags", map[string]string{"KeyId": keyId}, &answer); err != nil {
		return err
	}
	existing := make(map[string]string)
	for _, t := range answer.Tags.Tag {
		existing[t.TagKey] = t.TagValue
	}
	if !maps.Equal(existing, k.Tags) {
		s.differ("key %q has the tags %v, not %v", k.Alias, existing, k.Tags)
	}
	return nil
}

func (s *survey) findAliases(ctx context.Context) error {
	for _, a := range s.plan.Aliases {
		wanted, inPlan := s.keyIds[a.Key], slices.ContainsFunc(s.plan.Keys, func(k Key) bool { return k.Alias == a.Key })
		if !inPlan {
			var k kms.DescribeKeyResponse
			if err := s.caller.Call(ctx, "DescribeKey", map[string]string{"KeyId": a.Key}, &k); err != nil {
				return fmt.Errorf("the key of alias %q: %w", a.Name, err)
			}
			wanted = k.KeyMetadata.KeyId
			s.keyIds[a.Key] = wanted
		}
		var existing kms.DescribeKeyResponse
		err := s.caller.Call(ctx, "DescribeKey", map[string]string{"KeyId": a.Name}, &existing)
		if errors.Is(err, kms.ErrAliasNotFound) {
			continue
		}
		if err != nil {
			return fmt.Errorf("alias %q: %w", a.Name, err)
		}
		s.there["CreateAlias "+a.Name] = true
		if existing.KeyMetadata.KeyId != wanted {
			s.differ("alias %q names key %s instead of %s", a.Name, existing.KeyMetadata.KeyId, a.Key)
		}
	}
	return nil
}

// try sends dry runs of the steps that depend on no missing one.
func (s *survey) try(ctx context.Context, steps []step) error {
	var failed []error
	for _, step := range steps {
		if !s.isTriable(step) {
			continue
		}
		parameters := s.parameters(step)
		parameters["DryRun"] = "true"
		switch err := s.caller.Call(ctx, step.Action, parameters, nil); {
		case err == nil:
			failed = append(failed, fmt.Errorf("%s of %q: the gateway carried it out instead of trying it", step.Action, step.Name))
		case !errors.Is(err, kms.ErrDryRun):
			failed = append(failed, fmt.Errorf("%s of %q: %w", step.Action, step.Name, err))
		}
	}
	return errors.Join(failed...)
}

// isTriable reports whether everything that a step needs exists.
func (s *survey) isTriable(step step) bool {
	if step.Action == "AttachPolicyToUser" {
		user, policy := step.parameters["UserName"], step.parameters["PolicyName"]
		planned := slices.ContainsFunc(s.plan.Policies, func(p Policy) bool { return p.Name == policy })
		return s.there["CreateUser "+user] && (!planned || s.there["CreateRamPolicy "+policy])
	}
	return !step.needsKey || s.keyIds[step.key] != ""
}

// parameters returns the parameters of a step's request.
func (s *survey) parameters(step step) map[string]string {
	all := make(map[string]string, len(step.parameters)+1)
	for name, value := range step.parameters {
		all[name] = value
	}
	if step.needsKey {
		all["KeyId"] = s.keyIds[step.key]
	}
	return all
}
