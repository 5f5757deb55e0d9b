package store

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

// ErrDamaged: the file is not as it was written.
var ErrDamaged = errors.New("the database is damaged")

// bbolt believes what is in a file: where that is damaged it panics, in a goroutine
// of its own, or reads behind the file's end, and the process dies. So all that it
// follows is looked at before. The layout is that of bbolt's internal/common, for
// all numbers in the machine's order of bytes:
//
//	page     id 8, flags 2, count 2, overflow 4 (further pages that belong to it), and
//	         count elements, which point to what is behind them
//	meta     in pages 0 and 1: magic 4, version 4, page size 4, flags 4, root bucket 16,
//	         page of the free list 8, number of pages 8, transaction 8, FNV-1a of these
//	branch   position 4, key's size 4, page 8
//	leaf     flags 4, position 4, key's size 4, value's size 4
//	bucket   a value: root page 8, sequence 8; and if root is 0, a leaf page
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

const restoreAdvice = "restore it from a backup (kmsgate restore)"

// Who writes has pages that do not fit together yet, and is waited for as long as bbolt
// does. flock waits for ever or not at all.
const (
	lockEvery = 10 * time.Millisecond
	lockFor   = time.Second
)

// examine reports ErrDamaged if bbolt could not read the file at path and live. One
// that is not there or empty is as good as new.
func examine(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0) // to be written to, or NFS does not lock it
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close() // and with it the lock
	if err := lockFile(f); err != nil {
		return err
	}
	info, err := f.Stat()
	if err != nil || info.Size() == 0 {
		return err
	}
	return newExaminer(f, info.Size()).examine()
}

func lockFile(f *os.File) error {
	for began := time.Now(); ; time.Sleep(lockEvery) {
		err := durable.Lock(f)
		if !errors.Is(err, durable.ErrLocked) {
			return err
		}
		if time.Since(began) > lockFor {
			return ErrLocked
		}
	}
}

// An examiner walks along all that bbolt would.
type examiner struct {
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

func newExaminer(file io.ReaderAt, size int64) *examiner {
	return &examiner{file: file, size: size, seen: map[uint64]bool{0: true, 1: true}}
}

func damaged(what string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrDamaged, fmt.Sprintf(what, args...))
}

func (x *examiner) examine() error {
	if err := x.findMeta(); err != nil {
		return err
	}
	if x.pages > uint64(x.size/x.pageSize) {
		return damaged("it has %d bytes, and had %d pages of %d bytes: its end is missing", x.size, x.pages, x.pageSize)
	}
	if x.root == 0 {
		return damaged("it has no root")
	}
	if err := x.tree(x.root, bounds{}, 0); err != nil {
		return err
	}
	return x.free()
}

// findMeta takes the newer meta page of those that are whole. A commit that was cut
// off leaves one.
func (x *examiner) findMeta() error {
	if x.readMeta(0, 0) {
		x.readMeta(x.pageSize, x.pageSize)
		return nil
	}
	for size := int64(minPage); size <= maxPage; size *= 2 {
		if x.readMeta(size, size) {
			return nil
		}
	}
	return damaged("it does not begin as one does")
}

// readMeta takes the meta page at an offset if it is whole, newer, and of pages of a
// size, unless that is 0.
func (x *examiner) readMeta(at, pageSize int64) bool {
	page := make([]byte, pageHeader+metaSize)
	if _, err := x.file.ReadAt(page, at); err != nil {
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
	case x.pageSize != 0 && m.txid <= x.txid:
		return false
	}
	x.meta = m
	return true
}

// bounds are what the keys of a page have to be: at least least, and less than less,
// which is nil for no bound.
type bounds struct{ least, less []byte }

// A page is one with what overflows it.
type page struct {
	flags, count uint16
	bytes        []byte
}

// read gives a page that nothing else has.
func (x *examiner) read(id uint64) (p page, err error) {
	if id < 2 || id >= x.pages {
		return p, damaged("there is no page %d", id)
	}
	header := make([]byte, pageHeader)
	if _, err := x.file.ReadAt(header, int64(id)*x.pageSize); err != nil {
		return p, err
	}
	order := binary.NativeEndian
	overflow := uint64(order.Uint32(header[12:]))
	if order.Uint64(header) != id || overflow >= x.pages-id {
		return p, damaged("page %d is another", id)
	}
	for i := id; i <= id+overflow; i++ {
		if x.seen[i] {
			return p, damaged("page %d is there twice", i)
		}
		x.seen[i] = true
	}
	p = page{flags: order.Uint16(header[8:]), count: order.Uint16(header[10:]), bytes: make([]byte, int64(overflow+1)*x.pageSize)}
	_, err = x.file.ReadAt(p.bytes, int64(id)*x.pageSize)
	return p, err
}

// tree examines a page and those below it.
func (x *examiner) tree(id uint64, within bounds, depth int) error {
	if depth > maxDepth {
		return damaged("page %d is too far down", id)
	}
	p, err := x.read(id)
	if err != nil {
		return err
	}
	elements, ok := p.elements(within)
	switch {
	case !ok || p.flags == isBranch && len(elements) == 0:
		return damaged("page %d is not what it was", id)
	case p.flags == isLeaf:
		return x.buckets(id, elements, depth)
	}
	for i, e := range elements {
		below := bounds{e.key, within.less}
		if i+1 < len(elements) {
			below.less = elements[i+1].key
		}
		if err := x.tree(e.page, below, depth+1); err != nil {
			return err
		}
	}
	return nil
}

// buckets examines those that a leaf has.
func (x *examiner) buckets(id uint64, elements []element, depth int) error {
	for _, e := range elements {
		if e.flags&isBucket == 0 {
			continue
		}
		if len(e.value) < bucketHeader {
			return damaged("a bucket in page %d is not what it was", id)
		}
		if root := binary.NativeEndian.Uint64(e.value); root != 0 {
			if err := x.tree(root, bounds{}, depth+1); err != nil {
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

// isInline reports whether it is the page of a bucket that has none of its own. No
// buckets are in it.
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

// An element is one of a branch, with a page, or of a leaf, with a value.
type element struct {
	key, value []byte
	flags      uint32
	page       uint64
}

// elements gives those of a page, if they are in it and in order.
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

// number reads one of four bytes.
func number(b []byte) int { return int(binary.NativeEndian.Uint32(b)) }

// free examines the list of free pages, where there is one: kmsgate writes none.
func (x *examiner) free() error {
	if x.freelist == noFreelist {
		return nil
	}
	p, err := x.read(x.freelist)
	if err != nil {
		return err
	}
	ids, count := p.bytes[pageHeader:], uint64(p.count)
	if count == 0xFFFF { // the first tells how many follow
		count, ids = binary.NativeEndian.Uint64(ids), ids[8:]
	}
	if p.flags != isFreelist || count > uint64(len(ids)/8) {
		return damaged("page %d is not what it was", x.freelist)
	}
	for i := range count {
		id := binary.NativeEndian.Uint64(ids[8*i:])
		if id >= x.pages || x.seen[id] {
			return damaged("page %d is free, and is not", id)
		}
		x.seen[id] = true
	}
	return nil
}

// unreadable says that a record is not what it was.
func unreadable(record string, err error) error {
	return fmt.Errorf("%w: %s: %w: %s", ErrDamaged, record, err, restoreAdvice)
}
