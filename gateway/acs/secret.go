package acs

import (
	"bufio"
	"crypto/hmac"
	"crypto/sha1"
	"crypto/sha256"
	"sync"

	"github.com/emmansun/gmsm/sm3"
)

// A Secret is an AccessKeySecret. It keeps HMACs keyed with the secret. That saves each request six allocations
// and over half of its HMAC's time. It is safe for concurrent use.
type Secret struct {
	text string
	macs [derivedMAC]sync.Pool // of *hasher, by macKind
}

// A macKind is a way to make an HMAC from a secret.
type macKind int

const (
	sha256MAC macKind = iota
	sm3MAC
	sha1MAC
	derivedMAC // of a key that depends on the request, so no HMAC is kept
)

// NewSecret returns the Secret with a text.
func NewSecret(text string) *Secret { return &Secret{text: text} }

// Text returns the secret's text.
func (s *Secret) Text() string { return s.text }

// verify reports whether signature is the HMAC of what write writes. It compares in constant time.
func (s *Secret) verify(kind macKind, signature []byte, write func(w *bufio.Writer)) bool {
	mac, ok := s.macs[kind].Get().(*hasher)
	if !ok {
		mac = s.newMAC(kind)
	}
	defer s.macs[kind].Put(mac)
	return hmac.Equal(mac.sum(write), signature)
}

func (s *Secret) newMAC(kind macKind) *hasher {
	switch kind {
	case sm3MAC:
		return newHasher(hmac.New(sm3.New, []byte(s.text)))
	case sha1MAC:
		return newHasher(hmac.New(sha1.New, []byte(s.text+"&")))
	}
	return newHasher(hmac.New(sha256.New, []byte(s.text)))
}
