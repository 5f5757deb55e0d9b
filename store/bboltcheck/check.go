// Package bboltcheck checks whether bbolt can use a file without crashing.
//
// bbolt trusts the file. In a damaged one it panics in its own goroutine, where callers
// cannot recover, or reads past the end of the file. Either way the process dies. [Check]
// first follows every reference that bbolt would follow. It guarantees that bbolt can open
// a file that passes, read all of it and write to it, without a panic.
//
// The package depends on bbolt's page format, which is private to bbolt (internal/common). A test
// pins the package to the bbolt version in go.mod.
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

// ErrDamaged means that the file's content is not what bbolt wrote.
var ErrDamaged = errors.New("the database is damaged")

// The page format, from bbolt's internal/common. The figure after each field is its size in bytes.
// All numbers are in the machine's byte order:
//
//	page     id 8, flags 2, count 2, overflow 4 (the number of further pages that belong to it),
//	         then count elements, which point to the data after them
//	meta     in pages 0 and 1: magic 4, version 4, page size 4, flags 4, root bucket 16,
//	         page of the free list 8, number of pages 8, transaction 8, FNV-1a of these
//	branch   position 4, key size 4, page 8
//	leaf     flags 4, position 4, key size 4, value size 4
//	bucket   a value: root page 8, sequence 8; and a leaf page if the root page is 0
//	freelist ids of free pages: 8 each
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
	branchPage   = 0x01
	leafPage     = 0x02
	freelistPage = 0x10
	bucketFlag   = 0x01 // in an element's flags
)

// The pages on disk are inconsistent while a process writes them. Check waits for that process as
// long as bbolt does. It polls, because flock waits either indefinitely or not at all.
const (
	lockRetryInterval = 10 * time.Millisecond
	lockTimeout       = time.Second
)

// Check returns ErrDamaged if reading the file at path would crash bbolt. It returns nil if the
// file does not exist or is empty, because bbolt then creates a new database. If another process
// keeps the file locked, the error is durable.ErrLocked. Check changes nothing.
func Check(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0) // NFS can lock only a file that is open for writing
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close() // releases the lock, too
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
	for start := time.Now(); ; time.Sleep(lockRetryInterval) {
		err := durable.Lock(f)
		if !errors.Is(err, durable.ErrLocked) || time.Since(start) > lockTimeout {
			return err
		}
	}
}

// A checker follows every reference that bbolt would follow.
type checker struct {
	file io.ReaderAt
	size int64
	meta
	seen map[uint64]bool // the pages in use, by id
}

// A meta is the content of a meta page.
type meta struct {
	pageSize                    int64
	root, freelist, pages, txid uint64
}

func newChecker(file io.ReaderAt, size int64) *checker {
	return &checker{file: file, size: size, seen: map[uint64]bool{0: true, 1: true}}
}

func damaged(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrDamaged, fmt.Sprintf(format, args...))
}

func (c *checker) check() error {
	if err := c.findMeta(); err != nil {
		return err
	}
	if c.pages > uint64(c.size/c.pageSize) {
		return damaged("the file is truncated: %d bytes, want %d pages of %d bytes", c.size, c.pages, c.pageSize)
	}
	if c.root == 0 {
		return damaged("the root page is missing")
	}
	if err := c.checkTree(c.root, bounds{}, 0); err != nil {
		return err
	}
	return c.checkFreelist()
}

// findMeta reads the newer of the intact meta pages. An interrupted commit leaves one intact.
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
	return damaged("the file has no valid bbolt meta page")
}

// readMeta stores the meta page at offset in c if the page is intact and newer than the one stored
// before. If pageSize is not 0, the page must also have that page size. readMeta reports whether it
// stored the page.
func (c *checker) readMeta(offset, pageSize int64) bool {
	page := make([]byte, pageHeader+metaSize)
	if _, err := c.file.ReadAt(page, offset); err != nil {
		return false
	}
	b := page[pageHeader:]
	sum := fnv.New64a()
	sum.Write(b[:metaSize-8])
	order := binary.NativeEndian
	m := meta{
		pageSize: int64(order.Uint32(b[8:])),
		root:     order.Uint64(b[16:]),
		freelist: order.Uint64(b[32:]),
		pages:    order.Uint64(b[40:]),
		txid:     order.Uint64(b[48:]),
	}
	switch {
	case order.Uint32(b) != metaMagic || order.Uint32(b[4:]) != metaVersion || order.Uint64(b[56:]) != sum.Sum64():
		return false
	case m.pageSize < minPage || m.pageSize > maxPage || m.pageSize&(m.pageSize-1) != 0:
		return false
	case pageSize != 0 && m.pageSize != pageSize:
		return false
	case c.pageSize != 0 && m.txid <= c.txid:
		return false
	}
	c.meta = m
	return true
}

// bounds limit the keys of a page: min <= key < max. A nil field sets no bound.
type bounds struct{ min, max []byte }

// A page is a bbolt page including its overflow pages.
type page struct {
	flags, count uint16
	bytes        []byte
}

