package backup

import (
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"

	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/hardware"
	"github.com/kmsgate/kmsgate/internal/config"
)

// The names of the files in an archive. They are the names in the directory of
// `kmsgate dev`, whatever the appliance's configuration calls the files.
const (
	archivedConfig   = config.FileName
	archivedDatabase = "kmsgate.db"
	archivedCA       = "ca.pem"
	archivedCAKey    = "ca-key.pem"
	archivedAuditKey = "audit-public-key.pem"
	archivedToken    = "softhsm"

	// The files of a SoftHSM token that kmsgate did not create.
	archivedTokens      = archivedToken + "/tokens"
	archivedSoftHSMConf = archivedToken + "/softhsm2.conf"
	archivedPIN         = "pin"
)

// A source is one file of an archive before it is read.
type source struct {
	name    string // in the archive
	path    string // of the file; empty if content holds the content
	content []byte
}

// sources returns the files of an appliance except the database and the configuration.
func (a archiver) sources() ([]source, error) {
	all := []source{{name: archivedAuditKey, path: a.appliance.Config.AuditPublicKeyFile()}}
	if t := a.appliance.Config.TLS; t.Certificate == "" {
		all = append(all, source{name: archivedCA, path: t.CAFile}, source{name: archivedCAKey, path: t.CAKeyFile})
	}
	token, err := a.tokenSources()
	return append(all, token...), err
}

// tokenSources returns the files of a SoftHSM token, and none for other tokens. If kmsgate did
// not create the token, they are this token's files without those of other tokens in the same
// directory, SoftHSM's configuration, and the PIN, which may come from an environment variable.
func (a archiver) tokenSources() ([]source, error) {
	t := a.appliance.Config.Token
	if t.SoftHSM != "" {
		return listFiles(t.SoftHSM, archivedToken)
	}
	files, ok, err := hardware.SoftHSMFiles(a.appliance.Config)
	if err != nil || !ok {
		return nil, err
	}
	dir, err := files.Token(t.Label, t.Serial)
	if err != nil {
		return nil, err
	}
	pin, err := a.appliance.Config.PIN()
	if err != nil {
		return nil, fmt.Errorf("reading the token's PIN: %w", err)
	}
	token, err := listFiles(dir, archivedTokens+"/"+filepath.Base(dir))
	return append(token,
		source{name: archivedSoftHSMConf, path: files.Configuration},
		source{name: archivedPIN, content: append([]byte(pin), '\n')}), err
}

// listFiles lists a token's files in dir, with names in the directory name of an archive. It
// leaves out files that end with .new, which are being written, softhsm2.conf, which kmsgate
// writes at every start for a token in token.softhsm, and the directories of the file system
// itself, such as lost+found and .snapshot.
func listFiles(dir, name string) (all []source, err error) {
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if filepath.Ext(path) == ".new" || d != nil && d.Name() == "softhsm2.conf" {
			return nil
		}
		if d != nil && d.IsDir() && path != dir && (d.Name() == "lost+found" || strings.HasPrefix(d.Name(), ".")) {
			return fs.SkipDir
		}
		if err != nil || d.IsDir() {
			return err
		}
		if !d.Type().IsRegular() {
			return fmt.Errorf("%q is not a regular file", path)
		}
		rest, err := filepath.Rel(dir, path)
		all = append(all, source{name: name + "/" + filepath.ToSlash(rest), path: path})
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("listing the token's files: %w", err)
	}
	return all, nil
}
