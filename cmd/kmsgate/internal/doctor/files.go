package doctor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/kmsgate/kmsgate/gateway/kms"
	"github.com/kmsgate/kmsgate/internal/config"
	"github.com/kmsgate/kmsgate/softhsm"
)

// examineFiles examines whatever needs nothing opened, all of it at the same time: each part can
// hang. It returns SoftHSM's empty files, which emptyFiles judges once the missing keys are
// known.
func (e *examination) examineFiles(ctx context.Context) []softhsm.Finding {
	c := e.config
	if c == nil || len(e.found.late) > 0 { // if the directory hangs, so do its files
		return nil
	}
	ctx, cancel := share(ctx, 0.4)
	defer cancel()
	var files []pending[instanceFile]
	for _, f := range instanceFiles(c) {
		files = append(files, start(step{fmt.Sprintf("Examining the file %q", f.path), fileAdvice}, f.stat))
	}
	authority := start(step{fmt.Sprintf("Reading the CA's key %q", c.TLS.CAKeyFile), fileAdvice},
		func() []Finding { return examineCA(c) })
	certificates := start(step{"Reading the certificates", fileAdvice}, func() []Finding { return examineCertificates(c) })
	soft := start(step{"Examining SoftHSM's files", fileAdvice}, func() softFiles { return examineSoftHSM(c) })
	disks := start(step{"Examining the instance's file systems", fileAdvice}, e.examineDisks)
	check := start(step{"Checking the files that the configuration names", fileAdvice},
		func() config.Mistakes { return checkFiles(c) })

	var examined []instanceFile
	for _, f := range files {
		examined = append(examined, collect(ctx, e, f))
	}
	e.ca = collect(ctx, e, authority)
	e.found.Findings = append(e.found.Findings, collect(ctx, e, certificates)...)
	softHSM := collect(ctx, e, soft)
	e.found.Findings = append(e.found.Findings, collect(ctx, e, disks)...)
	mistakes := collect(ctx, e, check)
	e.found.mistakes(c, mistakes)
	e.found.files(c, examined, mistakes, e.owner)
	if !names(mistakes, "token.softhsm_conf") {
		e.found.Findings = append(e.found.Findings, softHSM.findings...)
	}
	return softHSM.empty
}

// checkFiles returns the mistakes of a configuration that concern the files that it names.
func checkFiles(c *config.Config) config.Mistakes {
	err := c.Check()
	if err == nil {
		return nil
	}
	mistakes := config.Mistakes{{What: err.Error()}}
	errors.As(err, &mistakes)
	return mistakes
}

// names reports whether one of the mistakes is that of a field.
func names(all config.Mistakes, field string) bool {
	return slices.ContainsFunc(all, func(m config.Mistake) bool { return m.Field == field })
}

// mistakes adds one problem for each directory or field with mistakes.
func (d *Diagnosis) mistakes(c *config.Config, all config.Mistakes) {
	findings := make(map[string]int) // the index of the finding about a directory
	for _, m := range all {
		dir := directoryOf(c, m.Field)
		if i, ok := findings[dir]; ok && dir != "" {
			d.Findings[i].Symptoms = append(d.Findings[i].Symptoms, fmt.Sprintf("%s.", m))
			continue
		}
		findings[dir] = len(d.Findings)
		d.problem("correct the configuration, or the file that it names", "The configuration has a mistake: %s.", m)
	}
}

// directoryOf returns the directory that Config.Check examines for a field. It is empty for a
// field for which Check examines a file.
func directoryOf(c *config.Config, field string) string {
	path := map[string]string{
		"store.file": c.Store.File, "audit.file": c.Audit.File, "tls.ca_file": c.TLS.CAFile,
		"tls.ca_key_file": c.TLS.CAKeyFile, "admin.socket": c.Admin.Socket, "token.softhsm": c.Token.SoftHSM,
	}[field]
	switch {
	case field == "directory":
		return c.Directory
	case path == "":
		return ""
	}
	return filepath.Dir(path)
}

// An instanceFile is a file or directory of an instance that the gateway's user must be able
// to use, and nobody else.
type instanceFile struct {
	field, path string
	info        fs.FileInfo // nil if err is not nil
	err         error
}

