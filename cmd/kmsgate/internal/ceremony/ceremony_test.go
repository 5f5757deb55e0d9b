package ceremony

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/hardware/hardwaretest"
	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/target"
	"github.com/kmsgate/kmsgate/gateway/audit"
	"github.com/kmsgate/kmsgate/gateway/kms"
	"github.com/kmsgate/kmsgate/hsm"
)

// A bench is an instance on a SoftHSM token.
type bench struct {
	*testing.T
	target.Caller
	key audit.PublicKey
	dir string // for plans
	n   int    // plans so far
}

func newBench(t *testing.T) *bench {
	t.Helper()
	path, a := hardwaretest.Open(t)
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	caller, err := target.Target{Config: path}.Dial(t.Context(), t.Output())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := caller.Close(); err != nil {
			t.Error(err)
		}
	})
	publicKey, err := os.ReadFile(a.Config.AuditPublicKeyFile())
	if err != nil {
		t.Fatal(err)
	}
	key, err := audit.ParsePublicKey(publicKey)
	if err != nil {
		t.Fatal(err)
	}
	return &bench{T: t, Caller: caller, key: key, dir: t.TempDir()}
}

// planText is a plan. Every %d becomes a number that no other plan has.
const planText = `title: Ceremony %[1]d
operators: [Ada, Grace]
policies:
  - {name: p%[1]d, description: for tests, document: {Version: "1", Statement: [{Effect: Allow, Action: ["kms:*"], Resource: ["*"]}]}}
users:
  - {name: u%[1]d, policies: [p%[1]d, AliyunKMSReadOnlyAccess]}
keys:
  - {alias: alias/k%[1]d, spec: EC_P256, protect: true, tags: {team: release}}
aliases:
  - {name: alias/a%[1]d, key: alias/k%[1]d}
`

// plan writes a plan whose names are new, and returns its path and its text.
func (b *bench) plan() (path, text string) {
	b.Helper()
	b.n++
	path, text = filepath.Join(b.dir, fmt.Sprintf("plan%d.yaml", b.n)), fmt.Sprintf(planText, b.n)
	b.write(path, text)
	return path, text
}

func (b *bench) write(path, text string) {
	b.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		b.Fatal(err)
	}
}

// run carries a plan out through a caller, with its transcript at out.
func (b *bench) run(c target.Caller, path, out string) (p Proof, err error) {
	b.Helper()
	o, err := Open(path)
	if err != nil {
		b.Fatal(err)
	}
	defer func() { err = errors.Join(err, o.Close()) }()
	if _, isQuick := c.(quickWith); !isQuick {
		c = quick{c}
	}
	if err := o.Prepare(b.Context(), c, out); err != nil {
		return p, err
	}
	if o.Complete() {
		return p, nil
	}
	return o.Run(b.Context())
}

func (b *bench) call(action string, parameters ...string) {
	b.Helper()
	all := make(map[string]string)
	for i := 0; i < len(parameters); i += 2 {
		all[parameters[i]] = parameters[i+1]
	}
	if err := b.Call(b.Context(), action, all, nil); err != nil {
		b.Fatalf("%s: %v", action, err)
	}
}

// countKeys returns how many keys the instance has.
func (b *bench) countKeys() int {
	b.Helper()
	all, err := target.Keys.All(b.Context(), b.Caller, nil)
	if err != nil {
		b.Fatal(err)
	}
	return len(all)
}

// A faulty caller fails once, at the change with this number, from 0 on.
type faulty struct {
	target.Caller
	number  int
	moment  moment
	changes int
	late    sync.WaitGroup // changes that the gateway makes after the fault
}

// A moment is the time at which the gateway makes a change, relative to the fault.
type moment int

const (
	never moment = iota
	before
	after
	moments
)

var errFault = errors.New("the line is cut")

