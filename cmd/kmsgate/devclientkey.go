package main

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
	"github.com/kmsgate/kmsgate/internal/durable"
	"github.com/kmsgate/kmsgate/store"
)

// The access point that a dev gateway has, its permission policy, and where its
// client key is.
const (
	devAccessPoint       = "dev"
	devClientKeyFile     = "clientkey.json"
	devClientKeyPassword = "clientkey-password"
)

// devClientKey gives the client key whose file is in the directory, making what is
// missing: without its file a client key is of no use.
func (d *devGateway) devClientKey(ctx context.Context, a *appliance.Appliance) (environment, error) {
	if err := makeDevAccessPoint(ctx, a); err != nil {
		return nil, err
	}
	password, err := d.usableClientKey(a)
	if err != nil {
		return nil, err
	}
	if password == "" {
		if password, err = d.makeClientKey(ctx, a); err != nil {
			return nil, err
		}
	}
	return environment{{"KMSGATE_CLIENT_KEY_FILE", d.path(devClientKeyFile)}, {"KMSGATE_CLIENT_KEY_PASSWORD", password}}, nil
}

// usableClientKey gives the password of the client key in the directory, none if
// there is no such key that is valid for another day.
func (d *devGateway) usableClientKey(a *appliance.Appliance) (password string, err error) {
	text, err := os.ReadFile(d.path(devClientKeyFile))
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	secret, err := os.ReadFile(d.path(devClientKeyPassword))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	var file clientKeyFile
	if err := json.Unmarshal(text, &file); err != nil {
		return "", nil // written by somebody else: it is replaced
	}
	if key, err := a.Store.Now().ClientKeys().Get(file.KeyId); err == nil && key.NotAfter.After(time.Now().Add(24*time.Hour)) {
		password = strings.TrimSpace(string(secret))
	}
	return password, err
}

// makeDevAccessPoint makes an access point whose client keys may use all keys from
// everywhere, and its permission policy, unless they are there.
func makeDevAccessPoint(ctx context.Context, a *appliance.Appliance) error {
	const description = "made by kmsgate dev"
	var policyErr, pointErr error
	records := a.Store.Now()
	_, policyErr = records.PermissionPolicies().Get(devAccessPoint)
	_, pointErr = records.AccessPoints().Get(devAccessPoint)
	if errors.Is(policyErr, store.ErrNotFound) {
		policyErr = a.Server.Call(ctx, "CreatePolicy", map[string]string{"Name": devAccessPoint, "Description": description,
			"Permissions": useOfKeys, "Resources": `["key/*"]`}, nil)
	}
	if policyErr == nil && errors.Is(pointErr, store.ErrNotFound) {
		pointErr = a.Server.Call(ctx, "CreateApplicationAccessPoint", map[string]string{"Name": devAccessPoint, "Description": description,
			"Policies": `["` + devAccessPoint + `"]`}, nil)
	}
	return errors.Join(policyErr, pointErr)
}

// makeClientKey makes a client key, and writes it and its password down.
func (d *devGateway) makeClientKey(ctx context.Context, a *appliance.Appliance) (password string, err error) {
	password = newPassword()
	// Cut off, there must not be a password beside another one's key.
	if err := os.Remove(d.path(devClientKeyFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	if err := durable.Write(d.path(devClientKeyPassword), []byte(password+"\n"), 0o600); err != nil {
		return "", err
	}
	var made struct{ ClientKeyId, PrivateKeyData string }
	if err := a.Server.Call(ctx, "CreateClientKey", map[string]string{"AapName": devAccessPoint, "Password": password}, &made); err != nil {
		return "", err
	}
	text, err := json.Marshal(clientKeyFile{made.ClientKeyId, made.PrivateKeyData})
	if err != nil {
		return "", fmt.Errorf("encoding a client key: %w", err)
	}
	return password, durable.Write(d.path(devClientKeyFile), text, 0o600)
}
