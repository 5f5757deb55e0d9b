package appliance

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/config"
	"github.com/kmsgate/kmsgate/hsm/token"
	"github.com/kmsgate/kmsgate/softhsm"
)

// guardedDir returns the directory with copies of the files that a kill during a login
// destroys, for a SoftHSM token that somebody else made.
func guardedDir(c *config.Config) string { return filepath.Join(c.Directory, "guarded") }

// pointSoftHSM points SoftHSM, and what reads its files here, at the configuration
// that ours names. It must not be called while the module may read C's environment.
func pointSoftHSM(t config.Token) error {
	if t.SoftHSMConf == "" || t.SoftHSMConf == os.Getenv("SOFTHSM2_CONF") {
		return nil
	}
	return os.Setenv("SOFTHSM2_CONF", t.SoftHSMConf)
}

// SoftHSMFiles returns the files of the token that a configuration names, and false if
// the token is not SoftHSM's.
func SoftHSMFiles(c *config.Config) (softhsm.Files, bool, error) {
	if c.Token.SoftHSM != "" {
		return softhsm.FilesIn(c.Token.SoftHSM), true, nil
	}
	if err := pointSoftHSM(c.Token); err != nil {
		return softhsm.Files{}, false, err
	}
	return softhsm.FilesOf(c.Token.Module, guardedDir(c))
}

// adopt sets the PIN of a token that somebody else made, and has its files guarded if it
// is SoftHSM's.
func (t tokenSettings) adopt(cfg *token.Config) error {
	pin, err := t.config.PIN()
	if err != nil {
		return err
	}
	cfg.PIN = pin
	if err := pointSoftHSM(t.config.Token); err != nil {
		return err
	}
	soft, err := softhsm.Adopt(cfg.Module, guardedDir(t.config))
	if soft != nil {
		cfg.BeforeLogin, cfg.AfterChange = soft.Guard, soft.Flush
	}
	return err
}

// explainFiles adds to an error of the token what is wrong with SoftHSM's files: SoftHSM
// itself says of a destroyed token only that there is none.
func (t tokenSettings) explainFiles(err error) error {
	files, ok, filesErr := SoftHSMFiles(t.config)
	if filesErr != nil || !ok {
		return err
	}
	found, _ := files.Examine() // an error of it would add nothing
	var reasons []string
	for _, f := range found {
		if f.Problem {
			reasons = append(reasons, fmt.Sprintf("%s %s: %s", f.Path, f.What, f.Do))
		}
	}
	if reasons == nil {
		return err
	}
	return fmt.Errorf("%w. In SoftHSM's files, %s", err, strings.Join(reasons, "; "))
}