func (f *faulty) Do(ctx context.Context, r kms.AdminRequest, answer any) error {
	isChange := slices.ContainsFunc([]string{"Create", "Attach", "Set"}, func(verb string) bool { return strings.HasPrefix(r.Action, verb) })
	f.changes += map[bool]int{true: 1}[isChange && r.Parameters["DryRun"] == ""]
	if !isChange || r.Parameters["DryRun"] != "" || f.changes != f.number+1 {
		return f.Caller.Do(ctx, r, answer)
	}
	switch f.moment {
	case before:
		return errors.Join(errFault, f.Caller.Do(ctx, r, nil))
	case after:
		f.late.Go(func() { _ = f.Caller.Do(context.WithoutCancel(ctx), r, nil) }) // the next run may be first
	}
	return errFault
}

// TestInterrupted interrupts a ceremony at every change. The gateway makes that change never, before
// the fault or after it. The second run ends with the same objects, and its transcript marks the step
// whose answer was lost.
func TestInterrupted(t *testing.T) {
	b := newBench(t)
	steps := 0
	for number := 0; ; number++ {
		for moment := range moments {
			path, text := b.plan()
			keys := b.countKeys()
			f := &faulty{Caller: b, number: number, moment: moment}
			_, err := b.run(f, path, "")
			if err == nil && number > 0 { // there are no more changes
				if number != steps+1 { // and the attestation
					t.Errorf("ceremonies made %d changes, want one for each of %d steps and the attestation", number, steps)
				}
				return
			}
			if !errors.Is(err, errFault) {
				t.Fatalf("change %d, %v: %v", number, moment, err)
			}
			p, err := b.run(b, path, "")
			f.late.Wait()
			if err != nil {
				t.Fatalf("change %d, %v, again: %v", number, moment, err)
			}
			steps = len(p.Transcript.Steps)
			for i, s := range p.Transcript.Steps {
				isLost := i == number && (moment == before || moment == after && s.State == Lost)
				if (s.State == Lost) != isLost || (s.State == Done) == isLost || (s.RequestId == "") != isLost || s.Time.IsZero() {
					t.Errorf("change %d, %v: step %d is %+v, want it lost: %v", number, moment, i, s, isLost)
				}
			}
			if made := b.countKeys() - keys; made != 1 || p.Transcript.Plan != text {
				t.Errorf("change %d, %v: made %d keys", number, moment, made)
			}
			if _, err := Verify(b.key, DefaultPath(path)); err != nil {
				t.Errorf("change %d, %v: %v", number, moment, err)
			}
			if left, err := filepath.Glob(path + ".*"); err != nil || len(left) != 3 {
				t.Errorf("change %d, %v: the files are %v, %v", number, moment, left, err)
			}
		}
	}
}

