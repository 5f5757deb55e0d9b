package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/bench"
	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/cli"
	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/signer"
	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/target"
	"github.com/kmsgate/kmsgate/gateway/apiclient"
	"github.com/kmsgate/kmsgate/gateway/kms"
	"github.com/kmsgate/kmsgate/hsm"
)

// findKeys looks up the keys. It fails early if the endpoint or the access key does not work.
func findKeys(ctx context.Context, cfg apiclient.Config, names []string, f *benchFlags) (keys []signer.Key, err error) {
	c, err := apiclient.New(cfg)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	for _, name := range names {
		k, err := signer.Client{Caller: c}.Find(ctx, name, f.version, f.algorithm.Value())
		if err != nil {
			return nil, fmt.Errorf("finding key %q: %w", name, err)
		}
		keys = append(keys, k)
	}
	return keys, nil
}

// A benchRun is a kmsgate bench while it runs.
type benchRun struct {
	flags        *benchFlags
	endpoint     *bench.Endpoint
	token        target.Caller // nil without --token
	line         *cli.StatusLine
	measurements []measurement
}

func (b *benchRun) measureAll(ctx context.Context, keys []signer.Key) error {
	operations := b.flags.operations.Values
	if len(operations) == 0 {
		operations = []string{string(bench.Sign)}
	}
	for _, k := range keys {
		for _, operation := range operations {
			for _, n := range b.flags.callers {
				if err := b.measure(ctx, k, bench.Operation(operation), n); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// measure measures the endpoint and, with --token, a signature of the token.
func (b *benchRun) measure(ctx context.Context, k signer.Key, operation bench.Operation, callers int) error {
	load := b.flags.load
	load.Callers = callers
	load.Progress = b.progress(fmt.Sprintf("%s %s, %s", k.Spec(), operation, cli.Count(callers, "caller")), load)
	work := bench.Work{Endpoint: b.endpoint, Operation: operation, Key: bench.Key{
		KeyId: k.Name, KeyVersionId: k.KeyVersionId, Algorithm: k.Algorithm, Key: hsm.Key{Spec: k.Spec(), Public: k.Public()}}}
	result, err := load.Run(ctx, work.Connect)
	if err != nil {
		return err
	}
	m := measurementOf(k, operation, load, result)
	if m.Checked, err = work.Check(); err != nil {
		return err // the figures of wrong answers are worth nothing
	}
	b.measurements = append(b.measurements, m)
	if err := result.Check(); err != nil || b.token == nil || operation != bench.Sign {
		return err
	}
	load.Progress = b.progress(fmt.Sprintf("%s token, %s", k.Spec(), cli.Count(callers, "caller")), load)
	result, err = load.RunToken(ctx, func(ctx context.Context, count int) (time.Duration, error) {
		version := kms.KeyVersionItem{KeyId: k.KeyId, KeyVersionId: k.KeyVersionId}
		answer, err := target.TestKeyVersion(ctx, b.token, version, strconv.Itoa(count))
		return time.Duration(answer.MedianMilliseconds * float64(time.Millisecond)), err
	})
	if err != nil {
		return fmt.Errorf("measuring the token: %w", err)
	}
	b.measurements[len(b.measurements)-1].compare(result)
	return nil
}

// progress shows the rate so far.
func (b *benchRun) progress(title string, load bench.Load) func(time.Duration, int64) {
	total := load.WarmUp + load.Time
	return func(elapsed time.Duration, ended int64) {
		b.line.Show("%s: %.0f of %.0f s, %.0f per second", title, elapsed.Seconds(), total.Seconds(), float64(ended)/elapsed.Seconds())
	}
}
