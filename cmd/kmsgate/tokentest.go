package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/cli"
	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/target"
	"github.com/kmsgate/kmsgate/hsm"
)

// viewOfTrials shows the result of testing a token that belongs to no gateway.
func viewOfTrials(s hsm.Survey, _ map[string]string) (cli.View, error) {
	v := cli.ViewOfList(offersOf(s))
	v.Value = s.Offers
	if s.Sealing == "" {
		return v, errors.New("kmsgate cannot use this token: it has neither CKM_AES_GCM nor CKM_SHA256_HMAC, which sealing needs")
	}
	return v, nil
}

// A keyTest is the result of testing a key version.
type keyTest struct {
	KeyId              string
	KeyVersionId       string
	KeySpec            string
	Signatures         int
	MinMilliseconds    float64
	MedianMilliseconds float64
	MaxMilliseconds    float64
	Error              string
}

func testKeys(ctx context.Context, c target.Caller, parameters map[string]string) (cli.View, error) {
	versions, err := target.EveryKeyVersion(ctx, c)
	if err != nil {
		return cli.View{}, err
	}
	var good, failed []keyTest
	for _, v := range versions {
		answer, err := target.TestKeyVersion(ctx, c, v, parameters["Count"])
		if ctx.Err() != nil {
			return cli.View{}, err
		}
		t := keyTest{KeyId: answer.KeyId, KeyVersionId: answer.KeyVersionId, KeySpec: string(answer.KeySpec), Signatures: answer.Signatures,
			MinMilliseconds: answer.MinMilliseconds, MedianMilliseconds: answer.MedianMilliseconds, MaxMilliseconds: answer.MaxMilliseconds}
		if err != nil {
			t.Error = err.Error()
			failed = append(failed, t)
			continue
		}
		good = append(good, t)
	}
	v := cli.ViewOfList(append(good, failed...))
	if failed != nil {
		return v, fmt.Errorf("%d of %d key versions do not sign correctly: run kmsgate doctor", len(failed), len(versions))
	}
	return v, nil
}

// readCount refuses a count that the gateway would refuse for every key version.
func readCount(_ *cobra.Command, values []string) (string, error) {
	if n, err := strconv.Atoi(values[0]); err != nil || n < 1 || n > 100 {
		return "", fmt.Errorf("--count %q: must be 1 to 100", values[0])
	}
	return values[0], nil
}
