package gateway_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/kmsgate/kmsgate/gateway/audit"
	"github.com/kmsgate/kmsgate/gateway/keypair"
)

// judge returns what was wrong in a run. It must be called outside the bubble, whose clock would
// not end the search for an order.
func (s *simulation) judge() []failure {
	if s.ended == "" {
		return append(s.failures, failure{kind: "the program did not run to its end"})
	}
	lines := s.readLog()
	s.checkLines(lines)
	s.checkHistory(lines)
	return s.failures
}

// readLog verifies the audit log and returns its lines about requests. An intended line has the status of a
// request that succeeded, unless another line says that its result was not released: only that line is returned.
func (s *simulation) readLog() (lines []audit.Line) {
	paths, err := audit.Files(filepath.Join(s.ended, logName))
	if err != nil {
		s.fail("the log cannot be read", "%v", err)
	}
	notReleased := make(map[uint64]bool)
	var files []audit.File
	for _, path := range paths {
		content, err := os.ReadFile(path)
		if err == nil {
			err = audit.Read(bytes.NewReader(content), func(line audit.Line) error {
				if e := line.Entry; e != nil {
					if notReleased[e.NotReleased] = true; e.Intended {
						e.Status = 200
					}
					lines = append(lines, line)
					return nil
				}
				for _, seq := range line.Event.Unanswered {
					s.withheld[seq] = true
				}
				return nil
			})
		}
		if err != nil {
			s.fail("the log cannot be read", "%v", err)
		}
		files = append(files, audit.File{Name: filepath.Base(path), Reader: bytes.NewReader(content)})
	}
	if _, err := (audit.Verifier{}).Verify(files...); err != nil {
		s.fail("the log does not verify", "%v", err)
	}
	return slices.DeleteFunc(lines, func(line audit.Line) bool { return notReleased[line.Seq] })
}

// linesOf returns the lines by the reference of their call.
func linesOf(lines []audit.Line) map[string][]audit.Line {
	own := make(map[string][]audit.Line)
	for _, line := range lines {
		own[line.Entry.Reference] = append(own[line.Entry.Reference], line)
	}
	return own
}

// succeeded returns how many lines say that a request was carried out.
func succeeded(lines []audit.Line) (n int) {
	for _, line := range lines {
		if line.Entry.Status == 200 {
			n++
		}
	}
	return n
}

// tells reports whether a line tells of the answer to a call. If the line is unanswered, it tells of
// the result that the call did not get.
func (s *simulation) tells(line audit.Line, c *modelCall) bool {
	e := line.Entry
	if e.Action != c.req.action || e.Late {
		return false
	}
	if s.withheld[line.Seq] {
		return e.Status == 200 && c.status != 200
	}
	return e.Status == c.status && e.Code == c.code
}

// isOutage reports whether the gateway did not answer, or answered that it cannot serve now.
func (c *modelCall) isOutage() bool { return !c.answered || c.status >= 500 }

// checkLines checks that the log has one line for each answer, in an order that agrees with the
// order of the calls. No change has two lines that say that it was carried out.
func (s *simulation) checkLines(lines []audit.Line) {
	own := linesOf(lines)
	type position struct {
		call *modelCall
		seq  uint64
	}
	var positions []position
	for _, c := range s.calls {
		its := own[c.reference]
		switch {
		case c.req.action == passTime:
		case !c.isOutage():
			if len(its) != 1 || !s.tells(its[0], c) {
				s.fail("an answer does not have one line", "%+v: %s", c, linesText(its))
				continue
			}
			positions = append(positions, position{c, its[0].Seq})
		case slices.Contains(modelReads, c.req.action):
		case c.carriedOut && succeeded(its) != 1, succeeded(its) > 1:
			s.fail("a change does not have one line", "%+v: %s", c, linesText(its))
		}
	}
	for _, a := range positions {
		for _, b := range positions {
			if a.call.ended < b.call.began && a.seq > b.seq {
				s.fail("the lines are not in the order of the calls", "%+v has line %d, the later %+v has line %d", a.call, a.seq, b.call, b.seq)
				return
			}
		}
	}
}

func linesText(lines []audit.Line) string {
	var text strings.Builder
	for _, line := range lines {
		fmt.Fprintf(&text, "%d %+v; ", line.Seq, *line.Entry)
	}
	return text.String()
}

// checkHistory checks that the answers are those of the model in some order that agrees with the
// order of the calls.
func (s *simulation) checkHistory(lines []audit.Line) {
	history := s.history(lines)
	switch result := porcupine.CheckOperationsTimeout(recordsModel, history, time.Minute); result {
	case porcupine.Ok:
	case porcupine.Illegal:
		s.fail("the answers are not those of the model in any order", "%s", explain(history))
	default:
		s.fail("the answers were not judged within a minute", "%s: %d operations", result, len(history))
	}
}

// gatewayClient is the number of the gateway itself among the clients of a history.
const gatewayClient = 100

// history returns the operations that porcupine orders. A change that got no answer, or an error of
// the gateway, was carried out if and only if the log says so, because every change has a line.
func (s *simulation) history(lines []audit.Line) (history []porcupine.Operation) {
	end := s.order.Add(1)
	own := linesOf(lines)
	for _, c := range s.calls {
		its := own[c.reference]
		req, code, ended := c.req, c.code, c.ended
		if c.isOutage() {
			if slices.Contains(modelReads, req.action) || succeeded(its) == 0 {
				continue
			}
			code = ok
			if !c.carriedOut {
				ended = end
			}
		}
		add := func(req modelInput, answer modelOutput) {
			history = append(history, porcupine.Operation{ClientId: c.client, Input: req, Call: c.began, Output: answer, Return: ended})
		}
		if c.named != "" {
			// The key that an alias names is looked up at one moment, and changed at a later one.
			if code != "Forbidden.AliasNotFound" && len(its) > 0 {
				req.keyId = its[len(its)-1].Entry.KeyId
			}
			add(modelInput{action: resolveAlias, alias: c.named}, modelOutput{value: req.keyId})
			if req.keyId == "" {
				continue
			}
		}
		if c.isOutage() {
			add(req, modelOutput{})
			continue
		}
		add(req, modelOutput{code, c.value})
	}
	for _, line := range lines {
		e := line.Entry
		if e.Action == deleteKey && e.Principal == keypair.GatewayPrincipal && e.Status == 200 {
			history = append(history, porcupine.Operation{ClientId: gatewayClient,
				Input: modelInput{action: deleteKey, keyId: e.KeyId}, Output: modelOutput{}, Return: end})
		}
	}
	return history
}

// explain returns the longest order that the model accepts, and the operations that do not fit
// into it.
func explain(history []porcupine.Operation) string {
	_, info := porcupine.CheckOperationsVerbose(recordsModel, history, time.Minute)
	var longest []porcupine.Operation
	for _, order := range info.PartialLinearizationsOperations()[0] {
		if len(order) > len(longest) {
			longest = order
		}
	}
	var text strings.Builder
	fits := make(map[porcupine.Operation]bool)
	text.WriteString("the longest order that the model accepts:\n")
	for _, o := range longest {
		fits[o] = true
		text.WriteString(operationText(o))
	}
	text.WriteString("operations that do not fit into it:\n")
	for _, o := range history {
		if !fits[o] {
			text.WriteString(operationText(o))
		}
	}
	return text.String()
}

func operationText(o porcupine.Operation) string {
	return fmt.Sprintf("  client %d [%d, %d] %+v: %+v\n", o.ClientId, o.Call, o.Return, o.Input, o.Output)
}
