package dev

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/google/uuid"

	"github.com/kmsgate/kmsgate/gateway/identity"
	"github.com/kmsgate/kmsgate/gateway/keypair"
	"github.com/kmsgate/kmsgate/gateway/kms"
	"github.com/kmsgate/kmsgate/hsm"
	"github.com/kmsgate/kmsgate/hsm/privatekey"
	"github.com/kmsgate/kmsgate/internal/strictyaml"
	"github.com/kmsgate/kmsgate/policy"
)

// maxSeed is the largest seed, in bytes.
const maxSeed = 1 << 20

// A Seed is what a development gateway begins with, in YAML. Its ids are the same everywhere, and so
// are the public keys of private keys that it has.
type Seed struct {
	Policies     []SeedPolicy      `yaml:"policies"`
	Users        []SeedUser        `yaml:"users"`
	Keys         []SeedKey         `yaml:"keys"`
	AccessPoints []SeedAccessPoint `yaml:"access_points"`

	hash string                    // of the text and of the files that it names
	pems map[string]privatekey.Key // by KeyVersionId
}

// A SeedPolicy is a RAM policy.
type SeedPolicy struct {
	Name        string              `yaml:"name"`
	Description string              `yaml:"description"`
	Document    strictyaml.Document `yaml:"document"`
}

// A SeedUser is a user with its access keys.
type SeedUser struct {
	Name        string          `yaml:"name"`
	Description string          `yaml:"description"`
	Policies    []string        `yaml:"policies"` // of the seed, or system policies
	AccessKeys  []SeedAccessKey `yaml:"access_keys"`
}

// A SeedAccessKey is an access key.
type SeedAccessKey struct {
	ID     string `yaml:"id"`
	Secret string `yaml:"secret"`
}

// A SeedKey is a key.
type SeedKey struct {
	ID          string              `yaml:"id"` // the KeyId: 1 to 64 letters, digits and hyphens
	Spec        string              `yaml:"spec"`
	Description string              `yaml:"description"`
	Aliases     []string            `yaml:"aliases"`
	Tags        map[string]string   `yaml:"tags"`
	Policy      strictyaml.Document `yaml:"policy"`
	Disabled    bool                `yaml:"disabled"`
	Versions    []SeedVersion       `yaml:"versions"` // at least one
}

// A SeedVersion is a key version.
type SeedVersion struct {
	ID             string `yaml:"id"`               // the KeyVersionId, a UUID
	PrivateKey     string `yaml:"private_key"`      // PEM; if it is empty, a new one is made
	PrivateKeyFile string `yaml:"private_key_file"` // or a file, relative to the seed
}

// A SeedAccessPoint is an application access point whose client keys may use some keys.
type SeedAccessPoint struct {
	Name       string          `yaml:"name"`
	Keys       []string        `yaml:"keys"` // KeyIds; if it is empty, all keys
	ClientKeys []SeedClientKey `yaml:"client_keys"`
}

// A SeedClientKey is a client key. Its private key is new in every directory.
type SeedClientKey struct {
	ID       string `yaml:"id"` // KAAP. and a UUID
	Password string `yaml:"password"`
}

// LoadSeed reads a seed and the files that it names.
func LoadSeed(path string) (*Seed, error) {
	text, err := readSmall(path)
	if err != nil {
		return nil, fmt.Errorf("reading the seed: %w", err)
	}
	s, err := ParseSeed(text, filepath.Dir(path))
	if err != nil {
		return nil, fmt.Errorf("the seed %q has mistakes:\n%w", path, err)
	}
	return s, nil
}

func readSmall(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxSeed+1))
	if err == nil && len(text) > maxSeed {
		err = fmt.Errorf("%q has more than %d KiB", path, maxSeed>>10)
	}
	return text, err
}

// ParseSeed parses a seed. Files that it names are relative to dir.
func ParseSeed(text []byte, dir string) (*Seed, error) {
	s := &Seed{pems: make(map[string]privatekey.Key)}
	if err := strictyaml.Decode(text, s); err != nil {
		return nil, err
	}
	sum := sha256.New()
	sum.Write(text)
	c := seedChecker{seed: s, dir: dir, hash: sum, names: make(map[string]bool)}
	c.check()
	s.hash = hex.EncodeToString(sum.Sum(nil))
	return s, errors.Join(c.errs...)
}

// A seedChecker collects the mistakes of a seed.
type seedChecker struct {
	seed  *Seed
	dir   string
	hash  io.Writer
	names map[string]bool // "key x"
	errs  []error
}

var (
	isName        = regexp.MustCompile(`^[A-Za-z0-9._@-]{1,64}$`).MatchString
	isKeyId       = regexp.MustCompile(`^[A-Za-z0-9-]{1,64}$`).MatchString
	isAccessKeyId = regexp.MustCompile(`^[A-Za-z0-9_.-]{1,128}$`).MatchString
	isClientKeyId = regexp.MustCompile(`^KAAP\.[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$`).MatchString
)

func (c *seedChecker) need(ok bool, format string, args ...any) {
	if !ok {
		c.errs = append(c.errs, fmt.Errorf(format, args...))
	}
}

// unique checks that a name is there, and only once.
func (c *seedChecker) unique(kind, name string) {
	c.need(name != "", "one %s has no %s", kind, cmp.Or(idOf[kind], "name"))
	c.need(name == "" || !c.names[kind+" "+name], "%s %q is there twice", kind, name)
	c.names[kind+" "+name] = true
}

