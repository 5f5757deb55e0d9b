package store

import (
	"bytes"
	"testing"
)

// TestPlace checks that a sealed value opens only at its place, and that the digest tells places apart. The ids
// are such that their concatenations with the buckets are equal.
func TestPlace(t *testing.T) {
	s := newSealer(bytes.Repeat([]byte{1}, dataKeySize))
	value := s.seal("key", "sk1", []byte("plaintext"))
	if got, err := s.open("key", "sk1", value); err != nil || string(got) != "plaintext" {
		t.Fatalf("at its place: got %q, %v", got, err)
	}
	for _, other := range []place{{"key", "sk2"}, {"keys", "k1"}, {"keysk", "1"}, {"key", ""}} {
		if got, err := s.open(other.bucket, other.id, value); err == nil {
			t.Errorf("at %v: got %q, want an error", other, got)
		}
		if s.macOf(other.bucket, other.id, value) == s.macOf("key", "sk1", value) {
			t.Errorf("the digest of %v is that of another place", other)
		}
	}
	if s.macOf("key", "sk1", []byte("1x")) == s.macOf("key", "sk11", []byte("x")) {
		t.Error("the digest does not tell the end of an id")
	}
}

// TestDigest adds and removes values in different orders. The sum wraps around.
func TestDigest(t *testing.T) {
	s := newSealer(bytes.Repeat([]byte{1}, dataKeySize))
	var one, other digest
	for _, id := range []string{"a", "b", "c", "d"} {
		one = s.replace(one, "keys", id, nil, []byte(id))
	}
	for _, id := range []string{"d", "x", "b", "a", "c"} {
		other = s.replace(other, "keys", id, nil, []byte(id))
	}
	if one == other {
		t.Error("different sets have one digest")
	}
	if other = s.replace(other, "keys", "x", []byte("x"), nil); one != other {
		t.Error("equal sets have different digests")
	}
	negative := s.replace(digest{}, "keys", "a", []byte("a"), nil)
	if s.replace(negative, "keys", "a", nil, []byte("a")) != (digest{}) {
		t.Error("a value that was removed and added changes the digest")
	}
	text, err := one.MarshalText()
	var read digest
	if err != nil || read.UnmarshalText(text) != nil || read != one {
		t.Errorf("%q, %v: got %v, want %v", text, err, read, one)
	}
}
