package doctor

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/hardware"
	"github.com/kmsgate/kmsgate/internal/config"
	"github.com/kmsgate/kmsgate/softhsm"
)

// softFiles are the findings about SoftHSM's files. emptyFiles judges the empty ones once the
// missing keys are known.
type softFiles struct {
	findings []Finding
	empty    []softhsm.Finding
}

func examineSoftHSM(c *config.Config) (s softFiles) {
	files, ok, err := hardware.SoftHSMFiles(c)
	if err != nil {
		s.problem(err.Error(), Finding{What: fmt.Sprintf("SoftHSM's files were not examined: %v.", err),
			Do: "correct this and run kmsgate doctor again"})
		return s
	}
	if _, err := os.Stat(files.Tokens); !ok || errors.Is(err, fs.ErrNotExist) {
		return s
	}
	found, err := files.Examine()
	if err != nil {
		s.problem(err.Error(), Finding{What: fmt.Sprintf("SoftHSM's files cannot be examined: %v.", err),
			Do: "run kmsgate doctor as root or as the gateway's user"})
	}
	for _, f := range found {
		finding := Finding{Severity: Note, What: fmt.Sprintf("%q %s.", f.Path, f.What), Do: f.Do}
		switch {
		case f.Empty:
			s.empty = append(s.empty, f)
		case f.Lost:
			s.problem(f.Path, finding)
		case f.Problem:
			finding.Severity = Problem
			fallthrough
		default:
			s.findings = append(s.findings, finding)
		}
	}
	return s
}

// problem adds a problem. An error that contains cause has the same cause.
func (s *softFiles) problem(cause string, f Finding) {
	f.Severity, f.causes = Problem, []string{cause}
	s.findings = append(s.findings, f)
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
