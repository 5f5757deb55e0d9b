package dev

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"time"

	"github.com/kmsgate/kmsgate/gateway/kms"
	"github.com/kmsgate/kmsgate/internal/appliance"
	"github.com/kmsgate/kmsgate/internal/clientkey"
	"github.com/kmsgate/kmsgate/internal/durable"
	"github.com/kmsgate/kmsgate/store"
)

const (
	accessPoint       = "dev"                // the name of the access point and of its permission policy
	clientKeyFile     = "clientkey.json"     // in the directory
	clientKeyPassword = "clientkey-password" // the file with its password
)

// clientKey returns the variables of the client key in the directory. It creates a key, and
// the access point, if they are missing. A client key without its file is useless, so another
// key replaces it.
func (g *runner) clientKey(ctx context.Context, a *appliance.Appliance) (Environment, error) {
	if err := ensureAccessPoint(ctx, a); err != nil {
		return nil, err
	}
	password, err := g.usableClientKey(a)
	if err != nil {
		return nil, err
	}
	if password == "" {
		if password, err = g.createClientKey(ctx, a); err != nil {
			return nil, err
		}
	}
	return Environment{
		{"KMSGATE_CLIENT_KEY_FILE", g.path(clientKeyFile)},
		{"KMSGATE_CLIENT_KEY_PASSWORD", password},
	}, nil
}

// usableClientKey returns the password of the client key in the directory. The password is
// empty if the directory has no key that is valid for another 24 hours.
func (g *runner) usableClientKey(a *appliance.Appliance) (password string, err error) {
	text, err := os.ReadFile(g.path(clientKeyFile))
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	secret, err := os.ReadFile(g.path(clientKeyPassword))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	var file clientkey.File
	if err := json.Unmarshal(text, &file); err != nil {
		return "", nil // not a client key: createClientKey replaces the file
	}
	key, err := a.Store.Now().ClientKeys().Get(file.KeyId)
	if err == nil && key.NotAfter.After(time.Now().Add(24*time.Hour)) {
		return strings.TrimSpace(string(secret)), nil
	}
	return "", nil
}

// ensureAccessPoint creates an access point and its permission policy, unless they exist. The
// access point's client keys may use all keys from any address.
func ensureAccessPoint(ctx context.Context, a *appliance.Appliance) error {
	const description = "made by kmsgate dev"
	var policyErr, pointErr error
	records := a.Store.Now()
	_, policyErr = records.PermissionPolicies().Get(accessPoint)
	_, pointErr = records.AccessPoints().Get(accessPoint)
	if errors.Is(policyErr, store.ErrNotFound) {
		policyErr = a.Server.Call(ctx, "CreatePolicy", map[string]string{
			"Name": accessPoint, "Description": description,
			"Permissions": clientkey.Permissions, "Resources": `["key/*"]`,
		}, nil)
	}
	if policyErr == nil && errors.Is(pointErr, store.ErrNotFound) {
		pointErr = a.Server.Call(ctx, "CreateApplicationAccessPoint", map[string]string{
			"Name": accessPoint, "Description": description, "Policies": `["` + accessPoint + `"]`,
		}, nil)
	}
	return errors.Join(policyErr, pointErr)
}

// createClientKey creates a client key, and writes the key and its password to files.
func (g *runner) createClientKey(ctx context.Context, a *appliance.Appliance) (password string, err error) {
	password = clientkey.NewPassword()
	// The old key goes first: an interruption must not leave it beside the new password.
	if err := os.Remove(g.path(clientKeyFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	if err := durable.Write(g.path(clientKeyPassword), []byte(password+"\n"), 0o600); err != nil {
		return "", err
	}
	var created kms.CreateClientKeyResponse
	parameters := map[string]string{"AapName": accessPoint, "Password": password}
	if err := a.Server.Call(ctx, "CreateClientKey", parameters, &created); err != nil {
		return "", err
	}
	text, err := json.Marshal(clientkey.NewFile(created))
	if err != nil {
		return "", fmt.Errorf("encoding a client key: %w", err)
	}
	return password, durable.Write(g.path(clientKeyFile), text, 0o600)
}