// TestDifferences carries out plans of what exists already, after somebody has changed it.
func TestDifferences(t *testing.T) {
	b := newBench(t)
	path, text := b.plan()
	first, err := b.run(b, path, "")
	if err != nil {
		t.Fatal(err)
	}
	keys := b.countKeys()
	if p, err := b.run(b, path, ""); err != nil || p.Transcript.Format != "" {
		t.Errorf("again: %+v, %v", p, err)
	}
	again, err := b.run(b, path, filepath.Join(b.dir, "again"))
	if err != nil || b.countKeys() != keys {
		t.Fatalf("with another transcript: %v", err)
	}
	for _, s := range again.Transcript.Steps {
		if s.State != Existed {
			t.Errorf("with another transcript: %+v", s)
		}
	}
	keyId := first.Transcript.Keys[0].KeyId
	b.call("CreateNamedKey", "AliasName", "alias/other", "KeySpec", "EC_P256")
	keys = b.countKeys()
	changed, out := filepath.Join(b.dir, "changed.yaml"), filepath.Join(b.dir, "out")
	for want, replace := range map[string][]string{
		`policy "p1" has another document`:                                      {"kms:*", "kms:Get*"},
		`policy "p1" has the description "for tests", not "for other tests"`:    {"for tests", "for other tests"},
		`policy "AliyunKMSNone" of user "u1" neither exists nor is in the plan`: {"AliyunKMSReadOnlyAccess", "AliyunKMSNone"},
		`user "u1" also has policy "AliyunKMSReadOnlyAccess"`:                   {", AliyunKMSReadOnlyAccess", ""},
		`user "u1" has the description "", not "new"`:                           {"name: u1", "name: u1, description: new"},
		`key "alias/k1" is of KeySpec EC_P256, not EC_SM2`:                      {"EC_P256", "EC_SM2"},
		`key "alias/k1" has the tags map[team:release], not map[team:tests]`:    {"team: release", "team: tests"},
		`key "alias/k1" has another policy`:                                     {"protect: true", "policy: {Version: '1', Statement: []}"},
		`the key of alias "alias/a1"`:                                           {"key: alias/k1", "key: alias/none"},
		`key "alias/a1" is the same as key "alias/k1": ` + keyId:                {"aliases:", "", "name: alias/a1, key: alias/k1", "alias: alias/a1, spec: EC_P256, tags: {team: release}"},
		`alias "alias/a1" names key ` + keyId:                                   {"key: alias/k1", "key: alias/other"},
		`CreateUser of "no such name":`:                                         {"u1", "no such name"},
		`CreateRamPolicy of "p2":`:                                              {"Allow", "Permit", "p1", "p2", "u1", "u2"},
		`CreateNamedKey of "alias/k2":`:                                         {"alias/k1", "alias/k2", "team", "acs:team", "alias/a1", "alias/a2"},
	} {
		b.write(changed, strings.NewReplacer(replace...).Replace(text))
		if _, err := b.run(b, changed, out); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v", want, err)
		}
		if files, err := filepath.Glob(out + "*"); err != nil || files != nil {
			t.Errorf("%s: the files are %v, %v", want, files, err)
		}
	}
	b.write(changed, text+"# one more line")
	if _, err := b.run(b, changed, DefaultPath(path)); err == nil || !strings.Contains(err.Error(), "is of another plan") {
		t.Errorf("the transcript of another plan: %v", err)
	}
	b.call("DisableKey", "KeyId", keyId)
	if _, err := b.run(b, path, out); err == nil || !strings.Contains(err.Error(), `key "alias/k1" is Disabled`) {
		t.Errorf("a disabled key: %v", err)
	}
	b.call("EnableKey", "KeyId", keyId)
	b.call("DeleteAlias", "AliasName", "alias/a1")
	if _, err := b.run(b, path, ""); err == nil || !strings.Contains(err.Error(), `"alias/a1" is gone, which this ceremony had recorded`) {
		t.Errorf("a completed ceremony whose alias is gone: %v", err)
	}
	if n := b.countKeys(); n != keys {
		t.Errorf("there are %d keys, want %d", n, keys)
	}
}

// TestFilesOfOthers checks that a ceremony refuses files that are not its own.
func TestFilesOfOthers(t *testing.T) {
	b := newBench(t)
	path, _ := b.plan()
	out := DefaultPath(path)
	if _, err := b.run(&faulty{Caller: b, number: 2}, path, ""); !errors.Is(err, errFault) {
		t.Fatal(err)
	}
	partial, err := os.ReadFile(partialPath(out))
	if err != nil {
		t.Fatal(err)
	}
	for want, change := range map[string]func(){
		"must be a file that only you": func() { _ = os.Chmod(partialPath(out), 0o622) },
		"is not a transcript":          func() { b.write(partialPath(out), "{}") },
		"it was changed":               func() { b.write(partialPath(out), " "+string(partial)) },
		"is of another plan":           func() { b.write(partialPath(out), strings.Replace(string(partial), "Grace]", "Eve]", 1)) },
		"is of instance acs:kms:x": func() {
			b.write(partialPath(out), strings.Replace(string(partial), "acs:kms:cn-hangzhou", "acs:kms:x", 1))
		},
		out + " is not a transcript":     func() { b.write(out, "mine") },
		out + " is of another ceremony":  func() { b.write(out, strings.Replace(string(partial), `"Ceremony": "`, `"Ceremony": "x`, 1)) },
		out + ".attestation exists":      func() { b.write(out+".attestation", "mine"); _ = os.Remove(partialPath(out)) },
		"exists without its attestation": func() { b.write(out, string(partial)); _ = os.Remove(partialPath(out)) },
	} {
		for _, path := range []string{out, out + ".attestation", partialPath(out)} {
			if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
				t.Fatal(err)
			}
		}
		b.write(partialPath(out), string(partial))
		change()
		if _, err := b.run(b, path, ""); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v", want, err)
		}
	}
}

