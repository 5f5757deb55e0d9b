package cli

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"
)

// MaxDocument is the size, in bytes, of the largest file that is sent to the gateway.
const MaxDocument = 64 << 10

// ReadDocument returns the content of the file that a command line names. "-" is the
// standard input.
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

// ReadJSON is [ReadDocument] for a document in JSON. Its error names the line and the
// column of a mistake.
func ReadJSON(cmd *cobra.Command, values []string) (string, error) {
	text, err := ReadDocument(cmd, values)
	if err != nil {
		return "", err
	}
	var syntax *json.SyntaxError
	if err := json.Unmarshal([]byte(text), new(any)); errors.As(err, &syntax) {
		before := text[:max(syntax.Offset-1, 0)]
		line := 1 + strings.Count(before, "\n")
		column := len(before) - strings.LastIndex(before, "\n")
		return "", fmt.Errorf("%s:%d:%d: not JSON: %w", values[0], line, column, err)
	}
	return text, nil
}

func readSmall(name string, input io.Reader) ([]byte, error) {
	text, err := io.ReadAll(io.LimitReader(input, MaxDocument+1))
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", name, err)
	}
	if len(text) > MaxDocument {
		return nil, fmt.Errorf("%s is larger than %d KiB", name, MaxDocument>>10)
	}
	return text, nil
}

// ReadSmallFile returns the content of a file of at most MaxDocument bytes.
func ReadSmallFile(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return readSmall(name, f)
}

// ReadSecretFile is [ReadSmallFile] for a secret: it refuses a file that group or others can
// access.
func ReadSecretFile(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if info.Mode().IsRegular() && info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("%s is accessible to group or others: run chmod 600 %[1]s", path)
	}
	return ReadSmallFile(path)
}

// JSONList turns all values of a parameter into a JSON list.
func JSONList(_ *cobra.Command, values []string) (string, error) {
	text, err := json.Marshal(values)
	return string(text), err
}

// OnlyTrue returns a Read for a flag that has an effect only if it is given: it sends sent.
func OnlyTrue(flag, sent string) func(*cobra.Command, []string) (string, error) {
	return func(_ *cobra.Command, values []string) (string, error) {
		if values[0] != "true" {
			return "", fmt.Errorf("--%s=false has no meaning: leave it out", flag)
		}
		return sent, nil
	}
}
