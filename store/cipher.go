package store

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"math/bits"
)

// A sealed value is a format byte, a salt, a nonce and the AES-256-GCM ciphertext with its tag:
//
//	1 | salt 16 | nonce 12 | ciphertext | tag 16
//
// The key is HMAC-SHA-256(data key, "kmsgate record 1" | 0 | path | salt). The path is the bucket and the id, and
// this key authenticates it, too. Because almost every value has its own key, the number
// of values that one data key may seal is not limited by GCM's random nonces (SP 800-38D, 8.3).
const (
	formatSealed = 1
	saltSize     = 16
	nonceSize    = 12
	tagSize      = 16
	dataKeySize  = 32
)

// A sealer seals the values of one database under its data key.
type sealer struct{ key, digestKey []byte }

func newSealer(dataKey []byte) sealer {
	return sealer{dataKey, mac(dataKey, []byte("kmsgate digest 1"))}
}

func mac(key []byte, parts ...[]byte) []byte {
	h := hmac.New(sha256.New, key)
	for _, p := range parts {
		h.Write(p)
	}
	return h.Sum(nil)
}

// pathOf returns the path of a value: the bucket, a NUL, the length of the id in four bytes, and the id. No
// bucket's name contains a NUL.
func pathOf(bucket, id string) []byte {
	p := make([]byte, 0, len(bucket)+5+len(id))
	p = append(append(p, bucket...), 0)
	return append(binary.BigEndian.AppendUint32(p, uint32(len(id))), id...)
}

func (s sealer) aead(bucket, id string, salt []byte) cipher.AEAD {
	block, err := aes.NewCipher(mac(s.key, []byte("kmsgate record 1\x00"), pathOf(bucket, id), salt))
	if err != nil {
		panic(err) // cannot happen: the key has 32 bytes
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		panic(err) // cannot happen: AES has the block size that GCM requires
	}
	return aead
}

// seal seals a value for its path.
func (s sealer) seal(bucket, id string, plaintext []byte) []byte {
	const prefix = 1 + saltSize + nonceSize
	sealed := make([]byte, prefix, prefix+len(plaintext)+tagSize)
	sealed[0] = formatSealed
	rand.Read(sealed[1:])
	return s.aead(bucket, id, sealed[1:1+saltSize]).Seal(sealed, sealed[1+saltSize:], plaintext, nil)
}

// open is the inverse of seal.
func (s sealer) open(bucket, id string, sealed []byte) ([]byte, error) {
	if len(sealed) < 1+saltSize+nonceSize+tagSize || sealed[0] != formatSealed {
		return nil, errors.New("it is not sealed")
	}
	salt, rest := sealed[1:1+saltSize], sealed[1+saltSize:]
	plaintext, err := s.aead(bucket, id, salt).Open(nil, rest[:nonceSize], rest[nonceSize:], nil)
	if err != nil {
		return nil, errors.New("it was not sealed for this place with this database's key")
	}
	return plaintext, nil
}

// A digest is a sum, modulo 2^256, of a MAC of each value with its path. It is equal for equal sets of
// values, and is updated in a time that does not depend on their number. Nobody without the data key can
// find another set with the same digest. The least significant word is the first.
type digest [4]uint64

// macOf returns the digest of one value.
func (s sealer) macOf(bucket, id string, value []byte) (d digest) {
	sum := mac(s.digestKey, pathOf(bucket, id), value)
	for i := range d {
		d[i] = binary.LittleEndian.Uint64(sum[8*i:])
	}
	return d
}

// replace updates the digest for a value that is replaced. A nil value means that there is none.
func (s sealer) replace(d digest, bucket, id string, before, after []byte) digest {
	var carry uint64
	if before != nil {
		for i, word := range s.macOf(bucket, id, before) {
			d[i], carry = bits.Sub64(d[i], word, carry)
		}
	}
	carry = 0
	if after != nil {
		for i, word := range s.macOf(bucket, id, after) {
			d[i], carry = bits.Add64(d[i], word, carry)
		}
	}
	return d
}

// MarshalText encodes the digest in hexadecimal.
func (d digest) MarshalText() ([]byte, error) {
	var sum []byte
	for _, word := range d {
		sum = binary.LittleEndian.AppendUint64(sum, word)
	}
	return hex.AppendEncode(nil, sum), nil
}

// UnmarshalText is the inverse of MarshalText.
func (d *digest) UnmarshalText(text []byte) error {
	sum, err := hex.AppendDecode(nil, bytes.TrimSpace(text))
	if err != nil {
		return err
	}
	if len(sum) != 8*len(d) {
		return fmt.Errorf("a digest has %d bytes, not %d", 8*len(d), len(sum))
	}
	for i := range d {
		d[i] = binary.LittleEndian.Uint64(sum[8*i:])
	}
	return nil
}
