package backup

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/appliance"
	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/config"
	"github.com/kmsgate/kmsgate/internal/durable"
)

// place moves everything to where it belongs. The configuration comes last: without it
// there is no appliance. A restore that is killed before that leaves its staging
// directory, by which the next one knows that it can start over.
func (r *restoration) place(c *config.Config) error {
	if err := os.Rename(r.staging(archivedConfig), r.staging(savedConfig)); err != nil {
		return err
	}
	entries, err := os.ReadDir(r.staging(""))
	if err != nil {
		return err
	}
	text, err := c.Marshal()
	if err != nil {
		return err
	}
	for _, e := range entries {
		if err := os.Rename(r.staging(e.Name()), filepath.Join(r.Dir, e.Name())); err != nil {
			return err
		}
	}
	if err := durable.SyncDir(r.Dir); err != nil {
		return err
	}
	if err := durable.Write(r.staging(archivedConfig), text, 0o600); err != nil {
		return err
	}
	if err := os.Rename(r.staging(archivedConfig), filepath.Join(r.Dir, archivedConfig)); err != nil {
		return err
	}
	return errors.Join(durable.SyncDir(r.Dir), os.Remove(r.staging("")))
}

// savedConfig is the configuration as it was in the backup.
const savedConfig = archivedConfig + ".backup"

// placed are the names that place uses, without those of the audit log, which may be the
// operator's own, and of the configuration, whose presence says that everything is there.
var placed = []string{savedConfig, archivedDatabase, archivedCA, archivedCAKey, archivedAuditKey, archivedPIN, archivedToken, "guarded"}

// enter makes the directory, or checks that it has nothing but files of the audit log and
// what a killed restore leaves, and locks it for this process. leave removes what a
// restore that failed has made.
func (r *restoration) enter() (leave func(error) error, err error) {
	if r.Dir, err = filepath.Abs(r.Dir); err != nil {
		return nil, err
	}
	made, err := r.checkDir()
	if err != nil {
		return nil, err
	}
	unlock, err := appliance.LockDirectory(r.Dir)
	if err != nil {
		return nil, err
	}
	if _, err := r.checkDir(); err != nil { // another restore may have ended before this one had the lock
		return nil, errors.Join(err, unlock())
	}
	leave = func(err error) error {
		if err != nil {
			err = errors.Join(err, r.clear(made))
		}
		return errors.Join(err, unlock())
	}
	return leave, r.clear(false)
}

// checkDir reports whether the directory has to be made. It returns an error if something
// in it is not a restore's.
func (r *restoration) checkDir() (missing bool, err error) {
	entries, err := os.ReadDir(r.Dir)
	if errors.Is(err, fs.ErrNotExist) {
		return true, nil
	}
	for _, e := range entries {
		if !r.isOwnFile(e.Name()) {
			return false, fmt.Errorf("%s is not empty: there is %s. A backup is restored into a place of its own: name another, or move what is there away", r.Dir, e.Name())
		}
		r.ownLog = r.ownLog || isLog(e.Name())
	}
	return false, err
}

// isOwnFile reports whether a restore takes a file for its own, or leaves it alone. What a
// killed one has placed is there only together with its staging directory.
func (r *restoration) isOwnFile(name string) bool {
	if name == "lock" || name == "restoring" || isLog(name) {
		return true
	}
	_, err := os.Stat(r.staging(""))
	return err == nil && slices.Contains(placed, name)
}

// logFile is the audit log's name in an appliance that was restored.
const logFile = "audit.log"

func isLog(name string) bool { return name == logFile || strings.HasPrefix(name, logFile+".") }

// clear removes everything of a restore, and leaves the lock and the operator's own log.
func (r *restoration) clear(made bool) error {
	if made {
		return os.RemoveAll(r.Dir)
	}
	entries, err := os.ReadDir(r.Dir)
	for _, e := range entries {
		if e.Name() != "lock" && e.Name() != "restoring" && !(r.ownLog && isLog(e.Name())) {
			err = errors.Join(err, os.RemoveAll(filepath.Join(r.Dir, e.Name())))
		}
	}
	// Last: the next restore knows by it that this one was killed here.
	return errors.Join(err, os.RemoveAll(r.staging("")))
}
