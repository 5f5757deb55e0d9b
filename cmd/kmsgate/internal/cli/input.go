package cli

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"
)

// MaxDocument bounds what is read of a file that is sent to the gateway.
const MaxDocument = 64 << 10

// ReadDocument reads the file that a command line names; "-" is the standard
// input.
func ReadDocument(cmd *cobra.Command, values []string) (string, error) {
	name, read := values[0], ReadSmallFile
	if name == "-" {
		name = "the standard input"
		read = func(name string) ([]byte, error) { return readSmall(name, cmd.InOrStdin()) }
	}
	text, err := read(name)
	if err == nil && len(bytes.TrimSpace(text)) == 0 {
		err = fmt.Errorf("%s is empty", name)
	}
	return string(text), err
}

func readSmall(name string, in io.Reader) ([]byte, error) {
	text, err := io.ReadAll(io.LimitReader(in, MaxDocument+1))
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", name, err)
	}
	if len(text) > MaxDocument {
		return nil, fmt.Errorf("%s has more than %d KiB", name, MaxDocument>>10)
	}
	return text, nil
}

func ReadSmallFile(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return readSmall(name, f)
}

// ReadSecretFile reads a small file that is nobody else's.
func ReadSecretFile(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if info.Mode().IsRegular() && info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("%s can be read by group or others: chmod 600 %[1]s", path)
	}
	return ReadSmallFile(path)
}

// Confirmed asks. No answer is no.
func Confirmed(out io.Writer, in io.Reader) bool {
	fmt.Fprint(out, "Go on? [y/N] ")
	answer, _ := bufio.NewReader(in).ReadString('\n') // an error is no answer
	answer = strings.ToLower(strings.TrimSpace(answer))
	return answer == "y" || answer == "yes"
}

// JSONList sends what a flag was given, several times perhaps, as a JSON list.
func JSONList(_ *cobra.Command, values []string) (string, error) {
	text, err := json.Marshal(values)
	return string(text), err
}

// OnlyTrue sends something for a flag that has an effect if it is there.
func OnlyTrue(flag, sent string) func(*cobra.Command, []string) (string, error) {
	return func(_ *cobra.Command, values []string) (string, error) {
		if values[0] != "true" {
			return "", fmt.Errorf("--%s=false says nothing: leave it out", flag)
		}
		return sent, nil
	}
}
