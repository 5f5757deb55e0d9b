package softhsm

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// A Finding describes one of SoftHSM's files in a state in which SoftHSM itself does not leave it.
type Finding struct {
	Path    string
	Problem bool   // data is lost or accessible to others; otherwise the finding is harmless
	What    string // the predicate of a sentence whose subject is the path
	Do      string // advice to the operator; empty if there is nothing to do

	// Empty means that the path is an object's file without content. SoftHSM ignores such a file,
	// and [RemoveEmpty] removes it.
	Empty bool

	// Lost means that SoftHSM does not find the token until Do is done.
	Lost bool
}

// Examine examines every file of every token. It changes nothing and does not call SoftHSM.
func (f Files) Examine() (all []Finding, err error) {
	err = f.eachToken(func(t tokenFiles) error {
		found, err := t.examine()
		all = append(all, found...)
		return err
	})
	if err != nil {
		return nil, err
	}
	copies, err := f.examineCopies()
	return append(all, copies...), err
}

func (t tokenFiles) examine() ([]Finding, error) {
	dir := filepath.Dir(t.object)
	all, err := t.examineObject()
	if err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrPermission) {
		return all, nil // the token belongs to another user
	}
	if err != nil {
		return nil, err
	}
	names := make(map[string]bool)
	for _, e := range entries {
		names[e.Name()] = true
	}
	if !names["generation"] {
		all = append(all, Finding{Path: filepath.Join(dir, "generation"), What: "is missing; SoftHSM recreates it"})
	}
	for _, e := range entries {
		if e.IsDir() { // such as .snapshot; SoftHSM has only files there
			continue
		}
		found, err := examineFile(filepath.Join(dir, e.Name()), names)
		if err != nil {
			return nil, err
		}
		all = append(all, found...)
	}
	return all, nil
}

// examineObject examines the token.object, without which the token is unusable.
func (t tokenFiles) examineObject() ([]Finding, error) {
	defect, err := t.defect()
	if err != nil || defect == "" {
		return nil, err
	}
	found := Finding{Path: t.object, What: "is " + defect + ", so SoftHSM does not find the token"}
	content, err := t.copy()
	if err != nil {
		return nil, err
	}
	if content != nil {
		found.What += fmt.Sprintf("; a copy of %s exists, %q", modified(t.guarded), t.guarded)
		found.Do = "nothing: every command that opens the token, such as kmsgate serve, restores the copy first"
		return []Finding{found}, nil
	}
	found.Problem, found.Lost = true, true
	found.What += ", and no copy exists; it holds the key that encrypts the token's keys, which are unusable without it"
	found.Do = fmt.Sprintf("restore %q from a backup; without a backup this token's content is lost",
		filepath.Dir(t.object))
	return []Finding{found}, nil
}

// examineFile examines one file of a token. names are the files in its directory.
func examineFile(path string, names map[string]bool) (all []Finding, err error) {
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil // a running gateway may have destroyed the object in the meantime
	}
	if err != nil {
		return nil, err
	}
	if info.Mode().Perm()&0o007 != 0 { // objectstore.umask can give a group access on purpose
		all = append(all, Finding{Path: path, Problem: true, Do: "chmod o= " + path,
			What: fmt.Sprintf("has mode %v: everyone on this machine can use it", info.Mode())})
	}
	stem, kind := strings.TrimSuffix(path, filepath.Ext(path)), filepath.Ext(path)
	name := filepath.Base(path)
	switch {
	case name == "generation" && info.Size() != wordSize && info.Size() != 0:
		all = append(all, Finding{Path: path, Problem: true,
			What: fmt.Sprintf("has %d bytes instead of %d: SoftHSM cannot detect changes by other processes",
				info.Size(), wordSize),
			Do: "stop the gateway and remove the file; SoftHSM recreates it"})
	case name == objectFile, name == "token.lock":
	case kind == ".lock" && !names[filepath.Base(stem)+".object"]:
		all = append(all, Finding{Path: path,
			What: "is the lock of an object whose file is gone, as after a kill while SoftHSM destroyed the object"})
	case kind == ".object":
		all = append(all, examineObjectFile(path, info)...)
	}
	return all, nil
}

func examineObjectFile(path string, info fs.FileInfo) []Finding {
	if info.Size() == 0 {
		return []Finding{{Path: path, Empty: true,
			What: fmt.Sprintf("has been empty since %s, as after a kill during the creation of an object; "+
				"SoftHSM ignores it", info.ModTime().UTC().Format(time.RFC3339))}}
	}
	content, err := os.ReadFile(path)
	if err != nil || isComplete(content) {
		return nil // a file destroyed or rewritten in the meantime is examined the next time
	}
	return []Finding{{Path: path, Problem: true, What: "is truncated: SoftHSM cannot read the object in it",
		Do: "stop the gateway; if a key version is missing, restore the file from a backup, otherwise remove it"}}
}

// examineCopies looks for copies of tokens that no longer exist.
func (f Files) examineCopies() (all []Finding, err error) {
	copies, err := filepath.Glob(filepath.Join(f.Guarded, "*."+objectFile))
	if err != nil {
		return nil, err
	}
	for _, path := range copies {
		name := strings.TrimSuffix(filepath.Base(path), "."+objectFile)
		if _, err := os.Stat(filepath.Join(f.Tokens, name)); errors.Is(err, fs.ErrNotExist) {
			all = append(all, Finding{Path: path,
				What: fmt.Sprintf("is a copy for a token that no longer exists: the directory %q is missing",
					filepath.Join(f.Tokens, name)),
				Do: "remove the copy if the token was deleted; otherwise restore the directory from a backup"})
		}
	}
	return all, nil
}

func modified(path string) string {
	info, err := os.Stat(path)
	if err != nil {
		return "unknown age"
	}
	return info.ModTime().UTC().Format(time.RFC3339)
}

// EmptyFor is the minimum age of an empty file that [RemoveEmpty] removes. SoftHSM creates an
// object's file empty and then writes to it.
const EmptyFor = time.Minute

// RemoveEmpty removes an empty object file that Examine has found, and its lock. It refuses a file
// that is no longer empty or that SoftHSM may be about to write.
func RemoveEmpty(path string) error {
	info, err := os.Stat(path)
	switch {
	case err != nil:
		return err
	case filepath.Ext(path) != ".object" || filepath.Base(path) == objectFile || !info.Mode().IsRegular():
		return fmt.Errorf("%q is not an object's file", path)
	case info.Size() > 0:
		return fmt.Errorf("%q is no longer empty", path)
	case time.Since(info.ModTime()) < EmptyFor:
		return fmt.Errorf("%q has been empty for less than %v: SoftHSM may be about to write it", path, EmptyFor)
	}
	if err := os.Remove(path); err != nil {
		return err
	}
	if err := os.Remove(strings.TrimSuffix(path, ".object") + ".lock"); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
