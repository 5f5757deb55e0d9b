package bboltcheck_test

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"go.etcd.io/bbolt"

	"github.com/kmsgate/kmsgate/internal/durable"
	"github.com/kmsgate/kmsgate/store/bboltcheck"
)

// checkedVersion is the version of bbolt whose internal/common was compared with this
// package.
const checkedVersion = "v1.5.0"

// TestVersion pins the package to the bbolt that kmsgate uses.
func TestVersion(t *testing.T) {
	t.Parallel()
	content, err := os.ReadFile(filepath.Join("..", "..", "go.mod"))
	if err != nil {
		t.Fatal(err)
	}
	version := regexp.MustCompile(`(?m)^\s*(?:require\s+)?go\.etcd\.io/bbolt (v\S+)`).FindSubmatch(content)
	replaced := regexp.MustCompile(`(?m)go\.etcd\.io/bbolt.*=>`).Match(content)
	if version == nil || string(version[1]) != checkedVersion || replaced {
		t.Errorf("go.mod has bbolt %q (replaced: %v), and bboltcheck knows the page format of %s: compare bbolt's internal/common (page.go, meta.go, bucket.go, inode.go) and its freelist with check.go, then change checkedVersion",
			version, replaced, checkedVersion)
	}
}

// options are those that kmsgate opens files with.
var options = &bbolt.Options{FreelistType: bbolt.FreelistMapType, NoFreelistSync: true}

// fill makes a database with buckets of all sizes: small ones, which lie in their
// parent's page, one of n keys, which takes pages of its own and several levels, and one
// with a value that overflows a page. It also has free pages.
func fill(t testing.TB, path string, n int) {
	t.Helper()
	db, err := bbolt.Open(path, 0o600, options)
	if err != nil {
		t.Fatal(err)
	}
	put := func(tx *bbolt.Tx, bucket, id string, size int) error {
		b, err := tx.CreateBucketIfNotExists([]byte(bucket))
		if err != nil {
			return err
		}
		return b.Put([]byte(id), []byte(strings.Repeat("v", size)))
	}
	err = db.Update(func(tx *bbolt.Tx) error {
		err := errors.Join(put(tx, "small", "id", 10), put(tx, "large", "id", 10_000))
		for i := range n {
			err = errors.Join(err, put(tx, "many", fmt.Sprintf("key-%06d", i), 300), put(tx, "more", fmt.Sprintf("key-%06d", i), 100))
		}
		_, emptyErr := tx.CreateBucket([]byte("empty"))
		return errors.Join(err, emptyErr)
	})
	err = errors.Join(err, db.Update(func(tx *bbolt.Tx) error { return tx.Bucket([]byte("many")).Delete([]byte("key-000001")) }))
	if err := errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}
}

// checkAndRead writes content to a file, and if that passes has bbolt read all of it and
// write to it.
func checkAndRead(t *testing.T, path string, content []byte) error {
	t.Helper()
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	err := bboltcheck.Check(path)
	if after, readErr := os.ReadFile(path); readErr != nil || !bytes.Equal(after, content) {
		t.Errorf("Check changed the file, %v", readErr)
	}
	if err != nil {
		return err
	}
	db, err := bbolt.Open(path, 0o600, options)
	if err != nil {
		return err
	}
	err = db.Update(func(tx *bbolt.Tx) error {
		sum := 0
		err := tx.ForEach(func(_ []byte, b *bbolt.Bucket) error {
			if b == nil { // a value, which a flag has made of a bucket
				return nil
			}
			return b.ForEach(func(id, value []byte) error {
				for _, c := range append(id, value...) {
					sum += int(c)
				}
				return nil
			})
		})
		b, bucketErr := tx.CreateBucketIfNotExists([]byte("new"))
		if bucketErr != nil {
			return errors.Join(err, bucketErr)
		}
		return errors.Join(err, b.Put([]byte("sum"), []byte(fmt.Sprint(sum))))
	})
	return errors.Join(err, db.Close())
}

// damageDir names, in the environment of a child process of this test, where it is to
// read damaged files.
const damageDir = "KMSGATE_DAMAGE_DIR"

// TestDamagedFile cuts a database short at every page, and empties, exchanges and changes
// each: Check returns ErrDamaged, or bbolt reads the file. A file that bbolt does not
// survive ends the process, so a child process does it.
func TestDamagedFile(t *testing.T) {
	t.Parallel()
	if dir := os.Getenv(damageDir); dir != "" {
		readDamaged(t, dir)
		return
	}
	dir := t.TempDir()
	fill(t, filepath.Join(dir, "whole"), 60)
	child := exec.Command(os.Args[0], "-test.run=^TestDamagedFile$", "-test.v")
	child.Env = append(os.Environ(), damageDir+"="+dir)
	out, err := child.CombinedOutput()
	if err != nil || !bytes.Contains(out, []byte("--- PASS")) {
		last, _ := os.ReadFile(filepath.Join(dir, "doing"))
		t.Errorf("a file with this damage ends the process: %s: %v\n%.3000s", last, err, out)
	}
	t.Logf("%s", out)
}

