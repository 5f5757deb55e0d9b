package appliance

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"

	"github.com/kmsgate/kmsgate/gateway/audit"
	"github.com/kmsgate/kmsgate/hsm"
)

// explainMissing returns why the instance has no database: the instance was never created,
// or its database is missing while other parts of it exist.
func (a *Appliance) explainMissing(ctx context.Context) error {
	c := a.Config
	leftovers, err := a.leftoverFiles()
	if c.TLS.Certificate == "" && hasContent(c.TLS.CAKeyFile) {
		leftovers = append(leftovers, strconv.Quote(c.TLS.CAKeyFile))
	}
	if err == nil && leftovers == nil { // last, because a wrong PIN costs an attempt
		leftovers, err = a.leftoverKeys(ctx)
	}
	switch {
	case leftovers != nil:
		state := "missing"
		if _, err := os.Stat(c.Store.File); err == nil {
			state = "empty"
		}
		return fmt.Errorf("the database %q is %s, but parts of its instance still exist: %s (put the database back, "+
			"or restore a backup with `kmsgate restore`)", c.Store.File, state, strings.Join(leftovers, ", "))
	case errors.Is(err, hsm.ErrPIN):
		return err
	}
	return ErrNotInitialized // other errors do not matter before the instance exists
}

// checkUnused returns an error if there are leftovers of an instance that was created with
// another database. A CA does not count: the new instance takes it over. started reports
// that an interrupted init has created the database.
func (a *Appliance) checkUnused(ctx context.Context, started bool) (err error) {
	var leftovers []string
	if !started {
		if leftovers, err = a.leftoverFiles(); err != nil {
			return err
		}
	}
	keys, err := a.leftoverKeys(ctx)
	if err != nil {
		return err
	}
	if leftovers = append(leftovers, keys...); leftovers == nil {
		return nil
	}
	return fmt.Errorf("nothing was created: parts of an instance exist without its database %q: %s (put the database "+
		"back, or restore a backup with `kmsgate restore`; for a new instance, use another directory and another "+
		"token)",
		a.Config.Store.File, strings.Join(leftovers, ", "))
}

// leftoverFiles returns the names, in quotes, of existing files that are created only after
// the audit key is in the database.
func (a *Appliance) leftoverFiles() (leftovers []string, err error) {
	files, err := audit.Files(a.Config.Audit.File)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("looking for an audit log: %w", err)
	}
	for _, path := range append(files, a.Config.AuditPublicKeyFile()) {
		if hasContent(path) {
			leftovers = append(leftovers, strconv.Quote(path))
		}
	}
	return leftovers, nil
}

// hasContent reports whether a file exists and is not empty.
func hasContent(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Size() > 0
}

// leftoverKeys describes the private keys in the token that have kmsgate's label. The database has no
// records.
func (a *Appliance) leftoverKeys(ctx context.Context) (leftovers []string, err error) {
	n := 0
	err = a.device.Inspect(func(inspector hsm.Inspector) error {
		objects, err := inspector.Objects(ctx)
		for _, o := range objects {
			if o.Ours && (o.Purpose == hsm.PurposeKey || o.Purpose == hsm.PurposeAudit) && o.Class == hsm.ClassPrivateKey {
				n++
			}
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("looking for keys in the token: %w", err)
	}
	if n > 0 {
		noun := "keys"
		if n == 1 {
			noun = "key"
		}
		leftovers = []string{fmt.Sprintf("%d signing %s of kmsgate in %s", n, noun, a.device)}
	}
	return leftovers, nil
}