func instanceFiles(c *config.Config) (all []instanceFile) {
	for _, f := range []instanceFile{
		{field: "store.file", path: c.Store.File}, {field: "audit.file", path: c.Audit.File},
		{field: "tls.ca_key_file", path: c.TLS.CAKeyFile},
		{field: "token.pin_file", path: c.Token.PINFile}, {path: c.RefusedPINFile()}, {field: "token.softhsm", path: c.Token.SoftHSM},
	} {
		if f.path != "" {
			all = append(all, f)
		}
	}
	return all
}

func (f instanceFile) stat() instanceFile {
	f.info, f.err = os.Stat(f.path)
	return f
}

// files reports owners and modes. service is the owner of the instance's directory, or -1.
func (d *Diagnosis) files(c *config.Config, all []instanceFile, mistakes config.Mistakes, service int) {
	var public, foreign Finding
	var publicPaths, foreignPaths []string
	for _, f := range all {
		switch {
		case f.info == nil && f.err == nil: // it has not been examined in time
			continue
		case errors.Is(f.err, fs.ErrNotExist): // opening reports a required file that is missing
			continue
		case f.err != nil && names(mistakes, f.field):
			continue
		case f.err != nil:
			d.problem("run kmsgate doctor as root or as the gateway's user", "%q cannot be examined: %v.", f.path, f.err)
			continue
		}
		if f.info.Mode().Perm()&0o007 != 0 && f.path != c.Token.PINFile { // Config.Check reports the PIN file's mode
			public.also(fmt.Sprintf("%q has mode %v, so every user of this machine can use it.", f.path, f.info.Mode()))
			publicPaths = append(publicPaths, f.path)
		}
		if owner := ownerOf(f.info); owner >= 0 && service >= 0 && owner != service {
			foreign.also(fmt.Sprintf("%q belongs to uid %d but the directory %q to uid %d, so the gateway may not be able "+
				"to use the file.", f.path, owner, c.Directory, service))
			foreignPaths = append(foreignPaths, f.path)
		}
	}
	if publicPaths != nil {
		public.Do = "chmod o= " + strings.Join(publicPaths, " ")
		d.Findings = append(d.Findings, public)
	}
	if foreignPaths != nil {
		foreign.Do = fmt.Sprintf("give the gateway's user what belongs to it: chown %d %s", service, strings.Join(foreignPaths, " "))
		foreign.causes = foreignPaths
		d.Findings = append(d.Findings, foreign)
	}
}

// also adds a sentence to a problem, which is empty at first.
func (f *Finding) also(sentence string) {
	if f.What == "" {
		f.Severity, f.What = Problem, sentence
		return
	}
	f.Symptoms = append(f.Symptoms, sentence)
}

// examineDisks reports file systems on which the gateway cannot write.
func (dr *Doctor) examineDisks() []Finding {
	c, d, statfs := dr.config, new(Diagnosis), dr.statfs
	if statfs == nil {
		statfs = syscall.Statfs
	}
	reported := make(map[syscall.Fsid]bool)
	for _, dir := range []string{c.Directory, filepath.Dir(c.Store.File), filepath.Dir(c.Audit.File), c.Token.SoftHSM} {
		var disk syscall.Statfs_t
		if dir == "" || statfs(dir, &disk) != nil || reported[disk.Fsid] {
			continue // Config.Check, or opening, reports a directory that is missing
		}
		switch {
		case disk.Flags&syscall.MS_RDONLY != 0: // ST_RDONLY has the same value
			d.problem("remount it writable; if the system made it read-only after an error, check the disk first",
				"The file system of %q is read-only, so the gateway cannot write the files on it.", dir)
		case disk.Blocks > 0 && disk.Bavail == 0:
			d.problem("free space on it",
				"The file system of %q is full, so the gateway cannot write the files on it.", dir)
		case disk.Files > 0 && disk.Ffree == 0:
			d.problem("remove files on it",
				"The file system of %q has no free inode, so the gateway cannot create files.", dir)
		default:
			continue
		}
		reported[disk.Fsid] = true
		d.Findings[len(d.Findings)-1].causes = []string{
			syscall.EROFS.Error(), syscall.ENOSPC.Error(), syscall.EDQUOT.Error(), kms.ErrAuditLog.Message,
		}
	}
	return d.Findings
}
