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

	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/appliance"
	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/clientkey"
	"github.com/kmsgate/kmsgate/gateway/kms"
	"github.com/kmsgate/kmsgate/internal/durable"
	"github.com/kmsgate/kmsgate/store"
)

// The access point that a dev gateway has, its permission policy, and where its
// client key is.
const (
	accessPoint       = "dev"
	clientKeyFile     = "clientkey.json"
	clientKeyPassword = "clientkey-password"
)

// clientKey returns the client key whose file is in the directory, and makes what
// is missing: without its file a client key is of no use.
func (g *gateway) clientKey(ctx context.Context, a *appliance.Appliance) (Environment, error) {
	if err := makeAccessPoint(ctx, a); err != nil {
		return nil, err
	}
	password, err := g.usableClientKey(a)
	if err != nil {
		return nil, err
	}
	if password == "" {
		if password, err = g.makeClientKey(ctx, a); err != nil {
			return nil, err
		}
	}
	return Environment{{"KMSGATE_CLIENT_KEY_FILE", g.path(clientKeyFile)}, {"KMSGATE_CLIENT_KEY_PASSWORD", password}}, nil
}

// usableClientKey returns the password of the client key in the directory. It is empty if
// there is no key that is valid for another day.
func (g *gateway) usableClientKey(a *appliance.Appliance) (password string, err error) {
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
		return "", nil // written by somebody else: it is replaced
	}
	if key, err := a.Store.Now().ClientKeys().Get(file.KeyId); err == nil && key.NotAfter.After(time.Now().Add(24*time.Hour)) {
		return strings.TrimSpace(string(secret)), nil
	}
	return "", nil
}

// makeAccessPoint makes an access point whose client keys may use all keys from
// everywhere, and its permission policy, unless they are there.
func makeAccessPoint(ctx context.Context, a *appliance.Appliance) error {
	const description = "made by kmsgate dev"
	var policyErr, pointErr error
	records := a.Store.Now()
	_, policyErr = records.PermissionPolicies().Get(accessPoint)
	_, pointErr = records.AccessPoints().Get(accessPoint)
	if errors.Is(policyErr, store.ErrNotFound) {
		policyErr = a.Server.Call(ctx, "CreatePolicy", map[string]string{"Name": accessPoint, "Description": description,
			"Permissions": clientkey.Permissions, "Resources": `["key/*"]`}, nil)
	}
	if policyErr == nil && errors.Is(pointErr, store.ErrNotFound) {
		pointErr = a.Server.Call(ctx, "CreateApplicationAccessPoint", map[string]string{"Name": accessPoint, "Description": description,
			"Policies": `["` + accessPoint + `"]`}, nil)
	}
	return errors.Join(policyErr, pointErr)
}

// makeClientKey makes a client key, and writes it and its password down.
func (g *gateway) makeClientKey(ctx context.Context, a *appliance.Appliance) (password string, err error) {
	password = clientkey.NewPassword()
	// Cut off, there must not be a password beside another one's key.
	if err := os.Remove(g.path(clientKeyFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	if err := durable.Write(g.path(clientKeyPassword), []byte(password+"\n"), 0o600); err != nil {
		return "", err
	}
	var made kms.CreateClientKeyResponse
	if err := a.Server.Call(ctx, "CreateClientKey", map[string]string{"AapName": accessPoint, "Password": password}, &made); err != nil {
		return "", err
	}
	text, err := json.Marshal(clientkey.FileOf(made))
	if err != nil {
		return "", fmt.Errorf("encoding a client key: %w", err)
	}
	return password, durable.Write(g.path(clientKeyFile), text, 0o600)
}