// idOf are the kinds of things that have an id instead of a name.
var idOf = map[string]string{"access key": "id", "key": "id", "version": "id", "client key": "id"}

// needName checks a name as the gateway does.
func (c *seedChecker) needName(kind, name string) {
	c.need(name == "" || isName(name), "%s %q must have 1 to 64 of the characters A-Za-z0-9._@-", kind, name)
}

func (c *seedChecker) check() {
	for _, p := range c.seed.Policies {
		c.unique("policy", p.Name)
		c.need(p.Document != "", "policy %q has no document", p.Name)
		c.needName("policy", p.Name)
		_, isSystem := identity.SystemPolicies[p.Name]
		c.need(!isSystem, "policy %q is a system policy: give another name, or leave it out", p.Name)
		if _, err := policy.Parse(string(p.Document)); p.Document != "" && err != nil {
			c.need(false, "policy %q: %w", p.Name, err)
		}
	}
	for _, u := range c.seed.Users {
		c.unique("user", u.Name)
		c.needName("user", u.Name)
		c.need(u.Name != keypair.GatewayPrincipal, "user %q is reserved", u.Name)
		for i, name := range u.Policies {
			_, isSystem := identity.SystemPolicies[name]
			c.need(isSystem || c.names["policy "+name], "user %q: policy %q is neither in the seed nor a system policy", u.Name, name)
			c.need(!slices.Contains(u.Policies[:i], name), "user %q has policy %q twice", u.Name, name)
		}
		for _, a := range u.AccessKeys {
			c.unique("access key", a.ID)
			c.need(a.ID == "" || isAccessKeyId(a.ID), "access key %q: its id must have 1 to 128 letters, digits and _.-", a.ID)
			c.need(a.Secret != "", "access key %q has no secret", a.ID)
		}
	}
	for _, k := range c.seed.Keys {
		c.checkKey(k)
	}
	for _, a := range c.seed.AccessPoints {
		c.unique("access point", a.Name)
		c.needName("access point", a.Name)
		for _, id := range a.Keys {
			c.need(c.names["key "+id], "access point %q: the seed has no key %q", a.Name, id)
		}
		for _, k := range a.ClientKeys {
			c.unique("client key", k.ID)
			c.need(k.ID == "" || isClientKeyId(k.ID), "client key %q: its id must be KAAP. and a UUID in lower case", k.ID)
			if err := identity.CheckPassword(k.Password); err != nil {
				c.need(false, "client key %q: %w", k.ID, err)
			}
		}
	}
}

func (c *seedChecker) checkKey(k SeedKey) {
	c.unique("key", k.ID)
	c.need(k.ID == "" || isKeyId(k.ID), "key %q: its id must have 1 to 64 letters, digits and hyphens", k.ID)
	known := false
	for _, spec := range hsm.KeySpecs() {
		known = known || string(spec) == k.Spec
	}
	c.need(known, "key %q: spec %q is not one of %v", k.ID, k.Spec, hsm.KeySpecs())
	for name := range k.Tags {
		c.need(name != "" && !strings.HasPrefix(name, "aliyun") && !strings.HasPrefix(name, "acs:"), "key %q: the tag %q is reserved", k.ID, name)
	}
	for _, alias := range k.Aliases {
		c.unique("alias", alias)
		if err := kms.CheckAliasName(alias); err != nil {
			c.need(false, "alias %q: %w", alias, err)
		}
	}
	if _, err := policy.ParseKeyPolicy(string(k.Policy)); k.Policy != "" && err != nil {
		c.need(false, "key %q: its policy: %w", k.ID, err)
	}
	c.need(len(k.Versions) > 0, "key %q has no versions: give at least one, with an id", k.ID)
	for _, v := range k.Versions {
		c.unique("version", v.ID)
		if id, err := uuid.Parse(v.ID); err != nil || id.String() != v.ID {
			c.need(false, "version %q of key %q: its id must be a UUID in lower case", v.ID, k.ID)
		}
		c.readPrivateKey(k, v)
	}
}

// readPrivateKey reads the private key of a version, if there is one.
func (c *seedChecker) readPrivateKey(k SeedKey, v SeedVersion) {
	text := []byte(v.PrivateKey)
	if v.PrivateKeyFile != "" {
		c.need(v.PrivateKey == "", "version %q has both private_key and private_key_file", v.ID)
		path := v.PrivateKeyFile
		if !filepath.IsAbs(path) {
			path = filepath.Join(c.dir, path)
		}
		var err error
		if text, err = readSmall(path); err != nil {
			c.need(false, "version %q: %w", v.ID, err)
			return
		}
		_, _ = c.hash.Write(text) // a hash takes everything
	}
	if len(text) == 0 {
		return
	}
	private, err := privatekey.Parse(text)
	if err != nil {
		c.need(false, "version %q: its private key: %w", v.ID, err)
		return
	}
	c.need(string(private.Spec()) == k.Spec, "version %q: its private key is of KeySpec %s, not %s", v.ID, private.Spec(), k.Spec)
	c.seed.pems[v.ID] = private
}

// given returns the private key of a CKA_ID.
func (s *Seed) given(id []byte) (privatekey.Key, bool) {
	version, err := uuid.FromBytes(id)
	if err != nil {
		return privatekey.Key{}, false
	}
	k, ok := s.pems[version.String()]
	return k, ok
}
