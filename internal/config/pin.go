package config

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"

	"github.com/kmsgate/kmsgate/internal/secret"
)

// maxPIN is the maximum length of a PIN in bytes, far more than any token accepts.
const maxPIN = 1024

// PIN reads the token's user PIN from its file or environment variable, without a newline at
// its end. Every call reads it again. PIN returns an error for a doubtful PIN, because an attempt
// with a wrong PIN could lock the token.
func (c *Config) PIN() (secret.Text, error) {
	switch {
	case c.Token.SoftHSM != "":
		return "", errors.New("the configuration has no PIN for the token in token.softhsm, which kmsgate manages " +
			"itself")
	case c.Token.PINEnv == "":
		return readPINFile(c.Token.PINFile)
	}
	pin := os.Getenv(c.Token.PINEnv)
	if pin == "" {
		return "", fmt.Errorf("the environment variable %q is not set or empty (set it to the token's user PIN)",
			c.Token.PINEnv)
	}
	return parsePIN(pin)
}

// userTypes are the numbers of user types in PKCS#11 and in vendors' extensions.
var userTypes = map[string]uint{
	"user":        1,          // CKU_USER
	"crypto_user": 0x80000001, // of Thales Luna: may use keys but not create them
}

// UserTypeNumber returns PKCS#11's number of the user type to log in as.
func (t Token) UserTypeNumber() uint { return userTypes[t.UserType] }

func (c *Config) pinField() string {
	if c.Token.PINEnv != "" {
		return "token.pin_env"
	}
	return "token.pin_file"
}

func readPINFile(path string) (secret.Text, error) {
	// Without O_NONBLOCK, opening a named pipe would wait for its writer.
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		const advice = "write the token's user PIN to this file, readable only by the gateway's user"
		return "", fmt.Errorf("%w (%s)", err, accessHint(err, advice))
	}
	defer f.Close()
	if err := checkPINFile(f); err != nil {
		return "", err
	}
	content, err := io.ReadAll(io.LimitReader(f, maxPIN+1))
	if err != nil {
		return "", err
	}
	pin, err := parsePIN(string(content))
	if err != nil {
		return "", fmt.Errorf("%q %w", path, err)
	}
	return pin, nil
}

// checkPINFile refuses a file that users other than its owner can access. It examines the open
// file because the path can denote another file by now.
func checkPINFile(f *os.File) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("%q is not a regular file (write the token's user PIN to a regular file)", f.Name())
	}
	if info.Mode().Perm()&0o077 != 0 {
		return fmt.Errorf("%q is accessible to users other than its owner (run chmod 600 %[1]s)", f.Name())
	}
	return nil
}

// parsePIN returns the PIN in the content of a file or variable. Its error continues a
// sentence that starts with the name of that file or variable.
func parsePIN(s string) (secret.Text, error) {
	pin := strings.TrimSuffix(strings.TrimSuffix(s, "\n"), "\r")
	switch {
	case pin == "":
		return "", errors.New("is empty (write the token's user PIN there)")
	case len(pin) > maxPIN:
		return "", fmt.Errorf("has more than %d bytes, so it is not a PIN", maxPIN)
	case strings.ContainsAny(pin, "\r\n\x00"):
		return "", errors.New("has more than one line (write only the token's user PIN there)")
	}
	return secret.Text(pin), nil
}
