package doctor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/target"
	"github.com/kmsgate/kmsgate/gateway/kms"
	"github.com/kmsgate/kmsgate/internal/config"
)

// open connects to the gateway, or opens a stopped one. It reports whether it succeeded. If
// something hangs already, it does not open a stopped gateway, which would hang, too.
func (e *examination) open(ctx context.Context) bool {
	if e.gateway == nil && !e.dial(ctx) {
		return false
	}
	e.found.Findings = append(e.found.Findings, e.ca...)
	return true
}

func (e *examination) dial(ctx context.Context) bool {
	type opened struct {
		caller target.Caller
		err    error
	}
	onlyRunning := len(e.found.late) > 0
	s := step{"Connecting to the gateway", gatewayAdvice}
	if e.config != nil && !onlyRunning {
		s = step{"Opening the instance with its database and its token", tokenAdvice + "; " + fileAdvice}
	}
	limited, cancel := share(ctx, 0.75)
	defer cancel()
	o, ok := start(s, func() opened {
		caller, err := e.Dial(onlyRunning)
		if err == nil && limited.Err() != nil { // nobody waits for it any more
			return opened{nil, errors.Join(limited.Err(), caller.Close())}
		}
		return opened{caller, err}
	}).wait(limited)
	switch {
	case !ok, o.err != nil && limited.Err() != nil:
		e.found.late = append(e.found.late, s)
	case o.err == nil:
		e.gateway = o.caller
		return true
	case onlyRunning:
		e.found.skipped = append(e.found.skipped, "The token and the database were not examined.")
	default:
		e.cannotOpen(ctx, o.err)
	}
	return false
}

// cannotOpen reports why the instance could not be opened. If another finding is the cause, it
// does so beneath that.
func (e *examination) cannotOpen(ctx context.Context, err error) {
	e.found.openErr = err
	var mistakes config.Mistakes
	var owner *target.OwnerError
	switch {
	case errors.As(err, &mistakes): // examineFiles has reported them
		e.found.note("correct the configuration and run kmsgate doctor again",
			"The token and the database were not examined.")
	case errors.As(err, &owner):
		e.found.problem(e.runAs(owner.UID), "The token and the database were not examined: the gateway is stopped, its "+
			"directory %q belongs to %s, and only that user can open the instance.", owner.Dir, describeUser(ctx, owner.UID))
	case e.found.symptom(err, fmt.Sprintf("The instance cannot be opened: %v.", err)):
	case e.config == nil && errors.Is(err, fs.ErrPermission):
		e.found.problem(e.runAs(0), "The gateway cannot be reached: %v.", err)
	default:
		e.found.problem("correct this and run kmsgate doctor again; the token and the database were not examined",
			"The instance cannot be opened: %v.", err)
	}
}

// answers reports whether the gateway answers this user. Otherwise each of the following
// requests would fail for the same reason.
func (e *examination) answers(ctx context.Context) bool {
	ctx, cancel := share(ctx, 0.5)
	defer cancel()
	limit, cancelLimit := share(ctx, 0.9)
	defer cancelLimit()
	s := step{"Waiting for the gateway's first answer", gatewayAdvice}
	err, ok := start(s, func() error { return e.gateway.Call(limit, "ListKmsInstances", nil, nil) }).wait(ctx)
	switch {
	case !ok, err != nil && limit.Err() != nil:
		e.found.late = append(e.found.late, s)
	case err == nil:
		return true
	case errors.Is(err, kms.ErrNoPermission):
		e.found.problem(e.runAs(0)+"; or run it as the gateway's user",
			"The gateway does not answer your requests, because you are neither root nor the gateway's user: %v.", err)
	case e.found.symptom(err, fmt.Sprintf("The gateway refuses every request: %v.", err)):
	default:
		e.found.problem("look for the reason in the gateway's log, and run kmsgate doctor again",
			"The gateway refuses every request: %v.", err)
	}
	return false
}
