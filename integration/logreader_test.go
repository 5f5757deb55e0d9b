package integration

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"os"
	"regexp"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/kmsgate/kmsgate/integration/devgateway"
)

// startLogging starts a dev gateway that logs every request to a pipe, and returns the end that a
// reader of the log has.
func startLogging(t *testing.T) (*devgateway.Gateway, *os.File) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	g, err := devgateway.StartLogging(t.Context(), binary, t.TempDir()+"/gateway", w, "--verbose")
	w.Close() // the gateway has it
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = g.Kill() }) // it may have exited already
	return g, r
}

// stopInTime stops a gateway, which must exit with status 0.
func stopInTime(t *testing.T, g *devgateway.Gateway) {
	t.Helper()
	stopped := make(chan error, 1)
	go func() { stopped <- g.Stop() }()
	select {
	case err := <-stopped:
		if err != nil {
			t.Errorf("after SIGTERM: %v, want exit status 0", err)
		}
	case <-time.After(time.Minute):
		t.Error("the gateway has not stopped a minute after SIGTERM")
	}
}

// droppedLines returns how many lines of its log the gateway has dropped.
func droppedLines(t *testing.T, g *devgateway.Gateway) int {
	t.Helper()
	_, metrics := observe(t, g.Env, "/metrics")
	m := regexp.MustCompile(`(?m)^kmsgate_log_lines_dropped_total (\S+)$`).FindStringSubmatch(metrics)
	if m == nil {
		t.Fatalf("the gateway has no metric of dropped lines:\n%s", metrics)
	}
	n, err := strconv.ParseFloat(m[1], 64)
	if err != nil {
		t.Fatal(err)
	}
	return int(n)
}

// fillLog sends requests that the gateway refuses and logs, until it drops lines of its log. All of
// them must be answered.
func fillLog(t *testing.T, g *devgateway.Gateway) {
	t.Helper()
	ca, err := os.ReadFile(g.Env["KMSGATE_CA_FILE"])
	if err != nil {
		t.Fatal(err)
	}
	client := &http.Client{Timeout: time.Minute, Transport: &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: pool(t, string(ca))}, MaxIdleConnsPerHost: 8}}
	defer client.CloseIdleConnections()
	refused := func() error {
		resp, err := client.Get("https://" + g.Env["KMSGATE_ENDPOINT"] + "/?Action=DescribeRegions")
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if _, err := io.Copy(io.Discard, resp.Body); err != nil {
			return err
		}
		if resp.StatusCode < 400 || resp.StatusCode >= 500 {
			return fmt.Errorf("an unsigned request got status %d", resp.StatusCode)
		}
		return nil
	}
	const callers, requests = 8, 100 // a round
	for rounds := 0; droppedLines(t, g) == 0; rounds++ {
		if rounds == 100 {
			t.Fatalf("the gateway dropped no line of its log in %d requests", rounds*callers*requests)
		}
		var all sync.WaitGroup
		for range callers {
			all.Go(func() {
				for range requests {
					if err := refused(); err != nil {
						t.Error(err)
						return
					}
				}
			})
		}
		all.Wait()
		if t.Failed() {
			t.FailNow()
		}
	}
}

// checkServes checks that a gateway signs and is ready.
func checkServes(t *testing.T, g *devgateway.Gateway) {
	t.Helper()
	signAll(t, g)
	if status, body := observe(t, g.Env, "/ready"); status != http.StatusOK {
		t.Errorf("/ready: got %d %s, want 200", status, body)
	}
}

// TestLogReaderStalls has nobody read the log. The gateway must serve, reconnect to its token, and
// stop.
func TestLogReaderStalls(t *testing.T) {
	t.Parallel()
	g, _ := startLogging(t)
	fillLog(t, g)
	checkServes(t, g)
	if err := os.Rename(g.Dir+"/softhsm/tokens", g.Dir+"/away"); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the gateway to notice the loss of its token", func() bool {
		status, _ := observe(t, g.Env, "/ready")
		return status == http.StatusServiceUnavailable
	})
	if err := os.Rename(g.Dir+"/away", g.Dir+"/softhsm/tokens"); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the gateway to be ready again", func() bool {
		status, _ := observe(t, g.Env, "/ready")
		return status == http.StatusOK
	})
	checkServes(t, g)
	stopInTime(t, g)
}

// TestLogReaderReturns has nobody read the log for a while, and then never again. The log must
// report the lines that it lacks, and the gateway must serve and stop.
func TestLogReaderReturns(t *testing.T) {
	t.Parallel()
	g, r := startLogging(t)
	fillLog(t, g)
	report := regexp.MustCompile(`(\d+) log lines were dropped because standard error could not be written`)
	if err := r.SetReadDeadline(time.Now().Add(5 * time.Minute)); err != nil {
		t.Fatal(err)
	}
	var found [][]byte
	lines := bufio.NewScanner(r)
	for found == nil && lines.Scan() {
		found = report.FindSubmatch(lines.Bytes())
	}
	if found == nil {
		t.Fatalf("the log reports no dropped lines: %v", lines.Err())
	}
	reported, err := strconv.Atoi(string(found[1]))
	if dropped := droppedLines(t, g); err != nil || reported == 0 || reported > dropped {
		t.Errorf("the log reports %d dropped lines, %v, but the gateway counts %d", reported, err, dropped)
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	before := droppedLines(t, g)
	checkServes(t, g)
	waitFor(t, "lines to be dropped because the reader is gone", func() bool { return droppedLines(t, g) > before })
	checkServes(t, g)
	stopInTime(t, g)
}
