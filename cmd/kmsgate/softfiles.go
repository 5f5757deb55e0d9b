package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/config"
	"github.com/kmsgate/kmsgate/hsm/token"
	"github.com/kmsgate/kmsgate/softhsm"
)

// guardedDir is where copies of the files are kept that a kill during a login
// destroys, if the token is SoftHSM's and somebody else made it.
func guardedDir(c *config.Config) string { return filepath.Join(c.Directory, "guarded") }

// pointSoftHSM points SoftHSM, and what reads its files here, at the configuration
// that ours names. C's environment must not change while the module may read it.
func pointSoftHSM(t config.Token) error {
	if t.SoftHSMConf == "" || t.SoftHSMConf == os.Getenv("SOFTHSM2_CONF") {
		return nil
	}
	return os.Setenv("SOFTHSM2_CONF", t.SoftHSMConf)
}

// softFiles gives the files of the token if it is SoftHSM's.
func softFiles(c *config.Config) (softhsm.Files, bool, error) {
	if c.Token.SoftHSM != "" {
		return softhsm.FilesIn(c.Token.SoftHSM), true, nil
	}
	if err := pointSoftHSM(c.Token); err != nil {
		return softhsm.Files{}, false, err
	}
	return softhsm.FilesOf(c.Token.Module, guardedDir(c))
}

// adopt sets the PIN of a token that somebody else made, and has its files
// guarded if it is SoftHSM's.
func (i *instance) adopt(cfg *token.Config) error {
	pin, err := i.config.PIN()
	if err != nil {
		return err
	}
	cfg.PIN = pin
	if err := pointSoftHSM(i.config.Token); err != nil {
		return err
	}
	soft, err := softhsm.Adopt(cfg.Module, guardedDir(i.config))
	if soft != nil {
		cfg.BeforeLogin, cfg.AfterChange = soft.Guard, soft.Flush
	}
	return err
}

// explained adds to an error of the token what is wrong with SoftHSM's files: it
// says no more of a destroyed token than that there is none.
func (i *instance) explained(err error) error {
	files, ok, filesErr := softFiles(i.config)
	if filesErr != nil || !ok {
		return err
	}
	found, _ := files.Examine() // it cannot say more than the error does, then
	var why []string
	for _, f := range found {
		if f.Problem {
			why = append(why, fmt.Sprintf("%s %s: %s", f.Path, f.What, f.Do))
		}
	}
	if why == nil {
		return err
	}
	return fmt.Errorf("%w. In SoftHSM's files, %s", err, strings.Join(why, "; "))
}
