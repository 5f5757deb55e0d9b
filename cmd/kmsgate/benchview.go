package main

import (
	"crypto/x509"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/bench"
	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/cli"
	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/signer"
	"github.com/kmsgate/kmsgate/gateway/kms"
	"github.com/kmsgate/kmsgate/internal/printable"
)

// A measurement is one line of kmsgate bench, for programs.
type measurement struct {
	Operation, Key, KeySpec, Algorithm string
	Callers                            int
	Rate                               float64 `json:",omitempty"` // that was asked for, per second
	Seconds                            float64

	Requests  int64 // that were answered without an error
	PerSecond float64
	Errors    map[string]int64 `json:",omitempty"` // by code
	Unsent    int64            `json:",omitempty"` // due, but no caller was free
	Checked   int              // answers that were checked afterwards

	P50Milliseconds, P95Milliseconds, P99Milliseconds, P999Milliseconds, MaxMilliseconds float64

	// Processor time of a request.
	ClientMicroseconds float64
	ServerMicroseconds float64 `json:",omitempty"` // with --pid

	Token *tokenMeasurement `json:",omitempty"` // with --token
}

// A tokenMeasurement is the same load of signatures without requests.
type tokenMeasurement struct {
	Signatures         int64
	PerSecond          float64
	MedianMilliseconds float64
	ServerMicroseconds float64 `json:",omitempty"` // processor time of a signature, with --pid
	// PerSecondRatio is the endpoint's rate divided by the token's, and ProcessorRatio the processor
	// time of a request divided by that of a signature.
	PerSecondRatio float64
	ProcessorRatio float64 `json:",omitempty"` // with --pid
}

func measurementOf(k signer.Key, operation bench.Operation, load bench.Load, r bench.Result) measurement {
	return measurement{
		Operation: string(operation), Key: k.Name, KeySpec: string(k.Spec()), Algorithm: string(k.Algorithm),
		Callers: load.Callers, Rate: load.Rate, Seconds: rounded(r.Seconds),
		Requests: r.Calls, PerSecond: rounded(r.PerSecond()), Errors: r.Errors, Unsent: r.Unsent,
		P50Milliseconds: inMilliseconds(r.Latency(0.5)), P95Milliseconds: inMilliseconds(r.Latency(0.95)),
		P99Milliseconds: inMilliseconds(r.Latency(0.99)), P999Milliseconds: inMilliseconds(r.Latency(0.999)), MaxMilliseconds: inMilliseconds(r.Latency(1)),
		ClientMicroseconds: inMicroseconds(r.PerCall(r.ClientCPU)), ServerMicroseconds: inMicroseconds(r.PerCall(r.ServerCPU)),
	}
}

// compare adds what the token does without requests.
func (m *measurement) compare(r bench.Result) {
	m.Token = &tokenMeasurement{
		Signatures: r.Calls, PerSecond: rounded(r.PerSecond()), MedianMilliseconds: inMilliseconds(r.Latency(0.5)),
		ServerMicroseconds: inMicroseconds(r.PerCall(r.ServerCPU)), PerSecondRatio: rounded(m.PerSecond / r.PerSecond()),
	}
	if m.Token.ServerMicroseconds > 0 {
		m.Token.ProcessorRatio = rounded(m.ServerMicroseconds / m.Token.ServerMicroseconds)
	}
}

// rounded returns a number with four digits, which are more than a measurement has.
func rounded(x float64) float64 {
	if x == 0 || math.IsNaN(x) || math.IsInf(x, 0) {
		return 0
	}
	unit := math.Pow(10, 3-math.Floor(math.Log10(math.Abs(x))))
	return math.Round(x*unit) / unit
}

func inMilliseconds(d time.Duration) float64 { return rounded(float64(d) / float64(time.Millisecond)) }
func inMicroseconds(d time.Duration) float64 { return rounded(float64(d) / float64(time.Microsecond)) }

// A benchLine is a measurement for people. Latencies are in milliseconds, processor times in microseconds.
type benchLine struct {
	Operation, KeySpec string
	Callers            int
	PerSecond          string
	P50, P95, P99      string
	P999, Max          string
	ClientCPU          string
	ServerCPU          string
	TokenPerSecond     string
	OfToken            string
	Errors             string
}