// read returns a page. It returns ErrDamaged for a page that was read before, because such a page
// has two owners.
func (c *checker) read(id uint64) (p page, err error) {
	if id < 2 || id >= c.pages {
		return p, damaged("a reference to page %d is out of range", id)
	}
	header := make([]byte, pageHeader)
	if _, err := c.file.ReadAt(header, int64(id)*c.pageSize); err != nil {
		return p, err
	}
	order := binary.NativeEndian
	overflow := uint64(order.Uint32(header[12:]))
	if order.Uint64(header) != id || overflow >= c.pages-id {
		return p, damaged("page %d has the wrong id or size", id)
	}
	for i := id; i <= id+overflow; i++ {
		if c.seen[i] {
			return p, damaged("page %d is in use twice", i)
		}
		c.seen[i] = true
	}
	p = page{
		flags: order.Uint16(header[8:]),
		count: order.Uint16(header[10:]),
		bytes: make([]byte, int64(overflow+1)*c.pageSize),
	}
	_, err = c.file.ReadAt(p.bytes, int64(id)*c.pageSize)
	return p, err
}

// checkTree checks a page and all pages below it.
func (c *checker) checkTree(id uint64, limits bounds, depth int) error {
	if depth > maxDepth {
		return damaged("page %d is nested more than %d levels deep", id, maxDepth)
	}
	p, err := c.read(id)
	if err != nil {
		return err
	}
	elements, ok := p.elements(limits)
	switch {
	case !ok || p.flags == branchPage && len(elements) == 0:
		return damaged("page %d has invalid content", id)
	case p.flags == leafPage:
		return c.checkBuckets(id, elements, depth)
	}
	for i, e := range elements {
		childLimits := bounds{e.key, limits.max}
		if i+1 < len(elements) {
			childLimits.max = elements[i+1].key
		}
		if err := c.checkTree(e.page, childLimits, depth+1); err != nil {
			return err
		}
	}
	return nil
}

// checkBuckets checks the buckets in a leaf.
func (c *checker) checkBuckets(id uint64, elements []element, depth int) error {
	for _, e := range elements {
		if e.flags&bucketFlag == 0 {
			continue
		}
		if len(e.value) < bucketHeader {
			return damaged("page %d contains an invalid bucket", id)
		}
		if root := binary.NativeEndian.Uint64(e.value); root != 0 {
			if err := c.checkTree(root, bounds{}, depth+1); err != nil {
				return err
			}
			continue
		}
		if !isInline(e.value[bucketHeader:]) {
			return damaged("page %d contains an invalid bucket", id)
		}
	}
	return nil
}

// isInline reports whether b is the leaf page of an inline bucket. bbolt stores such a small bucket
// in its parent's leaf. It must not contain buckets.
func isInline(b []byte) bool {
	if len(b) < pageHeader {
		return false
	}
	p := page{flags: binary.NativeEndian.Uint16(b[8:]), count: binary.NativeEndian.Uint16(b[10:]), bytes: b}
	elements, ok := p.elements(bounds{})
	for _, e := range elements {
		ok = ok && e.flags&bucketFlag == 0
	}
	return ok && p.flags == leafPage
}

// An element is one entry of a page. It has a page in a branch, and a value in a leaf.
type element struct {
	key, value []byte
	flags      uint32
	page       uint64
}

// elements returns the elements of a page. ok is false if one lies outside the page, outside the
// limits or out of order.
func (p page) elements(limits bounds) (all []element, ok bool) {
	if p.flags != branchPage && p.flags != leafPage || pageHeader+int(p.count)*elementSize > len(p.bytes) {
		return nil, false
	}
	order := binary.NativeEndian
	for i := range int(p.count) {
		b := p.bytes[pageHeader+i*elementSize:]
		var e element
		var offset, keySize, valueSize int
		if p.flags == branchPage {
			offset, keySize, e.page = readUint32(b), readUint32(b[4:]), order.Uint64(b[8:])
		} else {
			e.flags = order.Uint32(b)
			offset, keySize, valueSize = readUint32(b[4:]), readUint32(b[8:]), readUint32(b[12:])
		}
		if offset+keySize+valueSize > len(b) {
			return nil, false
		}
		e.key, e.value = b[offset:offset+keySize], b[offset+keySize:offset+keySize+valueSize]
		switch {
		case limits.min != nil && bytes.Compare(e.key, limits.min) < 0:
			return nil, false
		case limits.max != nil && bytes.Compare(e.key, limits.max) >= 0:
			return nil, false
		case i > 0 && bytes.Compare(e.key, all[i-1].key) <= 0:
			return nil, false
		}
		all = append(all, e)
	}
	return all, true
}

func readUint32(b []byte) int { return int(binary.NativeEndian.Uint32(b)) }

// checkFreelist checks the list of free pages if the file has one. kmsgate itself does not write
// it.
func (c *checker) checkFreelist() error {
	if c.freelist == noFreelist {
		return nil
	}
	p, err := c.read(c.freelist)
	if err != nil {
		return err
	}
	ids, count := p.bytes[pageHeader:], uint64(p.count)
	if count == 0xFFFF { // the count did not fit into the header and comes first in the list
		count, ids = binary.NativeEndian.Uint64(ids), ids[8:]
	}
	if p.flags != freelistPage || count > uint64(len(ids)/8) {
		return damaged("page %d has invalid content", c.freelist)
	}
	for i := range count {
		id := binary.NativeEndian.Uint64(ids[8*i:])
		if id >= c.pages || c.seen[id] {
			return damaged("page %d is listed as free but is in use or out of range", id)
		}
		c.seen[id] = true
	}
	return nil
}
