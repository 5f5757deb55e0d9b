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
		t.Errorf("go.mod has bbolt %q (replaced: %v), want %s: compare bbolt's internal/common "+
			"(page.go, meta.go, bucket.go, inode.go) and its freelist with check.go, then change checkedVersion",
			version, replaced, checkedVersion)
	}
}

// options are the options with which kmsgate opens files.
var options = &bbolt.Options{FreelistType: bbolt.FreelistMapType, NoFreelistSync: true}

// fill creates a database with free pages and buckets of all sizes: small ones inside their
// parent's page, two of n keys with separate pages on several levels, and one with a value that
// overflows a page.
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
			id := fmt.Sprintf("key-%06d", i)
			err = errors.Join(err, put(tx, "many", id, 300), put(tx, "more", id, 100))
		}
		_, emptyErr := tx.CreateBucket([]byte("empty"))
		return errors.Join(err, emptyErr)
	})
	err = errors.Join(err, db.Update(func(tx *bbolt.Tx) error {
		return tx.Bucket([]byte("many")).Delete([]byte("key-000001"))
	}))
	if err := errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}
}

// checkAndRead writes content to a file and checks it. If the file passes, bbolt reads all of it
// and writes to it.
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
			if b == nil { // a changed flag turned a bucket into a value
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

// damageDir names the environment variable that tells a child process of this test where to read
// damaged files.
const damageDir = "KMSGATE_DAMAGE_DIR"

// TestDamagedFile truncates a database at every page, and clears, replaces and changes each page.
// Either Check returns ErrDamaged, or bbolt can read the file. A child process does this, because a
// file that crashes bbolt ends the process.
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
		t.Errorf("a file with this damage crashed bbolt: %s: %v\n%.3000s", last, err, out)
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
	try := func(description string, content []byte) {
		// A crash must find the description already written.
		if err := os.WriteFile(filepath.Join(dir, "doing"), []byte(description), 0o600); err != nil {
			t.Fatal(err)
		}
		err := checkAndRead(t, filepath.Join(dir, "damaged"), content)
		switch {
		case err == nil:
			outcomes["read"]++
		case errors.Is(err, bboltcheck.ErrDamaged):
			outcomes["damaged"]++
		default:
			t.Errorf("%s: %v", description, err)
		}
	}
	random := rand.New(rand.NewPCG(1, 2))
	for offset := 0; offset < len(whole); offset += page {
		if len(bytes.Trim(whole[offset:min(offset+page, len(whole))], "\x00")) == 0 {
			continue // the page was never written
		}
		try(fmt.Sprintf("truncated at %d", offset), whole[:offset])
		try(fmt.Sprintf("truncated at %d", offset+1000), whole[:min(offset+1000, len(whole))])
		changed := func(description string, change func(p []byte)) {
			content := bytes.Clone(whole)
			change(content[offset:min(offset+page, len(whole))])
			try(fmt.Sprintf("page %d %s", offset/page, description), content)
		}
		changed("cleared", func(p []byte) { clear(p) })
		changed("filled with ones", func(p []byte) { copy(p, bytes.Repeat([]byte{0xff}, len(p))) })
		changed("replaced by page 3", func(p []byte) { copy(p, whole[3*page:4*page]) })
		changed("replaced by the previous page", func(p []byte) { copy(p, whole[max(0, offset-page):]) })
		changed("half written", func(p []byte) { clear(p[len(p)/2:]) })
		for i := range 24 { // the references that bbolt follows are at the beginning
			changed(fmt.Sprintf("with byte %d changed", i), func(p []byte) { p[i] ^= byte(1 << random.IntN(8)) })
		}
		for range 4 {
			i := random.IntN(page)
			changed(fmt.Sprintf("with byte %d changed", i), func(p []byte) { p[i] ^= byte(1 + random.IntN(255)) })
		}
	}
	if outcomes["read"] == 0 || outcomes["damaged"] == 0 {
		t.Errorf("got outcomes %v, want each of read and damaged at least once", outcomes)
	}
	t.Log(outcomes)
}

// TestDamagedFreelist checks files with a correct and with a false list of free pages. kmsgate
// itself does not write such a list.
func TestDamagedFreelist(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "db")
	fill(t, path, 300)
	db, err := bbolt.Open(path, 0o600, nil) // bbolt's default options write the list
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
	for offset := 0; offset < len(whole); offset += os.Getpagesize() {
		if whole[offset+8] != 0x10 {
			continue
		}
		lists++
		content := bytes.Clone(whole)
		content[offset+16] = 0 // lists page 0 as free
		if err := checkAndRead(t, path, content); !errors.Is(err, bboltcheck.ErrDamaged) {
			t.Errorf("page 0 listed as free: got %v, want ErrDamaged", err)
		}
	}
	if lists == 0 {
		t.Error("bbolt wrote no list of free pages")
	}
}

// TestNoFile checks that a file that does not exist, is empty or is locked by another is not
// reported as damaged.
func TestNoFile(t *testing.T) { // not parallel: the others start processes, which have its files open for a moment
	path := filepath.Join(t.TempDir(), "db")
	if err := bboltcheck.Check(path); err != nil {
		t.Errorf("no file: got %v, want nil", err)
	}
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := bboltcheck.Check(path); err != nil {
		t.Errorf("an empty file: got %v, want nil", err)
	}
	unlock, err := durable.LockFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := bboltcheck.Check(path); !errors.Is(err, durable.ErrLocked) {
		t.Errorf("a locked file: got %v, want ErrLocked", err)
	}
	if err := unlock(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(strings.Repeat("garbage ", 4096)), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := bboltcheck.Check(path); !errors.Is(err, bboltcheck.ErrDamaged) {
		t.Errorf("garbage: got %v, want ErrDamaged", err)
	}
}

// BenchmarkCheck checks a database of about 5 MB. That takes 10 ms, much less than opening it.
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
