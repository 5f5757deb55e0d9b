package policy_test

import (
	"encoding/json"
	"math/rand/v2"
	"testing"

	"github.com/kmsgate/kmsgate/policy"
)

// dice make choices from bytes. Once the bytes are used up, they choose the first option.
type dice struct{ bytes []byte }

func (d *dice) roll(n int) int {
	if len(d.bytes) == 0 {
		return 0
	}
	b := int(d.bytes[0])
	d.bytes = d.bytes[1:]
	return b % n
}

func (d *dice) pick(options ...string) string { return options[d.roll(len(options))] }

// word returns a short word, so that equal words are likely.
func (d *dice) word(letters ...string) (w string) {
	for range d.roll(6) {
		w += d.pick(letters...)
	}
	return w
}

func (d *dice) pattern() string {
	return d.word("*", "a", "?", "b", "世", "A", ".", "K", "k", "\u212a")
}
func (d *dice) value() string { return d.word("a", "b", "世", "A", ".", "\n", "k", "\u212a") }
func (d *dice) number() string {
	return d.pick("", "-") + d.pick("0", "00", "1", "10", "2") + d.pick("", ".0", ".10", ".1", ".5")
}
func (d *dice) date() string {
	return "2026-01-0" + d.pick("1", "2") + "T0" + d.pick("0", "8") + ":00:00" +
		d.pick("Z", "+08:00", "-08:00", ".000Z")
}
func (d *dice) address() string {
	return d.pick("10.0.0.1", "10.0.0.2", "::ffff:10.0.0.1", "10.9.0.1", "2001:db8::1", "::1", "0.0.0.0", "::")
}
func (d *dice) principal() string {
	return "acs:ram::" + d.pick("1", "11") + ":" + d.pick("user/a", "role/a", "root", "user/b", "user/ab")
}

func (d *dice) relation() string {
	return d.pick("Equals", "NotEquals", "LessThan", "LessThanEquals", "GreaterThan", "GreaterThanEquals")
}

// condition returns an operator, a key that it applies to, and a function that makes values.
func (d *dice) condition() (operator, key string, values func() any) {
	switch d.roll(6) {
	case 0:
		return "String" + d.pick("Like", "NotLike"), d.pick("kms:tag/a", "kms:tag/A", "acs:SourceIp"),
			func() any { return d.pattern() }
	case 1:
		return "String" + d.pick("Equals", "NotEquals") + d.pick("", "IgnoreCase"),
			d.pick("kms:tag/a", "kms:tag/A", "acs:MFAPresent"), func() any { return d.value() }
	case 2:
		return "Numeric" + d.relation(), d.pick("kms:tag/n", "kms:tag/a"), func() any { return d.number() }
	case 3:
		return "Date" + d.relation(), d.pick("acs:CurrentTime", "kms:tag/d"), func() any { return d.date() }
	case 4:
		return "Bool", d.pick("acs:MFAPresent", "acs:SecureTransport", "kms:tag/b"), func() any {
			if d.roll(2) == 0 {
				return d.roll(2) == 0
			}
			return d.pick("true", "false")
		}
	}
	return d.pick("IpAddress", "NotIpAddress"), d.pick("acs:SourceIp", "kms:tag/ip"), func() any {
		return d.pick(d.address(), "10.0.0.0/8", "10.0.0.1/31", "::ffff:10.0.0.0/120", "0.0.0.0/0", "::/0",
			"2001:db8::/32")
	}
}

func (d *dice) conditions() map[string]any {
	all := map[string]any{}
	for range 1 + d.roll(3) {
		operator, key, value := d.condition()
		keys, ok := all[operator].(map[string]any)
		if !ok {
			keys = map[string]any{}
			all[operator] = keys
		}
		keys[key] = d.oneOrMany(value)
	}
	return all
}

func (d *dice) oneOrMany(value func() any) any {
	n := d.roll(4)
	if n == 0 {
		return value()
	}
	values := []any{}
	for range n {
		values = append(values, value())
	}
	return values
}