// TestOthersAtWork has others change the instance while a ceremony is under way.
func TestOthersAtWork(t *testing.T) {
	b := newBench(t)
	path, _ := b.plan()
	first, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := first.Prepare(t.Context(), quick{b}, ""); err != nil {
		t.Fatal(err)
	}
	if _, err := b.run(b, path, ""); err == nil || !strings.Contains(err.Error(), "another ceremony has its transcript in "+b.dir) {
		t.Errorf("two ceremonies at once: %v", err)
	}
	b.call("CreateUser", "UserName", "u1")
	if _, err := first.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "the instance has changed since its steps were shown") {
		t.Errorf("after another's change: %v", err)
	}
	if err := first.Close(); err != nil {
		t.Error(err)
	}
	b.call("DeleteUser", "UserName", "u1")

	// The attachment is the fourth change; the key then exists, and the ceremony does not create another.
	if _, err := b.run(&faulty{Caller: b, number: 5}, path, ""); !errors.Is(err, errFault) {
		t.Fatal(err)
	}
	keys := b.countKeys()
	b.call("CreateNamedKey", "AliasName", "alias/other", "KeySpec", "EC_P256", "Tags", `[{"TagKey":"team","TagValue":"release"}]`)
	b.call("UpdateAlias", "AliasName", "alias/k1", "KeyId", "alias/other")
	if _, err := b.run(b, path, ""); err == nil || !strings.Contains(err.Error(), "and this ceremony had recorded") {
		t.Errorf("after another moved the alias: %v", err)
	}
	b.call("DeleteAlias", "AliasName", "alias/k1")
	if _, err := b.run(b, path, ""); err == nil || !strings.Contains(err.Error(), `"alias/k1" is gone`) {
		t.Errorf("after another deleted the alias: %v", err)
	}
	if n := b.countKeys(); n != keys+1 {
		t.Errorf("%d keys were created, want only the other's", n-keys)
	}

	// A policy that is attached while the ceremony runs is found at its end.
	path, _ = b.plan()
	attaching := &onChange{Caller: b, action: "SetDeletionProtection", then: func() {
		b.call("AttachPolicyToUser", "UserName", fmt.Sprintf("u%d", b.n), "PolicyName", "AliyunKMSFullAccess")
	}}
	if _, err := b.run(attaching, path, ""); err == nil || !strings.Contains(err.Error(), `also has policy "AliyunKMSFullAccess"`) {
		t.Errorf("after another attached a policy: %v", err)
	}
	if _, err := os.Lstat(DefaultPath(path)); err == nil {
		t.Error("a ceremony whose instance differs from its plan has a transcript")
	}
}

// TestOffers: a KeySpec that the token does not offer is refused before anything is created.
func TestOffers(t *testing.T) {
	b := newBench(t)
	path, _ := b.plan()
	offers := []hsm.Offer{{KeySpec: hsm.EC_P256, Reason: "it has no curve"}}
	if _, err := b.run(quickWith{b, offers}, path, ""); err == nil || !strings.Contains(err.Error(), "the token does not make keys of KeySpec EC_P256: it has no curve") {
		t.Errorf("got %v", err)
	}
	if n := b.countKeys(); n != 0 {
		t.Errorf("there are %d keys", n)
	}
}

// quick is a caller without the second that DescribeToken takes.
type quick struct{ target.Caller }

func (q quick) Do(ctx context.Context, r kms.AdminRequest, answer any) error {
	return quickWith{q.Caller, nil}.Do(ctx, r, answer)
}

