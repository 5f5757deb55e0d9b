// Command demo demonstrates signing with kmsgate. It starts a dev gateway, creates a key of each
// KeySpec with Alibaba Cloud's SDK, and signs with every algorithm. Both the gateway and openssl
// verify each signature, and the same signature over a digest that was tampered with. The exit
// status is 0 only if every result is right.
package main

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"text/tabwriter"
	"time"

	kms "github.com/alibabacloud-go/kms-20160120/v3/client"
	"github.com/alibabacloud-go/tea/tea"

	"github.com/kmsgate/kmsgate/hsm"
	"github.com/kmsgate/kmsgate/hsm/hsmtest"
	"github.com/kmsgate/kmsgate/integration/devgateway"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: demo KMSGATE")
		os.Exit(2)
	}
	if err := run(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

func run(binary string) (err error) {
	dir, err := os.MkdirTemp("", "kmsgate-demo-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	fmt.Println("Starting a gateway with a new SoftHSM token …")
	begin := time.Now()
	gateway, err := devgateway.Start(context.Background(), binary, dir+"/gateway")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, gateway.Stop()) }()
	took := time.Since(begin).Milliseconds()
	fmt.Printf("It serves on https://%s after %d ms.\n\n", gateway.Env["KMSGATE_ENDPOINT"], took)
	client, err := devgateway.SDK(gateway.Env)
	if err != nil {
		return err
	}
	return printTable(client, dir)
}

// printTable creates a key of each KeySpec, signs with each of its algorithms and prints a row for
// each of them. It returns an error if a result is wrong.
func printTable(client *kms.Client, dir string) error {
	out := tabwriter.NewWriter(os.Stdout, 0, 0, 3, ' ', 0)
	fmt.Fprintln(out, "KeySpec\tAlgorithm\tgateway says\topenssl says\ttampered digest\tms")
	wrong := 0
	for _, spec := range devgateway.KeySpecs {
		key, err := newKey(client, spec)
		if err != nil {
			return fmt.Errorf("creating a key of KeySpec %s: %w", spec, err)
		}
		for _, alg := range hsm.Algorithms(spec) {
			r, err := try(client, dir, key, alg)
			if err != nil {
				return fmt.Errorf("signing with KeySpec %s and Algorithm %s: %w", spec, alg, err)
			}
			if r != (row{gateway: true, openssl: true, took: r.took}) {
				wrong++
			}
			fmt.Fprintf(out, "%s\t%s\t%s\t%s\t%s\t%.1f\n", spec, alg, verdict(r.gateway), verdict(r.openssl),
				verdict(r.gatewayTampered || r.opensslTampered), float64(r.took.Microseconds())/1000)
		}
	}
	if err := out.Flush(); err != nil {
		return err
	}
	if wrong > 0 {
		return fmt.Errorf("%d rows of the table have a wrong result", wrong)
	}
	return nil
}

func verdict(valid bool) string {
	if valid {
		return "valid"
	}
	return "refused"
}

type key struct{ id, version, pem string }

func newKey(client *kms.Client, spec hsm.KeySpec) (k key, err error) {
	created, err := client.CreateKey(&kms.CreateKeyRequest{
		KeySpec: tea.String(string(spec)), KeyUsage: tea.String("SIGN/VERIFY"),
	})
	if err != nil {
		return k, err
	}
	k.id = tea.StringValue(created.Body.KeyMetadata.KeyId)
	listed, err := client.ListKeyVersions(&kms.ListKeyVersionsRequest{KeyId: &k.id})
	if err != nil {
		return k, err
	}
	k.version = tea.StringValue(listed.Body.KeyVersions.KeyVersion[0].KeyVersionId)
	public, err := client.GetPublicKey(&kms.GetPublicKeyRequest{KeyId: &k.id, KeyVersionId: &k.version})
	if err != nil {
		return k, err
	}
	k.pem = tea.StringValue(public.Body.PublicKey)
	return k, nil
}

// A row is one row of the table. The first two fields report whether the gateway and openssl
// accept a signature, the next two whether they accept it for a digest that was tampered with.
type row struct {
	gateway, openssl                 bool
	gatewayTampered, opensslTampered bool
	took                             time.Duration // of AsymmetricSign, over HTTPS
}

// try signs a random digest and has the gateway and openssl verify the signature.
func try(client *kms.Client, dir string, k key, alg hsm.Algorithm) (r row, err error) {
	digest := make([]byte, hsm.DigestSize)
	rand.Read(digest)
	begin := time.Now()
	signed, err := client.AsymmetricSign(&kms.AsymmetricSignRequest{
		KeyId: &k.id, KeyVersionId: &k.version, Algorithm: tea.String(string(alg)),
		Digest: tea.String(base64.StdEncoding.EncodeToString(digest)),
	})
	if err != nil {
		return r, err
	}
	r.took = time.Since(begin)
	signature, err := base64.StdEncoding.DecodeString(tea.StringValue(signed.Body.Value))
	if err != nil {
		return r, err
	}
	verify := func() (gateway, openssl bool, err error) {
		verified, err := client.AsymmetricVerify(&kms.AsymmetricVerifyRequest{
			KeyId: &k.id, KeyVersionId: &k.version, Algorithm: tea.String(string(alg)),
			Digest: tea.String(base64.StdEncoding.EncodeToString(digest)), Value: signed.Body.Value,
		})
		if err != nil {
			return false, false, err
		}
		openssl, err = hsmtest.OpenSSLVerify(dir, k.pem, alg, digest, signature)
		return tea.BoolValue(verified.Body.Value), openssl, err
	}
	if r.gateway, r.openssl, err = verify(); err != nil {
		return r, err
	}
	digest[0] ^= 1
	r.gatewayTampered, r.opensslTampered, err = verify()
	return r, err
}
