package store_test

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.etcd.io/bbolt"

	"github.com/kmsgate/kmsgate/hsm"
	"github.com/kmsgate/kmsgate/store"
)

// damageDir names, in the environment of a child process of this test, where it
// shall open damaged files.
const damageDir = "KMSGATE_DAMAGE_DIR"

// TestDamagedFile cuts a database short at every page, and empties, exchanges and
// changes each: it is opened, or ErrDamaged says so and what to do. bbolt would end
// the process, so that is another.
func TestDamagedFile(t *testing.T) {
	t.Parallel()
	if dir := os.Getenv(damageDir); dir != "" {
		openDamaged(t, dir)
		return
	}
	dir := t.TempDir()
	fill(t, filepath.Join(dir, "whole"), 40)
	child := exec.Command(os.Args[0], "-test.run=^TestDamagedFile$", "-test.v")
	child.Env = append(os.Environ(), damageDir+"="+dir)
	out, err := child.CombinedOutput()
	if err != nil || !bytes.Contains(out, []byte("--- PASS")) {
		last, _ := os.ReadFile(filepath.Join(dir, "doing"))
		t.Errorf("a file with this damage ends the process: %s: %v\n%.3000s", last, err, out)
	}
	t.Logf("%s", out)
}

// fill makes a database of n keys with buckets of all sizes, one of which takes pages
// of its own and several levels, and records that overflow a page.
func fill(t *testing.T, path string, n int) {
	t.Helper()
	s := open(t, path)
	update(t, s, func(tx *store.Tx) error {
		err := tx.SetInstance(store.Instance{InstanceId: "kst-1", RegionId: "r", AccountId: "1"})
		for i := range n {
			id := fmt.Sprintf("key-%06d", i)
			err = errors.Join(err, tx.Keys().Put(store.Key{KeyId: id, Description: strings.Repeat("d", 200), CreationDate: day}),
				tx.Versions().Put(store.KeyVersion{KeyId: id, KeyVersionId: id, Key: hsm.Key{ID: []byte(id), Public: make([]byte, 91)}, CreationDate: day}))
		}
		return errors.Join(err, tx.Users().Put(store.User{UserName: "u"}), tx.RamPolicies().Put(store.RamPolicy{PolicyName: "p", PolicyDocument: strings.Repeat("p", 10_000)}))
	})
	update(t, s, func(tx *store.Tx) error { return tx.Keys().Delete("key-000001") }) // so that pages are free
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

func openDamaged(t *testing.T, dir string) {
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
		err := openAndRead(t, filepath.Join(dir, "damaged"), content)
		switch {
		case err == nil:
			outcomes["opened"]++
		case errors.Is(err, store.ErrDamaged) && strings.Contains(err.Error(), "kmsgate restore"):
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
	if outcomes["opened"] == 0 || outcomes["damaged"] == 0 {
		t.Error("it tells something only if there is each kind")
	}
	t.Log(outcomes)
}

func openAndRead(t *testing.T, path string, content []byte) error {
	t.Helper()
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := store.Open(path)
	if err != nil {
		return err
	}
	records := s.Now()
	for k := range records.Keys().All() {
		records.VersionsOf(k.KeyId)
	}
	update(t, s, func(tx *store.Tx) error { return tx.Users().Put(store.User{UserName: "new"}) })
	return s.Close()
}

// TestDamagedFreelist opens a file with a list of free pages, which kmsgate writes
// none of, and with one that lies.
func TestDamagedFreelist(t *testing.T) {
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
	if err := openAndRead(t, path, whole); err != nil {
		t.Error(err)
	}
	for at := 0; at < len(whole); at += os.Getpagesize() {
		if whole[at+8] != 0x10 {
			continue
		}
		content := bytes.Clone(whole)
		content[at+16] = 0 // page 0 is free
		if err := openAndRead(t, path, content); !errors.Is(err, store.ErrDamaged) {
			t.Errorf("page 0 among those that are free: %v", err)
		}
	}
}

// TestExamineIsQuick: looking at a database of 10 MB is nothing beside opening it.
func TestExamineIsQuick(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	fill(t, path, 5_000)
	info, err := os.Stat(path)
	if err != nil || info.Size() < 10<<20 {
		t.Fatal(info, err)
	}
	began := time.Now()
	if err := store.Examine(path); err != nil {
		t.Error(err)
	}
	if took := time.Since(began); took > 2*time.Second { // 10 ms without the race detector
		t.Errorf("%d bytes took %v", info.Size(), took)
	} else {
		t.Logf("%d bytes took %v", info.Size(), took)
	}
}