// quickWith is a quick caller whose token has offers.
type quickWith struct {
	target.Caller
	offers []hsm.Offer
}

func (q quickWith) Do(ctx context.Context, r kms.AdminRequest, answer any) error {
	if d, ok := answer.(*kms.DescribeTokenResponse); ok {
		d.Survey.Offers = q.offers
		return nil
	}
	return q.Caller.Do(ctx, r, answer)
}

// onChange is a caller that calls then after an operation.
type onChange struct {
	target.Caller
	action string
	then   func()
}

func (o *onChange) Do(ctx context.Context, r kms.AdminRequest, answer any) error {
	err := o.Caller.Do(ctx, r, answer)
	if r.Action == o.action {
		o.then()
	}
	return err
}

// TestForgedTranscript checks attested transcripts that are wrong: anyone who may ask for an
// attestation chooses the document. Some cases also change the attestation.
func TestForgedTranscript(t *testing.T) {
	b := newBench(t)
	path, _ := b.plan()
	if _, err := b.run(b, path, ""); err != nil {
		t.Fatal(err)
	}
	original, err := Verify(b.key, DefaultPath(path))
	if err != nil {
		t.Fatal(err)
	}
	attribute := func(p *Proof, name string) *hsm.Attribute {
		all := p.Attestation.Keys[0].Attributes
		return &all[slices.IndexFunc(all, func(a hsm.Attribute) bool { return a.Name == name })]
	}
	for want, forge := range map[string]func(p *Proof){
		"the transcript's plan has mistakes":     func(p *Proof) { p.Transcript.Plan = "" },
		"the title and the operators":            func(p *Proof) { p.Transcript.Operators = []string{"Eve"} },
		"the title and":                          func(p *Proof) { p.Transcript.Title = "x" },
		"the transcript is of instance x":        func(p *Proof) { p.Transcript.Instance = "x" },
		"what the token reports":                 func(p *Proof) { p.Attestation.Token = nil },
		"has 6 steps, and its plan 7":            func(p *Proof) { p.Transcript.Steps = p.Transcript.Steps[1:] },
		"step 1 of":                              func(p *Proof) { p.Transcript.Steps[0].State = Begun },
		"step 2 of":                              func(p *Proof) { p.Transcript.Steps[1].Name = "x" },
		"has 0 keys, and its plan 1":             func(p *Proof) { p.Transcript.Keys = nil },
		"does not have key":                      func(p *Proof) { p.Transcript.Keys[0].KeyVersionIds = nil },
		"does not have key \"alias/k1\"":         func(p *Proof) { p.Transcript.Keys[0].Alias = "alias/x" },
		"the attestation does not have":          func(p *Proof) { p.Attestation.Keys = nil },
		", enabled and with KeySpec EC_P256":     func(p *Proof) { p.Attestation.Keys[0].KeySpec = hsm.RSA_2048 },
		"the token does not report CKA_SENS":     func(p *Proof) { attribute(p, "CKA_SENSITIVE").Name = "x" },
		"the token reports CKA_EXTRACTABLE \"tr": func(p *Proof) { attribute(p, "CKA_EXTRACTABLE").Value = "true" },
		"the token reports CKA_LOCAL \"false":    func(p *Proof) { attribute(p, "CKA_LOCAL").Value = "false" },
		"the token does not report CKA_TOKEN":    func(p *Proof) { p.Attestation.Keys[0].Attributes = nil },
		"the token reports CKA_NEVER_EXTRACTAB":  func(p *Proof) { attribute(p, "CKA_NEVER_EXTRACTABLE").Value = "" },
		"":                                       func(p *Proof) { attribute(p, "CKA_LOCAL").Name = "x" }, // some tokens lack it
	} {
		text, err := json.Marshal(original)
		if err != nil {
			t.Fatal(err)
		}
		var p Proof
		if err := json.Unmarshal(text, &p); err != nil {
			t.Fatal(err)
		}
		forge(&p)
		if err := p.check(); (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v", want, err)
		}
	}
}
