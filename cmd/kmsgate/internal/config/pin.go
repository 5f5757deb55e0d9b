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

// maxPIN is far more than any token takes.
const maxPIN = 1024

// PIN reads the token's user PIN from its file or variable. A newline at its end
// is not part of it. A PIN that is doubtful is not given out: trying it could
// lock the token.
func (c *Config) PIN() (secret.Text, error) {
	switch {
	case c.Token.SoftHSM != "":
		return "", errors.New("the token in token.softhsm has a PIN of its own")
	case c.Token.PINEnv == "":
		return filePIN(c.Token.PINFile)
	}
	pin := os.Getenv(c.Token.PINEnv)
	if pin == "" {
		return "", fmt.Errorf("the environment variable %s is not set or empty: set it to the token's user PIN", c.Token.PINEnv)
	}
	return onePIN(pin)
}

// userTypes are the numbers by which PKCS#11 and vendors know types of users.
var userTypes = map[string]uint{
	"user":        1,          // CKU_USER
	"crypto_user": 0x80000001, // of Thales Luna: may use keys, and not make them
}

// UserTypeNumber is the number of the type of user whose PIN it is.
func (t Token) UserTypeNumber() uint { return userTypes[t.UserType] }

func (c *Config) pinField() string {
	if c.Token.PINEnv != "" {
		return "token.pin_env"
	}
	return "token.pin_file"
}

func filePIN(path string) (secret.Text, error) {
	// Without O_NONBLOCK opening a named pipe waits for its writer.
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return "", fmt.Errorf("%w: write the token's user PIN there, readable by kmsgate's user only", err)
	}
	defer f.Close()
	if err := private(f); err != nil {
		return "", err
	}
	content, err := io.ReadAll(io.LimitReader(f, maxPIN+1))
	if err != nil {
		return "", err
	}
	pin, err := onePIN(string(content))
	if err != nil {
		return "", fmt.Errorf("%s %w", path, err)
	}
	return pin, nil
}

// private refuses a file that more than its owner can read. It asks the opened
// file: the path could mean another one by now.
func private(f *os.File) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("%s is not a regular file: write the token's user PIN to one", f.Name())
	}
	if info.Mode().Perm()&0o077 != 0 {
		return fmt.Errorf("%s can be used by group or others: chmod 600 %[1]s", f.Name())
	}
	return nil
}

func onePIN(s string) (secret.Text, error) {
	pin := strings.TrimSuffix(strings.TrimSuffix(s, "\n"), "\r")
	switch {
	case pin == "":
		return "", errors.New("is empty: write the token's user PIN there")
	case len(pin) > maxPIN:
		return "", fmt.Errorf("has more than %d bytes: that is no PIN", maxPIN)
	case strings.ContainsAny(pin, "\r\n\x00"):
		return "", errors.New("has more than one line: write the token's user PIN there and nothing else")
	}
	return secret.Text(pin), nil
}
