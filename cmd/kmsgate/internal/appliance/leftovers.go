package appliance

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

// explainMissing returns why there is no database of the instance: it was never made, or
// it is gone while other parts of the instance are left.
func (a *Appliance) explainMissing(ctx context.Context) error {
	c := a.Config
	left, err := a.filesLeft()
	if c.TLS.Certificate == "" && hasContent(c.TLS.CAKeyFile) {
		left = append(left, c.TLS.CAKeyFile)
	}
	if err == nil && left == nil { // looking into the token uses up an attempt at a wrong PIN
		left, err = a.keysLeft(ctx)
	}
	switch {
	case left != nil:
		state := "gone"
		if _, err := os.Stat(c.Store.File); err == nil {
			state = "empty"
		}
		return fmt.Errorf("the database %s is %s, of whose instance there still is %s: put it back; or, if it is lost, restore it from a backup (kmsgate restore)", c.Store.File, state, strings.Join(left, ", "))
	case errors.Is(err, token.ErrPIN):
		return err
	}
	return ErrNotInitialized // what else is wrong does not matter before there is one
}

// checkUnused returns an error if anything is left of an instance that was made with
// another database. A CA does not count: it is taken over. begun says that an init that
// was cut off has made the database.
func (a *Appliance) checkUnused(ctx context.Context, begun bool) (err error) {
	var left []string
	if !begun {
		if left, err = a.filesLeft(); err != nil {
			return err
		}
	}
	keys, err := a.keysLeft(ctx)
	if err != nil {
		return err
	}
	if left = append(left, keys...); left == nil {
		return nil
	}
	return fmt.Errorf("nothing was made: there is %s, of an instance whose database %s is gone. Put it back; or, if it is lost, restore it from a backup (kmsgate restore); another instance needs a directory and a token of its own",
		strings.Join(left, ", "), a.Config.Store.File)
}

// filesLeft returns the files that are made only after the database has the audit key.
func (a *Appliance) filesLeft() (left []string, err error) {
	files, err := audit.Files(a.Config.Audit.File)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("looking for an audit log: %w", err)
	}
	for _, path := range append(files, a.Config.AuditPublicKeyFile()) {
		if hasContent(path) {
			left = append(left, path)
		}
	}
	return left, nil
}

// hasContent reports whether there is a file that is not empty.
func hasContent(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Size() > 0
}

// keysLeft describes the private keys with our label in the token that the database does
// not know.
func (a *Appliance) keysLeft(ctx context.Context) (left []string, err error) {
	if t := a.Config.Token; t.SoftHSM != "" {
		if _, err := os.Stat(t.SoftHSM); errors.Is(err, fs.ErrNotExist) {
			return nil, nil // the token is made with the instance
		}
	}
	cfg, err := a.settings.tokenConfig(false)
	if err != nil {
		return nil, err
	}
	known, n := a.recorded(), 0
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
		return nil, a.settings.explain(fmt.Errorf("looking for keys in the token: %w", err))
	}
	if n > 0 {
		left = []string{fmt.Sprintf("signing keys with kmsgate's label in the token (%d; it is %s)", n, a.settings.name())}
	}
	return left, nil
}

// recorded returns the CKA_IDs of the key pairs that the database has, or that were going
// to be made.
func (a *Appliance) recorded() map[string]bool {
	known := make(map[string]bool)
	if a.Store == nil {
		return known
	}
	records := a.Store.Now()
	for o := range records.Orphans().All() {
		known[string(o.Key.ID)] = true
	}
	for v := range records.Versions().All() {
		known[string(v.Key.ID)] = true
	}
	return known
}