func (d *dice) statement(keyPolicy bool) map[string]any {
	s := map[string]any{"Effect": d.pick("Allow", "Allow", "Deny")}
	if keyPolicy {
		s["Sid"], s["Resource"] = "x", []string{"*"}
		s["Principal"] = map[string]any{"RAM": d.oneOrMany(func() any {
			return d.pick("acs:ram::1:*", "acs:ram::11:*", d.principal())
		})}
		s["Action"] = d.oneOrMany(func() any {
			return d.pick("kms:*", "kms:Get*", "kms:AsymmetricSign", "kms:ListKeys", "kms:List*")
		})
	} else {
		s["Action"] = d.oneOrMany(func() any {
			return d.pick("kms:*", "*", "kms:get*", "KMS:?symmetricSign", "*Key*", "kms:\u212a*", "kms:ListKeys")
		})
		s["Resource"] = d.oneOrMany(func() any { return d.pick("*", "key/*", "key/"+d.pattern(), "*"+d.pattern()) })
	}
	if d.roll(3) > 0 {
		s["Condition"] = d.conditions()
	}
	return s
}

func (d *dice) document(keyPolicy bool) string {
	statements := []any{}
	for range 1 + d.roll(3) {
		statements = append(statements, d.statement(keyPolicy))
	}
	document, err := json.Marshal(map[string]any{"Version": "1", "Statement": statements})
	if err != nil {
		panic(err)
	}
	return string(document)
}

// values are a request's values that are known beforehand.
type values map[string]string

func (v values) Value(key string) (value string, ok bool) {
	value, ok = v[key]
	return value, ok
}

func (d *dice) request() policy.Request {
	all := values{}
	r := policy.Request{
		Action:    d.pick("kms:AsymmetricSign", "kms:GetPublicKey", "KMS:getpublickey", "kms:ListKeys", "kms:k"),
		Resource:  "key/" + d.value(),
		Principal: d.principal(),
		Values:    all,
	}
	tag := func() string { return d.pick(d.value(), d.number(), "10.0.0.1") }
	boolean := func() string { return d.pick("true", "false", "TRUE") }
	for _, c := range []struct {
		key   string
		value func() string
	}{
		{"acs:CurrentTime", d.date}, {"acs:SourceIp", d.address}, {"acs:MFAPresent", boolean},
		{"acs:SecureTransport", boolean}, {"kms:tag/ip", d.address}, {"kms:tag/n", d.number}, {"kms:tag/d", d.date},
		{"kms:tag/b", boolean}, {"kms:tag/a", tag}, {"kms:tag/A", tag},
	} {
		switch d.roll(8) {
		case 1: // no value
		case 2:
			all[c.key] = "?"
		default:
			all[c.key] = c.value()
		}
	}
	return r
}

func TestDecideIsNaive(t *testing.T) {
	random := rand.NewChaCha8([32]byte{1})
	seen := map[naiveVerdict]int{}
	for range 3000 {
		bytes := make([]byte, 400)
		_, _ = random.Read(bytes)
		v := checkNaive(t, &dice{bytes})
		seen[naiveVerdict{v.allowed, min(v.policy, 0), 0}]++
	}
	// The comparison is worthless if nearly all cases have the same outcome.
	for _, outcome := range []naiveVerdict{{true, 0, 0}, {false, 0, 0}, {false, -1, 0}} {
		if seen[outcome] < 300 {
			t.Errorf("outcome %+v: got %d of 3000 cases, want at least 300", outcome, seen[outcome])
		}
	}
}

func FuzzDecide(f *testing.F) {
	for seed := range byte(20) {
		bytes := make([]byte, 200)
		_, _ = rand.NewChaCha8([32]byte{seed}).Read(bytes)
		f.Add(bytes)
	}
	f.Fuzz(func(t *testing.T, bytes []byte) { checkNaive(t, &dice{bytes}) })
}
