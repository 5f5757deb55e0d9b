package backup

import (
	"fmt"
	"io/fs"
	"path/filepath"

	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/appliance"
	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/config"
)

// The names of the files in an archive: those that they have in the directory of a
// `kmsgate dev`, wherever they are.
const (
	archivedConfig   = config.FileName
	archivedDatabase = "kmsgate.db"
	archivedCA       = "ca.pem"
	archivedCAKey    = "ca-key.pem"
	archivedAuditKey = "audit-public-key.pem"
	archivedToken    = "softhsm"

	// Of a SoftHSM that the operator has configured.
	archivedTokens      = archivedToken + "/tokens"
	archivedSoftHSMConf = archivedToken + "/softhsm2.conf"
	archivedPIN         = "pin"
)

// A source is one file of an archive.
type source struct {
	name    string // in the archive
	path    string // of the file here; or
	content []byte // if there is none
}

// sources returns the files of an appliance, except the database and the configuration.
func (a archiver) sources() ([]source, error) {
	all := []source{{name: archivedAuditKey, path: a.appliance.Config.AuditPublicKeyFile()}}
	if t := a.appliance.Config.TLS; t.Certificate == "" {
		all = append(all, source{name: archivedCA, path: t.CAFile}, source{name: archivedCAKey, path: t.CAKeyFile})
	}
	token, err := a.tokenSources()
	return append(all, token...), err
}

// tokenSources returns the files of a SoftHSM token. Of a SoftHSM that the operator has
// configured they are the one token, which may be among others', its configuration, and
// the PIN, which may come from a variable.
func (a archiver) tokenSources() ([]source, error) {
	t := a.appliance.Config.Token
	if t.SoftHSM != "" {
		return filesUnder(t.SoftHSM, archivedToken)
	}
	files, ok, err := appliance.SoftHSMFiles(a.appliance.Config)
	if err != nil || !ok {
		return nil, err
	}
	dir, err := files.Token(t.Label, t.Serial)
	if err != nil {
		return nil, err
	}
	pin, err := a.appliance.Config.PIN()
	if err != nil {
		return nil, fmt.Errorf("the token's PIN: %w", err)
	}
	token, err := filesUnder(dir, archivedTokens+"/"+filepath.Base(dir))
	return append(token, source{name: archivedSoftHSMConf, path: files.Configuration}, source{name: archivedPIN, content: append([]byte(pin), '\n')}), err
}

// filesUnder lists a token's files, as they are called under name in an archive. It leaves
// out what ends with .new, which is being written, and the softhsm2.conf of a token in
// token.softhsm, which is written at every start.
func filesUnder(dir, name string) (all []source, err error) {
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if filepath.Ext(path) == ".new" || d != nil && d.Name() == "softhsm2.conf" {
			return nil
		}
		if err != nil || d.IsDir() {
			return err
		}
		if !d.Type().IsRegular() {
			return fmt.Errorf("%s is not a regular file, as all of a token's are", path)
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
