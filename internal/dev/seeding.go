package dev

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/kmsgate/kmsgate/gateway"
	"github.com/kmsgate/kmsgate/gateway/kms"
	"github.com/kmsgate/kmsgate/internal/appliance"
	"github.com/kmsgate/kmsgate/internal/clientkey"
	"github.com/kmsgate/kmsgate/internal/durable"
	"github.com/kmsgate/kmsgate/store"
)

// seedHashFile has the hash of the seed that a directory was made from.
const seedHashFile = "seed.sha256"

// checkSeed checks that the directory is new, or was made from the same seed or, like this run, without
// one.
func (g *runner) checkSeed() error {
	hash := ""
	if g.Seed != nil {
		hash = g.Seed.hash
	}
	recorded, err := os.ReadFile(g.path(seedHashFile))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	_, dbErr := os.Stat(g.path("kmsgate.db"))
	switch isNew := errors.Is(dbErr, fs.ErrNotExist); {
	case string(recorded) == hash:
		return nil
	case isNew:
		return durable.Write(g.path(seedHashFile), []byte(hash), 0o600)
	case len(recorded) == 0:
		return fmt.Errorf("the directory %q was made without a seed: use another directory, or start without --seed and $KMSGATE_SEED", g.Dir)
	case hash == "":
		return fmt.Errorf("the directory %q was made from a seed: give --seed FILE, or use another directory", g.Dir)
	}
	return fmt.Errorf("the directory %q was made from another seed: use another directory, or remove this one", g.Dir)
}

// A seeder creates what a seed names, through the operations of the gateway. It leaves existing things as
// they are, so that it completes an interrupted start.
type seeder struct {
	g       *runner
	a       *appliance.Appliance
	records *store.Records
}

// do calls an operation, unless it was done before.
func (s *seeder) do(ctx context.Context, done bool, preset gateway.Preset, action string, answer any, parameters ...string) error {
	if done {
		return nil
	}
	all := make(map[string]string)
	for i := 0; i < len(parameters); i += 2 {
		if parameters[i+1] != "" {
			all[parameters[i]] = parameters[i+1]
		}
	}
	if err := s.a.Server.Call(gateway.WithPreset(ctx, preset), action, all, answer); err != nil {
		return fmt.Errorf("%s: %w", action, err)
	}
	return nil
}

// applySeed creates what the seed names and is missing, and returns its part of the environment.
// notices are those of Options.Ready.
func (g *runner) applySeed(ctx context.Context, a *appliance.Appliance) (env Environment, notices []string, err error) {
	s := &seeder{g: g, a: a, records: a.Store.Now()}
	for _, p := range g.Seed.Policies {
		if err := s.do(ctx, s.records.RamPolicies().Has(p.Name), gateway.Preset{}, "CreateRamPolicy", nil,
			"PolicyName", p.Name, "PolicyDocument", string(p.Document), "Description", p.Description); err != nil {
			return nil, nil, fmt.Errorf("policy %q: %w", p.Name, err)
		}
	}
	for _, u := range g.Seed.Users {
		if err := s.user(ctx, u); err != nil {
			return nil, nil, fmt.Errorf("user %q: %w", u.Name, err)
		}
		for _, k := range u.AccessKeys {
			if env == nil {
				env = accessKeyEnvironment(k.ID, k.Secret)
			}
		}
	}
	if env == nil {
		id, secret, err := ensureAccessKey(ctx, a)
		if err != nil {
			return nil, nil, fmt.Errorf("creating an access key: %w", err)
		}
		env = accessKeyEnvironment(id, secret)
	}
	for _, k := range g.Seed.Keys {
		if existing, err := s.records.Keys().Get(k.ID); err == nil && existing.KeyState == store.PendingDeletion {
			notices = append(notices, fmt.Sprintf("key %s of the seed is to be deleted (kmsgate key cancel-deletion %[1]s keeps it)", k.ID))
			continue // it can neither be used nor changed
		}
		if err := s.key(ctx, k); err != nil {
			return nil, nil, fmt.Errorf("key %q: %w", k.ID, err)
		}
		if env.Get("KMSGATE_KEY_"+k.Spec) == "" {
			env = append(env, [2]string{"KMSGATE_KEY_" + k.Spec, k.ID}, [2]string{"KMSGATE_KEYVERSION_" + k.Spec, k.Versions[0].ID})
		}
	}
	for _, p := range g.Seed.AccessPoints {
		added, err := s.accessPoint(ctx, p)
		if err != nil {
			return nil, nil, fmt.Errorf("access point %q: %w", p.Name, err)
		}
		if env.Get("KMSGATE_CLIENT_KEY_FILE") == "" {
			env = append(env, added...)
		}
	}
	return env, notices, nil
}

