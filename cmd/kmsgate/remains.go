package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/kmsgate/kmsgate/gateway/audit"
	"github.com/kmsgate/kmsgate/hsm"
	"github.com/kmsgate/kmsgate/hsm/token"
)

// noInstance says that there is no instance, or that its database is gone.
func (i *instance) noInstance(ctx context.Context) error {
	c := i.config
	left, err := i.filesLeft()
	if c.TLS.Certificate == "" && isThere(c.TLS.CAKeyFile) {
		left = append(left, c.TLS.CAKeyFile)
	}
	if err == nil && left == nil { // who asks twice asks for the PIN twice, too
		left, err = i.keysLeft(ctx)
	}
	switch {
	case left != nil:
		is := "gone"
		if _, err := os.Stat(c.Store.File); err == nil {
			is = "empty"
		}
		return fmt.Errorf("the database %s is %s, of whose instance there still is %s: put it back; or, if it is lost, restore it from a backup (kmsgate restore)", c.Store.File, is, strings.Join(left, ", "))
	case errors.Is(err, token.ErrPIN):
		return err
	}
	return errNotInitialized // what else is wrong does not matter before there is one
}

// checkUnused reports an error if anything is left of an instance that was made with
// another database. A CA is not: it is taken over. begun says that an init was cut off
// that has made this one.
func (i *instance) checkUnused(ctx context.Context, begun bool) (err error) {
	var left []string
	if !begun {
		if left, err = i.filesLeft(); err != nil {
			return err
		}
	}
	keys, err := i.keysLeft(ctx)
	if err != nil {
		return err
	}
	if left = append(left, keys...); left == nil {
		return nil
	}
	return fmt.Errorf("nothing was made: there is %s, of an instance whose database %s is gone. Put it back; or, if it is lost, restore it from a backup (kmsgate restore); another instance needs a directory and a token of its own",
		strings.Join(left, ", "), i.config.Store.File)
}

// filesLeft names the files that are made only when the database has the audit key.
func (i *instance) filesLeft() (left []string, err error) {
	files, err := audit.Files(i.config.Audit.File)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("looking for an audit log: %w", err)
	}
	for _, path := range append(files, auditPublicKeyFile(i.config)) {
		if isThere(path) {
			left = append(left, path)
		}
	}
	return left, nil
}

// isThere reports whether there is more than an empty file.
func isThere(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Size() > 0
}

// keysLeft names the private keys of ours in the token that the database knows nothing
// of.
func (i *instance) keysLeft(ctx context.Context) (left []string, err error) {
	if t := i.config.Token; t.SoftHSM != "" {
		if _, err := os.Stat(t.SoftHSM); errors.Is(err, fs.ErrNotExist) {
			return nil, nil // the token is made with the instance
		}
	}
	cfg, err := i.tokenConfig(false)
	if err != nil {
		return nil, err
	}
	known, n := i.recorded(), 0
	err = token.Look(cfg, func(inspector hsm.Inspector) error {
		objects, err := inspector.Objects(ctx)
		for _, o := range objects {
			if o.Ours && o.Purpose == hsm.PurposeKey && o.Class == hsm.ClassPrivateKey && !known[string(o.ID)] {
				n++
			}
		}
		return err
	})
	if err != nil {
		return nil, i.whyNoToken(fmt.Errorf("looking for keys in the token: %w", err))
	}
	if n > 0 {
		left = []string{fmt.Sprintf("signing keys with kmsgate's label in the token (%d; it is %s)", n, i.tokenName())}
	}
	return left, nil
}

// recorded are the CKA_IDs of the key pairs that the database has, or that were going
// to be made.
func (i *instance) recorded() map[string]bool {
	known := make(map[string]bool)
	if i.db == nil {
		return known
	}
	records := i.db.Now()
	for o := range records.Orphans().All() {
		known[string(o.Key.ID)] = true
	}
	for v := range records.Versions().All() {
		known[string(v.Key.ID)] = true
	}
	return known
}
