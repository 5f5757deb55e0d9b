package hsm

import (
	"bytes"
	"testing"
)

// FuzzSignatureDER tests one property of the parser: it accepts only one encoding of each
// signature.
func FuzzSignatureDER(f *testing.F) {
	for _, rs := range [][]byte{
		make([]byte, 64),
		bytes.Repeat([]byte{0xff}, 64),
		append(bytes.Repeat([]byte{0}, 31), append([]byte{1}, bytes.Repeat([]byte{0x80}, 32)...)...),
	} {
		sig, err := MarshalSignature(rs)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(sig)
		f.Add(append(sig, 0))
	}
	f.Add([]byte{0x30, 0x07, 0x02, 0x02, 0x00, 0x01, 0x02, 0x01, 0x01}) // r padded
	f.Add([]byte{0x30, 0x81, 0x06, 0x02, 0x01, 0x01, 0x02, 0x01, 0x01}) // long form of a short length
	f.Add([]byte{0x30, 0x06, 0x02, 0x01, 0x81, 0x02, 0x01, 0x01})       // r negative
	f.Fuzz(func(t *testing.T, sig []byte) {
		r, s, ok := parseSignature(sig)
		if !ok {
			return
		}
		rs := make([]byte, 64)
		copy(rs[32-len(r):], r)
		copy(rs[64-len(s):], s)
		encoded, err := MarshalSignature(rs)
		if err != nil || !bytes.Equal(encoded, sig) {
			t.Errorf("%x was accepted but encodes to %x, %v", sig, encoded, err)
		}
	})
}

// FuzzPublicKeyDER tests the same property for public keys.
func FuzzPublicKeyDER(f *testing.F) {
	point := append([]byte{4}, make([]byte, 64)...)
	for spec := range curves {
		spki, err := MarshalECPublicKey(spec, point)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(spki)
	}
	f.Fuzz(func(t *testing.T, spki []byte) {
		for spec := range curves {
			point, err := ParseECPublicKey(spec, spki)
			if err != nil {
				continue
			}
			encoded, err := MarshalECPublicKey(spec, point)
			if err != nil || !bytes.Equal(encoded, spki) {
				t.Errorf("%x was accepted as %s but encodes to %x, %v", spki, spec, encoded, err)
			}
		}
	})
}
