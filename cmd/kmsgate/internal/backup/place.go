package backup

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/kmsgate/kmsgate/internal/appliance"
	"github.com/kmsgate/kmsgate/internal/config"
	"github.com/kmsgate/kmsgate/internal/durable"
)

// place moves everything from the staging directory to Dir. The configuration comes last:
// without it there is no appliance. A restore that is killed before that leaves its staging
// directory, which tells the next restore to start over.
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

// savedConfig is the name of the configuration that the backup held.
const savedConfig = archivedConfig + ".backup"

// placed are the names of the files that place moves. The audit log's are not among them
// because it can be the operator's copy. The configuration's is not because its presence
// means that the restore is complete.
var placed = []string{
	savedConfig, archivedDatabase, archivedCA, archivedCAKey, archivedAuditKey, archivedPIN, archivedToken, "guarded",
}

// migratedDatabase is the prefix of the database's copies in earlier schema versions: opening the
// database of an old backup makes one.
const migratedDatabase = archivedDatabase + ".schema-"

// begin creates Dir, or checks that it holds only files of the audit log and of a killed
// restore, and locks it for this process. finish unlocks Dir, and removes the files of a
// restore that failed.
func (r *restoration) begin() (finish func(error) error, err error) {
	if r.Dir, err = filepath.Abs(r.Dir); err != nil {
		return nil, err
	}
	created, err := r.checkDir()
	if err != nil {
		return nil, err
	}
	unlock, err := appliance.LockDirectory(r.Dir)
	if err != nil {
		return nil, err
	}
	if _, err := r.checkDir(); err != nil { // another restore may have completed before the lock
		return nil, errors.Join(err, unlock())
	}
	finish = func(err error) error {
		if err != nil {
			err = errors.Join(err, r.clear(created))
		}
		return errors.Join(err, unlock())
	}
	return finish, r.clear(false)
}

// checkDir reports whether Dir is missing. It returns an error if Dir holds a file that does
// not belong to a restore.
func (r *restoration) checkDir() (missing bool, err error) {
	entries, err := os.ReadDir(r.Dir)
	if errors.Is(err, fs.ErrNotExist) {
		return true, nil
	}
	for _, e := range entries {
		if !r.isOwnFile(e.Name()) {
			return false, fmt.Errorf("the directory %q is not empty: it has %q (restore into another directory, or "+
				"move its files away)", r.Dir, e.Name())
		}
		r.ownLog = r.ownLog || isLog(e.Name())
	}
	return false, err
}

// isOwnFile reports whether a restore may replace or keep the file. The files that a killed
// restore has placed count only while its staging directory exists.
func (r *restoration) isOwnFile(name string) bool {
	if name == "lock" || name == "restoring" || isLog(name) {
		return true
	}
	_, err := os.Stat(r.staging(""))
	return err == nil && (slices.Contains(placed, name) || strings.HasPrefix(name, migratedDatabase))
}

// logFile is the audit log's name in a restored appliance.
const logFile = "audit.log"

func isLog(name string) bool { return name == logFile || strings.HasPrefix(name, logFile+".") }

// clear removes all files of a restore, but neither the lock nor the operator's copy of the
// audit log. If this restore created Dir, it removes Dir.
func (r *restoration) clear(created bool) error {
	if created {
		return os.RemoveAll(r.Dir)
	}
	entries, err := os.ReadDir(r.Dir)
	for _, e := range entries {
		if e.Name() != "lock" && e.Name() != "restoring" && !(r.ownLog && isLog(e.Name())) {
			err = errors.Join(err, os.RemoveAll(filepath.Join(r.Dir, e.Name())))
		}
	}
	// The staging directory goes last: it tells the next restore that this one was killed.
	return errors.Join(err, os.RemoveAll(r.staging("")))
}
