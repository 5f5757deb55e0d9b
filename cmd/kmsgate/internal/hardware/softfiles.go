package hardware

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/kmsgate/kmsgate/hsm/token"
	"github.com/kmsgate/kmsgate/internal/config"
	"github.com/kmsgate/kmsgate/softhsm"
)

// guardedDir returns the directory for copies of the files that a kill during a login can
// destroy. It is for SoftHSM tokens that kmsgate did not create.
func guardedDir(c *config.Config) string { return filepath.Join(c.Directory, "guarded") }

// pointSoftHSM makes SoftHSM, and the code here that reads its files, use the configuration
// that t names. It must not be called while the module may read C's environment.
func pointSoftHSM(t config.Token) error {
	if t.SoftHSMConf == "" || t.SoftHSMConf == os.Getenv("SOFTHSM2_CONF") {
		return nil
	}
	return os.Setenv("SOFTHSM2_CONF", t.SoftHSMConf)
}

// SoftHSMFiles returns the files of the token that a configuration names, and false if
// the token is not a SoftHSM token.
func SoftHSMFiles(c *config.Config) (softhsm.Files, bool, error) {
	if c.Token.SoftHSM != "" {
		return softhsm.FilesIn(c.Token.SoftHSM), true, nil
	}
	if err := pointSoftHSM(c.Token); err != nil {
		return softhsm.Files{}, false, err
	}
	return softhsm.FilesOf(c.Token.Module, guardedDir(c))
}

// adopt sets the PIN of a token that kmsgate did not create, and where its PIN can change. It
// guards the token's files if it is a SoftHSM token.
func (t device) adopt(cfg *token.Config) error {
	pin, err := t.config.PIN()
	if err != nil {
		return err
	}
	cfg.PIN, cfg.RefusedPINFile = pin, t.config.RefusedPINFile()
	if t.config.Token.PINFile != "" { // a variable cannot change
		cfg.ReadPIN = t.config.PIN
	}
	if err := pointSoftHSM(t.config.Token); err != nil {
		return err
	}
	soft, err := softhsm.Adopt(cfg.Module, guardedDir(t.config))
	if soft != nil {
		cfg.BeforeLogin, cfg.AfterChange = soft.Guard, soft.Flush
	}
	return err
}

// explainFiles adds the problems of SoftHSM's files to an error of the token. SoftHSM itself
// reports a destroyed token only as missing.
func (t device) explainFiles(err error) error {
	files, ok, filesErr := SoftHSMFiles(t.config)
	if filesErr != nil || !ok {
		return err
	}
	findings, _ := files.Examine() // its error would add nothing to err
	var problems []string
	for _, f := range findings {
		if f.Problem {
			problems = append(problems, fmt.Sprintf("%q %s (%s)", f.Path, f.What, f.Do))
		}
	}
	if problems == nil {
		return err
	}
	return fmt.Errorf("%w; SoftHSM's file %s", err, strings.Join(problems, "; "))
}
