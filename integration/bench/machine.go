package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// A machine is where and how it was measured.
type machine struct {
	date             time.Time
	cores            int
	processor        string
	kernel           string
	fileSystem       string
	flush            time.Duration // the median time to flush a line to the disk
	version, compile string
	module           string
	options          options
}

// String returns a paragraph for the page.
func (m machine) String() string {
	rounds := fmt.Sprintf("the best of %d rounds", m.options.rounds)
	if m.options.rounds == 1 {
		rounds = "one round"
	}
	return wrap(fmt.Sprintf("Measured on %s: kmsgate %s, %s, %s, Linux %s, %d cores of %s. "+
		"The audit log is on %s, where flushing a line takes %.1f ms. The load runs on the same cores. "+
		"A row is %s of %s, in which the gateway, the token and the floor alternate.",
		m.date.Format(time.DateOnly), m.version, m.compile, m.module, m.kernel, m.cores, m.processor,
		m.fileSystem, float64(m.flush)/float64(time.Millisecond), rounds, m.options.time))
}

// wrap breaks a text into lines of at most 100 columns.
func wrap(text string) string {
	var b strings.Builder
	width := 0
	for _, word := range strings.Fields(text) {
		switch {
		case width == 0:
		case width+1+len(word) > 100:
			b.WriteByte('\n')
			width = 0
		default:
			b.WriteByte(' ')
			width++
		}
		b.WriteString(word)
		width += len(word)
	}
	return b.String() + "\n"
}

// examine describes this machine, with the disk of a directory.
func examine(ctx context.Context, o options, dir string) (m machine, err error) {
	m = machine{date: time.Now(), cores: runtime.NumCPU(), options: o}
	if m.processor, err = processor(); err != nil {
		return m, err
	}
	var system unix.Utsname
	if err := unix.Uname(&system); err != nil {
		return m, err
	}
	m.kernel = unix.ByteSliceToString(system.Release[:])
	if m.fileSystem, err = fileSystem(dir); err != nil {
		return m, err
	}
	if m.flush, err = flushTime(dir); err != nil {
		return m, err
	}
	var version struct{ Version, Go string }
	err = ask(ctx, &version, o.kmsgate, "version", "-o", "json")
	m.version, m.compile = version.Version, strings.Replace(version.Go, "go", "Go ", 1)
	if commit, err := exec.CommandContext(ctx, "git", "rev-parse", "--short=12", "HEAD").Output(); err == nil && m.version == "(devel)" {
		m.version = "of commit " + strings.TrimSpace(string(commit))
	}
	return m, err
}

// moduleOf describes the PKCS#11 module of a gateway.
func moduleOf(ctx context.Context, o options, gateway *server) (string, error) {
	var survey struct {
		Module struct{ Manufacturer, Version string }
	}
	err := ask(ctx, &survey, o.kmsgate, "token", "info", "--dir", gateway.dir, "-o", "json")
	return survey.Module.Manufacturer + " " + survey.Module.Version, err
}

// ask runs a command that prints JSON.
func ask(ctx context.Context, answer any, program string, args ...string) error {
	out, err := exec.CommandContext(ctx, program, args...).Output()
	if err == nil {
		err = json.Unmarshal(out, answer)
	}
	if err != nil {
		return fmt.Errorf("%s %s: %w", program, strings.Join(args, " "), err)
	}
	return nil
}

func processor() (string, error) {
	text, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(text)) {
		if name, value, _ := strings.Cut(line, ":"); strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(value), nil
		}
	}
	return runtime.GOARCH, nil
}

// fileSystem names the file system of a directory. It refuses memory, where nothing is flushed.
func fileSystem(dir string) (string, error) {
	var info unix.Statfs_t
	if err := unix.Statfs(dir, &info); err != nil {
		return "", err
	}
	switch info.Type {
	case unix.TMPFS_MAGIC, unix.RAMFS_MAGIC:
		return "", fmt.Errorf("%s is in memory: give -dir on a disk, where the audit log is flushed", dir)
	case unix.EXT4_SUPER_MAGIC:
		return "ext4", nil
	case unix.XFS_SUPER_MAGIC:
		return "XFS", nil
	case unix.BTRFS_SUPER_MAGIC:
		return "Btrfs", nil
	case unix.OVERLAYFS_SUPER_MAGIC:
		return "overlayfs", nil
	}
	return fmt.Sprintf("a file system of type %#x", info.Type), nil
}

// flushTime returns the median of the times that it takes to append a line to a file and flush it.
func flushTime(dir string) (time.Duration, error) {
	f, err := os.Create(filepath.Join(dir, "flush"))
	if err != nil {
		return 0, err
	}
	defer f.Close()
	times := make([]time.Duration, 51)
	line := make([]byte, 600)
	for i := range times {
		began := time.Now()
		if _, err := f.Write(line); err != nil {
			return 0, err
		}
		if err := unix.Fdatasync(int(f.Fd())); err != nil {
			return 0, err
		}
		times[i] = time.Since(began)
	}
	slices.Sort(times)
	return times[len(times)/2], nil
}
