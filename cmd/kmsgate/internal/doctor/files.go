package doctor

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/appliance"
	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/ca"
	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/config"
	"github.com/kmsgate/kmsgate/gateway/kms"
	"github.com/kmsgate/kmsgate/softhsm"
)

// examineFiles looks at what can be looked at without opening anything, and gives
// SoftHSM's empty files, of which more is to be known before they are judged.
func (dr *Doctor) examineFiles(d *Diagnosis) []softhsm.Finding {
	c := dr.Config
	if c == nil {
		d.note("name the configuration with --config, or the directory of a kmsgate dev with --dir", "The configuration and the files were not looked at.")
		return nil
	}
	if err := c.Check(); err != nil {
		mistakes := config.Mistakes{{What: err.Error()}}
		errors.As(err, &mistakes)
		for _, m := range mistakes {
			d.problem("change the configuration, or what it names", "In the configuration, %s.", m)
		}
	}
	for _, path := range []string{c.Store.File, c.Audit.File, c.TLS.CAKeyFile, c.Token.PINFile, c.Token.SoftHSM} {
		d.file(c, path)
	}
	return d.softFiles(c)
}

// file looks at whose a file is, and who can use it.
func (d *Diagnosis) file(c *config.Config, path string) {
	if path == "" {
		return
	}
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return // what has to be there says so itself when it is opened
	}
	if err != nil {
		d.problem("see why", "%s cannot be looked at: %v.", path, err)
		return
	}
	if info.Mode().Perm()&0o007 != 0 && path != c.Token.PINFile { // of which the configuration's check has said it
		d.problem("chmod o= "+path, "%s has mode %v: everyone on this machine can use it.", path, info.Mode())
	}
	if owner, service := ownerOf(info), ownerOfPath(c.Directory); owner >= 0 && service >= 0 && owner != service {
		d.problem("give it to the user that the gateway runs as, with chown", "%s belongs to uid %d, and the directory %s to uid %d: the gateway may not be able to use it.", path, owner, c.Directory, service)
	}
}

// examineCA looks at the CA of the gateway's own. A gateway that runs does not need
// its files before its next start.
func (dr *Doctor) examineCA() []Finding {
	c := dr.Config
	if c == nil || c.TLS.Certificate != "" {
		return nil
	}
	d := new(Diagnosis)
	a, err := ca.Read(c.TLS.CAKeyFile)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		d.problem(ca.LostAdvice, "The CA's key %s is gone: the gateway does not start without it.", c.TLS.CAKeyFile)
		return d.Findings
	case err != nil:
		d.problem("put it right: the gateway does not start without it", "The CA cannot be read: %v.", err)
		return d.Findings
	}
	if _, err := os.Stat(c.TLS.CAFile); errors.Is(err, fs.ErrNotExist) {
		d.note("nothing: whatever opens the instance writes it anew, the gateway's next start too", "The CA's certificate %s, for clients, was not there.", c.TLS.CAFile)
	} else if err := a.CheckCertificateFile(c.TLS.CAFile); err != nil {
		d.problem("do that: the gateway does not start as it is", "%v.", err)
	}
	if until := a.NotAfter(); time.Now().After(until) {
		d.problem("move both its files away, make another with kmsgate init --new-ca, and give its certificate to every client",
			"The CA's certificate expired at %s: clients refuse the gateway.", kms.FormatTime(until))
	}
	return d.Findings
}

func ownerOfPath(path string) int {
	info, err := os.Stat(path)
	if err != nil {
		return -1 // the configuration's check has said why
	}
	return ownerOf(info)
}

func ownerOf(info fs.FileInfo) int {
	if owner, ok := info.Sys().(*syscall.Stat_t); ok {
		return int(owner.Uid)
	}
	return -1
}

// softFiles takes over what is wrong with SoftHSM's files, but for the empty
// ones.
func (d *Diagnosis) softFiles(c *config.Config) (empty []softhsm.Finding) {
	files, ok, err := appliance.SoftHSMFiles(c)
	if err != nil {
		d.problem("mend that", "SoftHSM: %v.", err)
		return nil
	}
	if _, err := os.Stat(files.Tokens); !ok || errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	found, err := files.Examine()
	if err != nil {
		d.problem("see why", "SoftHSM's files cannot be looked at: %v.", err)
	}
	for _, f := range found {
		switch {
		case f.Empty:
			empty = append(empty, f)
		case f.Problem:
			d.problem(f.Do, "%s %s.", f.Path, f.What)
		default:
			d.note(f.Do, "%s %s.", f.Path, f.What)
		}
	}
	return empty
}

// emptyFiles judges the empty ones: while a key is missing one may be what is left
// of it. What is being made is younger: a key pair takes seconds.
func (d *Diagnosis) emptyFiles(empty []softhsm.Finding, keep bool) {
	for _, f := range empty {
		info, err := os.Stat(f.Path)
		switch {
		case err != nil || info.Size() > 0:
			continue // destroyed or written meanwhile
		case keep:
			d.note("leave it until no private key is missing: it may be what is left of one", "%s %s.", f.Path, f.What)
		case time.Since(info.ModTime()) < softhsm.EmptyFor:
			d.note("ask again in a minute: it may be about to be written", "%s %s.", f.Path, f.What)
		default:
			d.empty = append(d.empty, filepath.Clean(f.Path))
			d.note("kmsgate doctor --repair removes it", "%s %s.", f.Path, f.What)
		}
	}
}