func readDamaged(t *testing.T, dir string) {
	whole, err := os.ReadFile(filepath.Join(dir, "whole"))
	if err != nil {
		t.Fatal(err)
	}
	page := os.Getpagesize()
	outcomes := make(map[string]int)
	try := func(what string, content []byte) {
		// Before it is tried: nothing is written once it has ended the process.
		if err := os.WriteFile(filepath.Join(dir, "doing"), []byte(what), 0o600); err != nil {
			t.Fatal(err)
		}
		err := checkAndRead(t, filepath.Join(dir, "damaged"), content)
		switch {
		case err == nil:
			outcomes["read"]++
		case errors.Is(err, bboltcheck.ErrDamaged):
			outcomes["damaged"]++
		default:
			t.Errorf("%s: %v", what, err)
		}
	}
	random := rand.New(rand.NewPCG(1, 2))
	for at := 0; at < len(whole); at += page {
		if len(bytes.Trim(whole[at:min(at+page, len(whole))], "\x00")) == 0 {
			continue // for what is still to come
		}
		try(fmt.Sprintf("cut off at %d", at), whole[:at])
		try(fmt.Sprintf("cut off at %d", at+1000), whole[:min(at+1000, len(whole))])
		changed := func(what string, change func(p []byte)) {
			content := bytes.Clone(whole)
			change(content[at:min(at+page, len(whole))])
			try(fmt.Sprintf("page %d %s", at/page, what), content)
		}
		changed("emptied", func(p []byte) { clear(p) })
		changed("full of ones", func(p []byte) { copy(p, bytes.Repeat([]byte{0xff}, len(p))) })
		changed("is page 3", func(p []byte) { copy(p, whole[3*page:4*page]) })
		changed("is the one before", func(p []byte) { copy(p, whole[max(0, at-page):]) })
		changed("half written", func(p []byte) { clear(p[len(p)/2:]) })
		for i := range 24 { // what bbolt follows is at the beginning
			changed(fmt.Sprintf("with byte %d changed", i), func(p []byte) { p[i] ^= byte(1 << random.IntN(8)) })
		}
		for range 4 {
			i := random.IntN(page)
			changed(fmt.Sprintf("with byte %d changed", i), func(p []byte) { p[i] ^= byte(1 + random.IntN(255)) })
		}
	}
	if outcomes["read"] == 0 || outcomes["damaged"] == 0 {
		t.Error("the test tells something only if there is each outcome")
	}
	t.Log(outcomes)
}

// TestDamagedFreelist checks a file with a list of free pages, which kmsgate writes none
// of, and files whose list lies.
func TestDamagedFreelist(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "db")
	fill(t, path, 300)
	db, err := bbolt.Open(path, 0o600, nil) // it writes the list
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := checkAndRead(t, path, whole); err != nil {
		t.Error(err)
	}
	lists := 0
	for at := 0; at < len(whole); at += os.Getpagesize() {
		if whole[at+8] != 0x10 {
			continue
		}
		lists++
		content := bytes.Clone(whole)
		content[at+16] = 0 // page 0 is free
		if err := checkAndRead(t, path, content); !errors.Is(err, bboltcheck.ErrDamaged) {
			t.Errorf("page 0 among those that are free: %v", err)
		}
	}
	if lists == 0 {
		t.Error("bbolt wrote no list")
	}
}

// TestNoFile: a file that does not exist, or is empty, is no damage, and neither is one
// that another has locked.
func TestNoFile(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "db")
	if err := bboltcheck.Check(path); err != nil {
		t.Errorf("no file: %v", err)
	}
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := bboltcheck.Check(path); err != nil {
		t.Errorf("an empty file: %v", err)
	}
	unlock, err := durable.LockFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := bboltcheck.Check(path); !errors.Is(err, durable.ErrLocked) {
		t.Errorf("a locked file: %v", err)
	}
	if err := unlock(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(strings.Repeat("garbage ", 4096)), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := bboltcheck.Check(path); !errors.Is(err, bboltcheck.ErrDamaged) {
		t.Errorf("garbage: %v", err)
	}
}

// BenchmarkCheck checks a database of some 5 MB: 10 ms, which is nothing beside opening
// it.
func BenchmarkCheck(b *testing.B) {
	path := filepath.Join(b.TempDir(), "db")
	fill(b, path, 10_000)
	info, err := os.Stat(path)
	if err != nil {
		b.Fatal(err)
	}
	b.SetBytes(info.Size())
	for b.Loop() {
		if err := bboltcheck.Check(path); err != nil {
			b.Fatal(err)
		}
	}
}
