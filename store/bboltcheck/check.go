// Package bboltcheck checks whether bbolt can use a file without crashing.
//
// bbolt trusts the file. In a damaged one it panics in its own goroutine, where callers
// cannot recover, or reads past the end of the file. Either way the process dies. [Check]
// first follows every reference that bbolt would follow. It guarantees that bbolt can open
// a file that passes, read all of it and write to it, without a panic.
//
// The package knows bbolt's page format, which bbolt keeps in its internal/common. A test
// pins it to the version in go.mod.
package bboltcheck

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"io/fs"
	"os"
	"time"

	"github.com/kmsgate/kmsgate/internal/durable"
)

// ErrDamaged: bbolt did not write the file as it is.
var ErrDamaged = errors.New("the database is damaged")

// The page format, from bbolt's internal/common. All numbers are in the machine's byte
// order, and are followed by their size in bytes:
//
//	page     id 8, flags 2, count 2, overflow 4 (how many further pages belong to it),
//	         then count elements, which point to data behind them
//	meta     in pages 0 and 1: magic 4, version 4, page size 4, flags 4, root bucket 16,
//	         page of the free list 8, number of pages 8, transaction 8, FNV-1a of these
//	branch   position 4, key size 4, page 8
//	leaf     flags 4, position 4, key size 4, value size 4
//	bucket   a value: root page 8, sequence 8; and a leaf page if the root page is 0
//	list     of free pages: 8 each
const (
	pageHeader   = 16
	elementSize  = 16
	bucketHeader = 16
	metaSize     = 64
	metaMagic    = 0xED0CDAED
	metaVersion  = 2
	noFreelist   = ^uint64(0)
	minPage      = 1 << 10
	maxPage      = 1 << 24
	maxDepth     = 64
	isBranch     = 0x01
	isLeaf       = 0x02
	isFreelist   = 0x10
	isBucket     = 0x01 // of an element
)

// A process that writes has pages on disk that do not fit together yet. Check waits for
// it as long as bbolt does. flock itself waits for ever or not at all.
const (
	lockEvery = 10 * time.Millisecond
	lockFor   = time.Second
)

// Check returns an error that is ErrDamaged if bbolt could not read the file at path and
// live. It returns nil for a file that does not exist or is empty: bbolt makes a new
// database of it. If another process keeps the file locked, the error is
// durable.ErrLocked. Check changes nothing.
func Check(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0) // NFS locks only files that are open for writing
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close() // and with it the lock
	if err := lock(f); err != nil {
		return err
	}
	info, err := f.Stat()
	if err != nil || info.Size() == 0 {
		return err
	}
	return newChecker(f, info.Size()).check()
}

func lock(f *os.File) error {
	for began := time.Now(); ; time.Sleep(lockEvery) {
		err := durable.Lock(f)
		if !errors.Is(err, durable.ErrLocked) || time.Since(began) > lockFor {
			return err
		}
	}
}

// A checker walks along everything that bbolt would follow.
type checker struct {
	file io.ReaderAt
	size int64
	meta
	seen map[uint64]bool // pages that are in use
}

// A meta is what a meta page says.
type meta struct {
	pageSize                    int64
	root, freelist, pages, txid uint64
}

func newChecker(file io.ReaderAt, size int64) *checker {
	return &checker{file: file, size: size, seen: map[uint64]bool{0: true, 1: true}}
}

func damaged(what string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrDamaged, fmt.Sprintf(what, args...))
}

func (c *checker) check() error {
	if err := c.findMeta(); err != nil {
		return err
	}
	if c.pages > uint64(c.size/c.pageSize) {
		return damaged("it has %d bytes, and had %d pages of %d bytes: its end is missing", c.size, c.pages, c.pageSize)
	}
	if c.root == 0 {
		return damaged("it has no root")
	}
	if err := c.tree(c.root, bounds{}, 0); err != nil {
		return err
	}
	return c.free()
}

// findMeta takes the newer of the meta pages that are whole. A commit that was cut off
// leaves one of them.
func (c *checker) findMeta() error {
	if c.readMeta(0, 0) {
		c.readMeta(c.pageSize, c.pageSize)
		return nil
	}
	for size := int64(minPage); size <= maxPage; size *= 2 {
		if c.readMeta(size, size) {
			return nil
		}
	}
	return damaged("it does not begin as one does")
}

// readMeta takes the meta page at an offset if it is whole and newer than the last one
// taken. If pageSize is not 0, the page must also name that size. It reports whether it
// took the page.
func (c *checker) readMeta(at, pageSize int64) bool {
	page := make([]byte, pageHeader+metaSize)
	if _, err := c.file.ReadAt(page, at); err != nil {
		return false
	}
	b := page[pageHeader:]
	sum := fnv.New64a()
	sum.Write(b[:metaSize-8])
	order := binary.NativeEndian
	m := meta{pageSize: int64(order.Uint32(b[8:])), root: order.Uint64(b[16:]), freelist: order.Uint64(b[32:]), pages: order.Uint64(b[40:]), txid: order.Uint64(b[48:])}
	switch {
	case order.Uint32(b) != metaMagic || order.Uint32(b[4:]) != metaVersion || order.Uint64(b[56:]) != sum.Sum64():
		return false
	case m.pageSize < minPage || m.pageSize > maxPage || m.pageSize&(m.pageSize-1) != 0 || pageSize != 0 && m.pageSize != pageSize:
		return false
	case c.pageSize != 0 && m.txid <= c.txid:
		return false
	}
	c.meta = m
	return true
}

