package doctor

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/hardware"
	"github.com/kmsgate/kmsgate/internal/ca"
	"github.com/kmsgate/kmsgate/internal/config"
	"github.com/kmsgate/kmsgate/softhsm"
)

// examineFiles examines whatever needs nothing opened. It returns SoftHSM's empty files,
// which emptyFiles judges once the missing keys are known.
func (dr *Doctor) examineFiles(d *Diagnosis) []softhsm.Finding {
	c := dr.Config
	if c == nil {
		d.note("pass the configuration with --config FILE, or the directory of kmsgate dev with --dir DIR",
			"The configuration and the files were not examined.")
		return nil
	}
	if err := c.Check(); err != nil {
		mistakes := config.Mistakes{{What: err.Error()}}
		errors.As(err, &mistakes)
		for _, m := range mistakes {
			d.problem("correct the configuration, or the file that it names", "The configuration has a mistake: %s.", m)
		}
	}
	d.certificates(c)
	for _, path := range []string{c.Store.File, c.Audit.File, c.TLS.CAKeyFile, c.Token.PINFile, c.RefusedPINFile(), c.Token.SoftHSM} {
		d.file(c, path)
	}
	return d.softFiles(c)
}

// file examines a file's owner and mode.
func (d *Diagnosis) file(c *config.Config, path string) {
	if path == "" {
		return
	}
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return // opening reports a required file that is missing
	}
	if err != nil {
		d.problem("run kmsgate doctor as root or as the gateway's user", "%q cannot be examined: %v.", path, err)
		return
	}
	if info.Mode().Perm()&0o007 != 0 && path != c.Token.PINFile { // Config.Check has reported the PIN file's mode
		d.problem("chmod o= "+path, "%q has mode %v, so every user of this machine can use it.",
			path, info.Mode())
	}
	if owner, service := ownerOf(info), ownerOfPath(c.Directory); owner >= 0 && service >= 0 && owner != service {
		d.problem("change its owner to the gateway's user with chown",
			"%q belongs to uid %d but the directory %q to uid %d, so the gateway may not be able to use the file.",
			path, owner, c.Directory, service)
	}
}

// examineCA examines the gateway's CA. A running gateway does not need the CA's files before
// its next start.
func (dr *Doctor) examineCA() []Finding {
	c := dr.Config
	if c == nil || c.TLS.Certificate != "" {
		return nil
	}
	d := new(Diagnosis)
	a, err := ca.Read(c.TLS.CAKeyFile)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		d.problem(ca.LostAdvice, "The CA's key %q is missing, and the gateway does not start without it.",
			c.TLS.CAKeyFile)
		return d.Findings
	case err != nil:
		d.problem("correct this; the gateway does not start without its CA", "The CA cannot be read: %v.", err)
		return d.Findings
	}
	if _, err := os.Stat(c.TLS.CAFile); errors.Is(err, fs.ErrNotExist) {
		d.note("do nothing; kmsgate writes the file again whenever it opens the instance, as at the gateway's next "+
			"start",
			"The CA's certificate %q, which is for clients, was missing.", c.TLS.CAFile)
	} else if err := a.CheckCertificateFile(c.TLS.CAFile); err != nil {
		d.problem("follow this advice; the gateway does not start until then", "%v.", err)
	}
	return d.Findings
}

// certificates reports certificates that expire soon or have expired.
func (d *Diagnosis) certificates(c *config.Config) {
	for _, w := range c.Warnings() {
		report := d.note
		if w.Expired {
			report = d.problem
		}
		report(w.Do, "%s.", strings.ToUpper(w.What[:1])+w.What[1:])
	}
}

func ownerOfPath(path string) int {
	info, err := os.Stat(path)
	if err != nil {
		return -1 // Config.Check has reported the error
	}
	return ownerOf(info)
}

func ownerOf(info fs.FileInfo) int {
	if owner, ok := info.Sys().(*syscall.Stat_t); ok {
		return int(owner.Uid)
	}
	return -1
}

// softFiles adds the findings about SoftHSM's files, and returns those about empty files
// instead.
func (d *Diagnosis) softFiles(c *config.Config) (empty []softhsm.Finding) {
	files, ok, err := hardware.SoftHSMFiles(c)
	if err != nil {
		d.problem("correct this and run kmsgate doctor again", "SoftHSM's files were not examined: %v.", err)
		return nil
	}
	if _, err := os.Stat(files.Tokens); !ok || errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	found, err := files.Examine()
	if err != nil {
		d.problem("run kmsgate doctor as root or as the gateway's user", "SoftHSM's files cannot be examined: %v.", err)
	}
	for _, f := range found {
		switch {
		case f.Empty:
			empty = append(empty, f)
		case f.Problem:
			d.problem(f.Do, "%q %s.", f.Path, f.What)
		default:
			d.note(f.Do, "%q %s.", f.Path, f.What)
		}
	}
	return empty
}

// emptyFiles decides which empty files Repair may remove. It keeps all of them while a
// private key is missing: one can be the remnant of that key. It keeps those younger than
// softhsm.EmptyFor: creating a key pair takes seconds.
func (d *Diagnosis) emptyFiles(empty []softhsm.Finding, keep bool) {
	for _, f := range empty {
		info, err := os.Stat(f.Path)
		switch {
		case err != nil || info.Size() > 0:
			continue // destroyed or written since
		case keep:
			d.note("leave it while a private key is missing; it can be the remnant of that key",
				"%q %s.", f.Path, f.What)
		case time.Since(info.ModTime()) < softhsm.EmptyFor:
			d.note("run kmsgate doctor again in a minute; SoftHSM may be about to write it", "%q %s.", f.Path, f.What)
		default:
			d.empty = append(d.empty, filepath.Clean(f.Path))
			d.note("remove it with kmsgate doctor --repair", "%q %s.", f.Path, f.What)
		}
	}
}
