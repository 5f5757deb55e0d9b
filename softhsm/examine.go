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

// A Finding is something about SoftHSM's files that is not as SoftHSM leaves
// them.
type Finding struct {
	Path    string
	Problem bool   // something is lost, or open to others; otherwise it is only untidy
	What    string // a sentence about the path
	Do      string // what to do about it; empty for nothing

	// Empty is an object's file without content. SoftHSM takes it for no object,
	// and [RemoveEmpty] removes it.
	Empty bool
}

// Examine looks at every file of every token. It changes nothing, and asks
// SoftHSM nothing.
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
		return all, nil // another's
	}
	if err != nil {
		return nil, err
	}
	there := make(map[string]bool)
	for _, e := range entries {
		there[e.Name()] = true
	}
	if !there["generation"] {
		all = append(all, Finding{Path: filepath.Join(dir, "generation"), What: "is missing; SoftHSM makes it anew"})
	}
	for _, e := range entries {
		found, err := examineFile(filepath.Join(dir, e.Name()), there)
		if err != nil {
			return nil, err
		}
		all = append(all, found...)
	}
	return all, nil
}

// examineObject looks at what no token can be without.
func (t tokenFiles) examineObject() ([]Finding, error) {
	gone, err := t.destroyed()
	if err != nil || gone == "" {
		return nil, err
	}
	found := Finding{Path: t.object, What: "is " + gone + ", which makes the token as good as not there"}
	content, err := t.copy()
	if err != nil {
		return nil, err
	}
	if content != nil {
		found.What += fmt.Sprintf("; there is a copy, %s, of %s", t.guarded, modified(t.guarded))
		found.Do = "nothing: whatever opens the token puts the copy back first, kmsgate serve as this command"
		return []Finding{found}, nil
	}
	found.Problem = true
	found.What += ", and there is no copy of it; without it nobody can use the token's keys, because it holds the key that they are encrypted with"
	found.Do = fmt.Sprintf("restore %s from a backup; if there is none, what was in this token is lost", filepath.Dir(t.object))
	return []Finding{found}, nil
}

// examineFile looks at one file of a token among those that are there.
func examineFile(path string, there map[string]bool) (all []Finding, err error) {
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil // destroyed meanwhile: the gateway may be at work
	}
	if err != nil {
		return nil, err
	}
	if info.Mode().Perm()&0o007 != 0 { // a group can be meant: objectstore.umask
		all = append(all, Finding{Path: path, Problem: true, What: fmt.Sprintf("has mode %v: everyone on this machine can use it", info.Mode()), Do: "chmod o= " + path})
	}
	stem, kind := strings.TrimSuffix(path, filepath.Ext(path)), filepath.Ext(path)
	name := filepath.Base(path)
	switch {
	case name == "generation" && info.Size() != wordSize && info.Size() != 0:
		all = append(all, Finding{Path: path, Problem: true, What: fmt.Sprintf("has %d bytes and not %d: SoftHSM cannot tell by it when another process has changed the token", info.Size(), wordSize),
			Do: "stop the gateway and remove the file; SoftHSM makes it anew"})
	case name == objectFile, name == "token.lock":
	case kind == ".lock" && !there[filepath.Base(stem)+".object"]:
		all = append(all, Finding{Path: path, What: "is left of an object whose file is gone: SoftHSM, when it destroys an object, removes both, unless it is killed"})
	case kind == ".object":
		all = append(all, examineObjectFile(path, info)...)
	}
	return all, nil
}

func examineObjectFile(path string, info fs.FileInfo) []Finding {
	if info.Size() == 0 {
		return []Finding{{Path: path, Empty: true, What: fmt.Sprintf("is empty since %s, as a kill leaves it while an object is made; SoftHSM takes it for no object", info.ModTime().UTC().Format(time.RFC3339))}}
	}
	content, err := os.ReadFile(path)
	if err != nil || isWhole(content) {
		return nil // what was destroyed or rewritten meanwhile is looked at the next time
	}
	return []Finding{{Path: path, Problem: true, What: "is cut short: SoftHSM cannot read it, and the object in it is not there",
		Do: "restore the file from a backup if a key version is missing, and remove it if none is; the gateway has to be stopped for both"}}
}

// examineCopies looks for copies of tokens that are not there.
func (f Files) examineCopies() (all []Finding, err error) {
	copies, err := filepath.Glob(filepath.Join(f.Guarded, "*."+objectFile))
	if err != nil {
		return nil, err
	}
	for _, path := range copies {
		name := strings.TrimSuffix(filepath.Base(path), "."+objectFile)
		if _, err := os.Stat(filepath.Join(f.Tokens, name)); errors.Is(err, fs.ErrNotExist) {
			all = append(all, Finding{Path: path, What: fmt.Sprintf("is the copy of a file of a token that is not there any more: the directory %s is missing", filepath.Join(f.Tokens, name)),
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

// EmptyFor is how old an empty file has to be for [RemoveEmpty]: SoftHSM makes it
// before it writes to it.
const EmptyFor = time.Minute

// RemoveEmpty removes an object's empty file that Examine has found, with its
// lock, unless it is not empty any more or may be about to be written.
func RemoveEmpty(path string) error {
	info, err := os.Stat(path)
	switch {
	case err != nil:
		return err
	case filepath.Ext(path) != ".object" || filepath.Base(path) == objectFile || !info.Mode().IsRegular():
		return fmt.Errorf("%s is no object's file", path)
	case info.Size() > 0:
		return fmt.Errorf("%s is not empty any more", path)
	case time.Since(info.ModTime()) < EmptyFor:
		return fmt.Errorf("%s became empty less than %v ago: it may be about to be written", path, EmptyFor)
	}
	if err := os.Remove(path); err != nil {
		return err
	}
	if err := os.Remove(strings.TrimSuffix(path, ".object") + ".lock"); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