// view shows all measurements. Columns that are empty in every line are left out.
func (b *benchRun) view() cli.View {
	var lines []benchLine
	for _, m := range b.measurements {
		lines = append(lines, m.line())
	}
	fields := []string{"Operation", "KeySpec", "Callers", "PerSecond", "P50", "P95", "P99", "P999", "Max", "ClientCPU"}
	if b.flags.load.PID != 0 {
		fields = append(fields, "ServerCPU")
	}
	if b.token != nil {
		fields = append(fields, "TokenPerSecond", "OfToken")
	}
	if slices.ContainsFunc(lines, func(l benchLine) bool { return l.Errors != "" }) {
		fields = append(fields, "Errors")
	}
	v := cli.ViewOfList(lines, fields...)
	v.Value = b.measurements
	if b.measurements == nil {
		return cli.View{}
	}
	v.Warnings = warnings(b.measurements)
	v.Next = "P50 to Max are milliseconds; ClientCPU and ServerCPU are microseconds of the processor for one request."
	return v
}

func (m measurement) line() benchLine {
	ms := func(x float64) string { return fmt.Sprintf("%.2f", x) }
	l := benchLine{
		Operation: m.Operation, KeySpec: m.KeySpec, Callers: m.Callers, PerSecond: fmt.Sprintf("%.0f", m.PerSecond),
		P50: ms(m.P50Milliseconds), P95: ms(m.P95Milliseconds), P99: ms(m.P99Milliseconds), P999: ms(m.P999Milliseconds), Max: ms(m.MaxMilliseconds),
		ClientCPU: fmt.Sprintf("%.0f", m.ClientMicroseconds), ServerCPU: fmt.Sprintf("%.0f", m.ServerMicroseconds),
	}
	if m.Token != nil {
		l.TokenPerSecond, l.OfToken = fmt.Sprintf("%.0f", m.Token.PerSecond), fmt.Sprintf("%.0f %%", 100*m.Token.PerSecondRatio)
	}
	var all []string
	for _, code := range slices.Sorted(maps.Keys(m.Errors)) {
		all = append(all, fmt.Sprintf("%s: %d", printable.Text(code), m.Errors[code]))
	}
	if m.Unsent > 0 {
		all = append(all, fmt.Sprintf("not sent: %d", m.Unsent))
	}
	l.Errors = strings.Join(all, ", ")
	return l
}

// warnings say what spoils a measurement, each once.
func warnings(all []measurement) (texts []string) {
	add := func(text string) {
		if !slices.Contains(texts, text) {
			texts = append(texts, text)
		}
	}
	for _, m := range all {
		if m.Errors[kms.ErrThrottling.Code] > 0 {
			add("the user's quota refused requests: raise it with kmsgate quota update, or give a lower --rate")
		}
		if m.Errors[bench.NoAnswer] > 0 {
			add("requests got no answer of the API: see the server's log, and any proxy in between")
		}
		if m.Unsent > 0 {
			add("no caller was free for some due requests: give more --callers or a lower --rate. The table lacks their latency")
		}
	}
	return texts
}

// failuresIn returns an error if requests failed.
func failuresIn(all []measurement) (err error) {
	var refused, unanswered int64
	for _, m := range all {
		for code, n := range m.Errors {
			if code == bench.NoAnswer {
				unanswered += n
			} else {
				refused += n
			}
		}
	}
	if unanswered > 0 {
		err = fmt.Errorf("%s got no answer of the API: see Errors", cli.Count(unanswered, "request"))
	}
	if refused > 0 {
		err = errors.Join(err, fmt.Errorf("%s %w: see Errors", cli.Count(refused, "request"), cli.ErrRefused))
	}
	return err
}

// adviseBench adds what helps to an error that ends a measurement.
func adviseBench(err error) error {
	var authority x509.UnknownAuthorityError
	switch {
	case errors.As(err, &authority):
		return fmt.Errorf("%w (give the CA of the endpoint with --ca-file)", err)
	case errors.Is(err, kms.ErrThrottling):
		return fmt.Errorf("%w (kmsgate quota update raises the quota of a user)", err)
	}
	return err
}