func (s *seeder) user(ctx context.Context, u SeedUser) error {
	existing, err := s.records.Users().Get(u.Name)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return err
	}
	if err := s.do(ctx, err == nil, gateway.Preset{}, "CreateUser", nil, "UserName", u.Name, "Comments", u.Description); err != nil {
		return err
	}
	for _, name := range u.Policies {
		attached := false
		for _, existing := range existing.Policies {
			attached = attached || existing == name
		}
		if err := s.do(ctx, attached, gateway.Preset{}, "AttachPolicyToUser", nil, "UserName", u.Name, "PolicyName", name); err != nil {
			return fmt.Errorf("policy %q: %w", name, err)
		}
	}
	for _, k := range u.AccessKeys {
		preset := gateway.Preset{AccessKeyId: k.ID, AccessKeySecret: k.Secret}
		if err := s.do(ctx, s.records.AccessKeys().Has(k.ID), preset, "CreateAccessKey", nil, "UserName", u.Name); err != nil {
			return fmt.Errorf("access key %q: %w", k.ID, err)
		}
	}
	return nil
}

func (s *seeder) key(ctx context.Context, k SeedKey) error {
	type tag struct{ TagKey, TagValue string }
	tags := []tag{}
	for name, value := range k.Tags {
		tags = append(tags, tag{name, value})
	}
	text, err := json.Marshal(tags)
	if err != nil {
		return err
	}
	existing, err := s.records.Keys().Get(k.ID)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return err
	}
	existed, preset := err == nil, gateway.Preset{KeyId: k.ID}
	for _, v := range k.Versions {
		if _, given := s.g.Seed.pems[v.ID]; given {
			preset.Origin = store.OriginSeed
		}
	}
	for i, v := range k.Versions {
		preset.KeyVersionId = v.ID
		if i == 0 {
			err = s.do(ctx, existed, preset, "CreateKey", nil, "KeySpec", k.Spec, "Description", k.Description,
				"Policy", string(k.Policy), "Tags", string(text))
		} else {
			_, getErr := s.records.Version(k.ID, v.ID)
			err = s.do(ctx, getErr == nil, preset, "CreateKeyVersion", nil, "KeyId", k.ID)
		}
		if err != nil {
			return fmt.Errorf("version %q: %w", v.ID, err)
		}
	}
	for _, alias := range k.Aliases {
		if err := s.do(ctx, s.records.Aliases().Has(alias), gateway.Preset{}, "CreateAlias", nil, "AliasName", alias, "KeyId", k.ID); err != nil {
			return fmt.Errorf("alias %q: %w", alias, err)
		}
	}
	// Last: a disabled key gets no versions.
	disabled := !k.Disabled || existing.KeyState == store.Disabled
	return s.do(ctx, disabled, gateway.Preset{}, "DisableKey", nil, "KeyId", k.ID)
}

// accessPoint creates an access point with its permission policy and client keys. It returns the
// environment of its first client key.
func (s *seeder) accessPoint(ctx context.Context, p SeedAccessPoint) (env Environment, err error) {
	resources := []string{}
	for _, id := range p.Keys {
		resources = append(resources, "key/"+id)
	}
	if len(resources) == 0 {
		resources = []string{"key/*"}
	}
	text, err := json.Marshal(resources)
	if err != nil {
		return nil, err
	}
	if err := s.do(ctx, s.records.PermissionPolicies().Has(p.Name), gateway.Preset{}, "CreatePolicy", nil,
		"Name", p.Name, "Permissions", clientkey.Permissions, "Resources", string(text)); err != nil {
		return nil, err
	}
	if err := s.do(ctx, s.records.AccessPoints().Has(p.Name), gateway.Preset{}, "CreateApplicationAccessPoint", nil,
		"Name", p.Name, "Policies", `["`+p.Name+`"]`); err != nil {
		return nil, err
	}
	for _, k := range p.ClientKeys {
		path := s.g.path(filepath.Join("clientkeys", strings.TrimPrefix(k.ID, "KAAP.")+".json"))
		if err := s.clientKey(ctx, p.Name, k, path); err != nil {
			return nil, fmt.Errorf("client key %q: %w", k.ID, err)
		}
		if env == nil {
			env = Environment{{"KMSGATE_CLIENT_KEY_FILE", path}, {"KMSGATE_CLIENT_KEY_PASSWORD", k.Password}}
		}
	}
	return env, nil
}

// clientKey creates a client key and its file. Without the file, which the gateway does not have, it
// creates the client key again.
func (s *seeder) clientKey(ctx context.Context, accessPoint string, k SeedClientKey, path string) error {
	exists := s.records.ClientKeys().Has(k.ID)
	if _, err := os.Stat(path); err == nil && exists {
		return nil
	}
	if err := s.do(ctx, !exists, gateway.Preset{}, "DeleteClientKey", nil, "ClientKeyId", k.ID); err != nil {
		return err
	}
	var created kms.CreateClientKeyResponse
	if err := s.do(ctx, false, gateway.Preset{ClientKeyId: k.ID}, "CreateClientKey", &created, "AapName", accessPoint, "Password", k.Password); err != nil {
		return err
	}
	text, err := json.Marshal(clientkey.NewFile(created))
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	return durable.Write(path, text, 0o600)
}
