package acs

import (
	"bufio"
	"crypto/sha256"
	"hash"
	"sync"
)

// A hasher computes hashes or HMACs of texts that are written in pieces, so that no text is in memory as a
// whole: one can be five times as long as its request. It is used again and again, because its buffer and the
// state of its hash are larger than most requests. Nothing of an earlier text reaches a later hash.
type hasher struct {
	hash   hash.Hash
	buffer *bufio.Writer
	result []byte
}

// bufferSize is the size of a hasher's buffer in bytes. Most canonical requests fit into it.
const bufferSize = 1 << 10

func newHasher(h hash.Hash) *hasher {
	return &hasher{hash: h, buffer: bufio.NewWriterSize(h, bufferSize), result: make([]byte, 0, h.Size())}
}

// sum returns the hash of what write writes. It is valid until the next call.
func (h *hasher) sum(write func(w *bufio.Writer)) []byte {
	h.hash.Reset()
	h.buffer.Reset(h.hash)
	write(h.buffer)
	_ = h.buffer.Flush() // a hash returns no error
	h.result = h.hash.Sum(h.result[:0])
	return h.result
}

// hashers are hashers of one kind. They are safe for concurrent use.
type hashers struct{ sync.Pool }

// sum returns the hash of what write writes, which has 32 bytes.
func (p *hashers) sum(write func(w *bufio.Writer)) [sha256.Size]byte {
	h := p.Get().(*hasher)
	defer p.Put(h)
	return [sha256.Size]byte(h.sum(write))
}