// bounds limit the keys of a page: at least least, and less than less. Nil is no bound.
type bounds struct{ least, less []byte }

// A page is a page together with the further pages that belong to it.
type page struct {
	flags, count uint16
	bytes        []byte
}

// read returns a page. A page that was read before is damage: it has two owners.
func (c *checker) read(id uint64) (p page, err error) {
	if id < 2 || id >= c.pages {
		return p, damaged("there is no page %d", id)
	}
	header := make([]byte, pageHeader)
	if _, err := c.file.ReadAt(header, int64(id)*c.pageSize); err != nil {
		return p, err
	}
	order := binary.NativeEndian
	overflow := uint64(order.Uint32(header[12:]))
	if order.Uint64(header) != id || overflow >= c.pages-id {
		return p, damaged("page %d is another", id)
	}
	for i := id; i <= id+overflow; i++ {
		if c.seen[i] {
			return p, damaged("page %d is there twice", i)
		}
		c.seen[i] = true
	}
	p = page{flags: order.Uint16(header[8:]), count: order.Uint16(header[10:]), bytes: make([]byte, int64(overflow+1)*c.pageSize)}
	_, err = c.file.ReadAt(p.bytes, int64(id)*c.pageSize)
	return p, err
}

// tree checks a page and all pages below it.
func (c *checker) tree(id uint64, within bounds, depth int) error {
	if depth > maxDepth {
		return damaged("page %d is too far down", id)
	}
	p, err := c.read(id)
	if err != nil {
		return err
	}
	elements, ok := p.elements(within)
	switch {
	case !ok || p.flags == isBranch && len(elements) == 0:
		return damaged("page %d is not what it was", id)
	case p.flags == isLeaf:
		return c.buckets(id, elements, depth)
	}
	for i, e := range elements {
		below := bounds{e.key, within.less}
		if i+1 < len(elements) {
			below.less = elements[i+1].key
		}
		if err := c.tree(e.page, below, depth+1); err != nil {
			return err
		}
	}
	return nil
}

// buckets checks the buckets in a leaf.
func (c *checker) buckets(id uint64, elements []element, depth int) error {
	for _, e := range elements {
		if e.flags&isBucket == 0 {
			continue
		}
		if len(e.value) < bucketHeader {
			return damaged("a bucket in page %d is not what it was", id)
		}
		if root := binary.NativeEndian.Uint64(e.value); root != 0 {
			if err := c.tree(root, bounds{}, depth+1); err != nil {
				return err
			}
			continue
		}
		if !isInline(e.value[bucketHeader:]) {
			return damaged("a bucket in page %d is not what it was", id)
		}
	}
	return nil
}

// isInline reports whether b is the leaf page of an inline bucket: a small bucket, kept in
// its parent's leaf. It must not contain buckets.
func isInline(b []byte) bool {
	if len(b) < pageHeader {
		return false
	}
	p := page{flags: binary.NativeEndian.Uint16(b[8:]), count: binary.NativeEndian.Uint16(b[10:]), bytes: b}
	elements, ok := p.elements(bounds{})
	for _, e := range elements {
		ok = ok && e.flags&isBucket == 0
	}
	return ok && p.flags == isLeaf
}

// An element of a branch has a page; one of a leaf has a value.
type element struct {
	key, value []byte
	flags      uint32
	page       uint64
}

// elements returns the elements of a page. It is not ok if one lies outside the page or
// out of order.
func (p page) elements(within bounds) (all []element, ok bool) {
	if p.flags != isBranch && p.flags != isLeaf || pageHeader+int(p.count)*elementSize > len(p.bytes) {
		return nil, false
	}
	order := binary.NativeEndian
	for i := range int(p.count) {
		b := p.bytes[pageHeader+i*elementSize:]
		var e element
		var at, key, value int
		if p.flags == isBranch {
			at, key, e.page = number(b), number(b[4:]), order.Uint64(b[8:])
		} else {
			e.flags, at, key, value = order.Uint32(b), number(b[4:]), number(b[8:]), number(b[12:])
		}
		if at+key+value > len(b) {
			return nil, false
		}
		e.key, e.value = b[at:at+key], b[at+key:at+key+value]
		low := within.least != nil && bytes.Compare(e.key, within.least) < 0 || i > 0 && bytes.Compare(e.key, all[i-1].key) <= 0
		if low || within.less != nil && bytes.Compare(e.key, within.less) >= 0 {
			return nil, false
		}
		all = append(all, e)
	}
	return all, true
}

// number reads a number of four bytes.
func number(b []byte) int { return int(binary.NativeEndian.Uint32(b)) }

// free checks the list of free pages, if there is one. kmsgate writes none.
func (c *checker) free() error {
	if c.freelist == noFreelist {
		return nil
	}
	p, err := c.read(c.freelist)
	if err != nil {
		return err
	}
	ids, count := p.bytes[pageHeader:], uint64(p.count)
	if count == 0xFFFF { // the first tells how many follow
		count, ids = binary.NativeEndian.Uint64(ids), ids[8:]
	}
	if p.flags != isFreelist || count > uint64(len(ids)/8) {
		return damaged("page %d is not what it was", c.freelist)
	}
	for i := range count {
		id := binary.NativeEndian.Uint64(ids[8*i:])
		if id >= c.pages || c.seen[id] {
			return damaged("page %d is free, and is not", id)
		}
		c.seen[id] = true
	}
	return nil
}
