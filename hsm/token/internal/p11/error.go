package p11

import (
	"errors"
	"fmt"
	"runtime/debug"

	"github.com/miekg/pkcs11"
)

// An Error is an error that came out of the PKCS#11 module. Only such an error is a
// reason to doubt the session that it was met with.
type Error struct {
	Call string // the function that was called, or what was done with its answer
	Err  error  // a pkcs11.Error, or what is wrong with the answer
}

func (e *Error) Error() string { return e.Call + ": " + e.Err.Error() }
func (e *Error) Unwrap() error { return e.Err }

// Wrap marks an error as the module's; nil stays nil.
func Wrap(call string, err error) error {
	if err == nil {
		return nil
	}
	return &Error{call, err}
}

// IsError reports whether err came out of the module.
func IsError(err error) bool {
	var e *Error
	return errors.As(err, &e)
}

// Cause returns what the module said, without the mark of an [Error]: it is for an
// answer that is no reason to doubt the session.
func Cause(err error) error {
	var e *Error
	if errors.As(err, &e) {
		return e.Err
	}
	return err
}

// Is reports whether err is one of the PKCS#11 return values.
func Is(err error, codes ...pkcs11.Error) bool {
	var code pkcs11.Error
	if !errors.As(err, &code) {
		return false
	}
	for _, c := range codes {
		if code == c {
			return true
		}
	}
	return false
}

// HandleErrors are the codes by which a token says that it knows no object by a handle.
var HandleErrors = []pkcs11.Error{pkcs11.CKR_OBJECT_HANDLE_INVALID, pkcs11.CKR_KEY_HANDLE_INVALID}

// Safely does f, which makes use of what the module answered. If f panics or faults,
// that is an Error: the answer was nonsense.
func Safely(f func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			err = Wrap("using what the module answered", fmt.Errorf("%v", p))
		}
	}()
	return f()
}
