package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/bench"
	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/cli"
	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/target"
	"github.com/kmsgate/kmsgate/gateway/apiclient"
	"github.com/kmsgate/kmsgate/hsm"
	"github.com/kmsgate/kmsgate/internal/dev"
)

// benchFlags are the flags of kmsgate bench.
type benchFlags struct {
	endpoint, caFile, config, dir string
	keys, operations              *cli.Parameter
	version                       string
	algorithm                     *cli.Parameter
	callers                       []int
	load                          bench.Load
	token                         bool
}

func (a *operator) benchCommand() *cobra.Command {
	var f benchFlags
	cmd := &cobra.Command{
		Use: "bench", Short: "Measure how many requests an endpoint answers, and how fast",
		Long: `Measure how many requests a gateway, or KMS, answers, and how fast. The endpoint is the
kmsgate dev in --dir, or --endpoint with the access key in ALIBABA_CLOUD_ACCESS_KEY_ID and
ALIBABA_CLOUD_ACCESS_KEY_SECRET. The requests are real: a signature leaves an audit line,
and counts against the user's quotas.

Each key, operation and number of callers is measured separately. A caller sends its next
request when it has the answer (closed loop). With --rate, requests are due at that rate,
and a latency counts from the due time (open loop). So the figures include the wait during
a stall. Afterwards, some answers to each caller are checked: signatures are verified with
the public key.

--pid also measures the processor time of the server. --token has the gateway sign without
requests, as kmsgate token test does, and shows the ratio: how much of the token's rate
the endpoint reaches. --token needs --dir, or the --config of the running gateway.`,
		Example: `  kmsgate bench --dir ./kms --key alias/dev-ec-p256 --callers 1,8,32 --token
  kmsgate bench --endpoint kms.example:443 --ca-file ca.pem --key alias/release --rate 500 -o json`,
		Args: cli.Arguments(""),
		RunE: func(cmd *cobra.Command, _ []string) error { return a.bench(cmd, &f) },
	}
	f.addTo(a.App, cmd)
	return cmd
}

func (f *benchFlags) addTo(app *cli.App, cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&f.endpoint, "endpoint", "", "`HOST`[:PORT] of a gateway, or of KMS")
	flags.StringVar(&f.caFile, "ca-file", "", "`FILE` with the CA of --endpoint, in PEM (default: the system's)")
	flags.StringVar(&f.dir, "dir", "", "`DIR` of a running kmsgate dev")
	flags.StringVar(&f.config, "config", "", "configuration `FILE` of the gateway at --endpoint, for --token")
	f.keys = &cli.Parameter{Flag: "key", Kind: "KEY", Many: true, Usage: "a key: a KeyId, an alias or an ARN (default: those of the kmsgate dev in --dir)"}
	f.operations = &cli.Parameter{Flag: "operation", Kind: "NAME", Many: true, Usage: "an operation (default: sign)"}
	for _, o := range bench.Operations {
		f.operations.Choices = append(f.operations.Choices, string(o))
	}
	f.algorithm = &cli.Parameter{Flag: "algorithm", Kind: "ALGORITHM", Values: []string{""}, Usage: "the algorithm (default: the first that fits the key)", Choices: allAlgorithms()}
	app.AddFlag(cmd, f.keys)
	app.AddFlag(cmd, f.operations)
	app.AddFlag(cmd, f.algorithm)
	flags.StringVar(&f.version, "version", "", "`ID` of the key's version (default: the newest)")
	flags.IntSliceVar(&f.callers, "callers", []int{1, 8, 32}, "how many callers there are: `N,N…`")
	flags.Float64Var(&f.load.Rate, "rate", 0, "open loop: `N` requests a second are due, with at most --callers in flight")
	flags.DurationVar(&f.load.Time, "time", 10*time.Second, "how long each load is measured")
	flags.DurationVar(&f.load.WarmUp, "warm-up", 2*time.Second, "how long each load runs before that")
	flags.IntVar(&f.load.PID, "pid", 0, "`PID` of the server on this machine, to measure its processor time")
	flags.BoolVar(&f.token, "token", false, "also measure the token without requests, and show the ratio")
	cmd.MarkFlagsOneRequired("endpoint", "dir")
	cmd.MarkFlagsMutuallyExclusive("endpoint", "dir")
	cmd.MarkFlagsMutuallyExclusive("config", "dir")
	cmd.MarkFlagsMutuallyExclusive("ca-file", "dir")
	cmd.MarkFlagsMutuallyExclusive("token", "rate")
}

// check refuses flags that have no meaning.
func (f *benchFlags) check() error {
	for _, n := range f.callers {
		if n < 1 || n > maxCallers {
			return cli.Usagef("--callers %d: must be 1 to %d", n, maxCallers)
		}
	}
	switch {
	case len(f.callers) == 0:
		return cli.Usagef("--callers is empty: give a number")
	case f.load.Time <= 0 || f.load.WarmUp < 0:
		return cli.Usagef("--time must be more than 0, and --warm-up must not be negative")
	case f.load.Rate < 0:
		return cli.Usagef("--rate %v: must be more than 0", f.load.Rate)
	case f.token && f.config == "" && f.dir == "":
		return cli.Usagef("--token needs the gateway's --config, or --dir")
	case f.version != "" && len(f.keys.Values) != 1:
		return cli.Usagef("--version needs one --key")
	}
	return nil
}

// maxCallers is the maximum of --callers. A process may open 1,024 files by default.
const maxCallers = 1000

// connect returns what a client of the endpoint needs, and the keys to use.
func (f *benchFlags) connect() (cfg apiclient.Config, keys []string, err error) {
	if f.dir == "" {
		if len(f.keys.Values) == 0 {
			return cfg, nil, cli.Usagef("--key is missing: give a key of the endpoint")
		}
		cfg, err = target.Target{Endpoint: f.endpoint, CAFile: f.caFile}.EndpointConfig(os.Getenv)
		return cfg, f.keys.Values, err
	}
	env, err := dev.ReadEnvironment(f.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return cfg, nil, fmt.Errorf("%w in %q: start it with kmsgate dev --dir %s (%w)", target.ErrUnreachable, f.dir, f.dir, err)
	}
	if err != nil {
		return cfg, nil, err
	}
	keys = f.keys.Values
	if len(keys) == 0 {
		for _, spec := range hsm.KeySpecs() {
			if id := env.Get("KMSGATE_KEY_" + string(spec)); id != "" {
				keys = append(keys, id)
			}
		}
	}
	cfg, err = target.Target{Endpoint: env.Get("KMSGATE_ENDPOINT"), CAFile: env.Get("KMSGATE_CA_FILE")}.EndpointConfig(env.Get)
	return cfg, keys, err
}

func (a *operator) bench(cmd *cobra.Command, f *benchFlags) (err error) {
	if err := f.check(); err != nil {
		return err
	}
	cfg, names, err := f.connect()
	if err != nil {
		return err
	}
	b := benchRun{flags: f, line: cli.NewStatusLine(cmd.ErrOrStderr())}
	if b.endpoint, err = bench.NewEndpoint(cfg); err != nil {
		return err
	}
	if f.token {
		if b.token, err = (target.Target{Config: f.config, Dir: f.dir}).DialRunning(); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, b.token.Close()) }()
	}
	keys, err := findKeys(cmd.Context(), cfg, names, f)
	if err != nil {
		return adviseBench(err)
	}
	if err = b.measureAll(cmd.Context(), keys); err == nil {
		err = failuresIn(b.measurements)
	}
	b.line.End()
	// An error leaves the figures that were measured before it.
	return errors.Join(a.Print(cmd, b.view()), adviseBench(err))
}
