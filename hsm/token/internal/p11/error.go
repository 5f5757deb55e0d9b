package p11

import (
	"errors"
	"fmt"
	"runtime/debug"

	"github.com/miekg/pkcs11"
)

// An Error is an error of the PKCS#11 module. Only after an Error may the session be in an
// unknown state.
type Error struct {
	Call string // the function called, or the use that was made of its answer
	Err  error  // a pkcs11.Error, or a description of the wrong answer
}

func (e *Error) Error() string { return e.Call + ": " + e.Err.Error() }
func (e *Error) Unwrap() error { return e.Err }

// Wrap marks an error as the module's. It returns nil if err is nil.
func Wrap(call string, err error) error {
	if err == nil {
		return nil
	}
	return &Error{call, err}
}

// IsError reports whether err is an error of the module.
func IsError(err error) bool {
	var e *Error
	return errors.As(err, &e)
}

// Cause returns the module's error without the [Error] around it. It is for errors after
// which the session is still in a known state.
func Cause(err error) error {
	var e *Error
	if errors.As(err, &e) {
		return e.Err
	}
	return err
}

// Is reports whether err contains one of the given PKCS#11 return values.
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

// HandleErrors are the return values for an unknown object handle.
var HandleErrors = []pkcs11.Error{pkcs11.CKR_OBJECT_HANDLE_INVALID, pkcs11.CKR_KEY_HANDLE_INVALID}

// Protect calls f, which uses answers of the module. If f panics or faults, an answer was
// invalid, and Protect returns an Error.
func Protect(f func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			err = Wrap("using an answer of the module", fmt.Errorf("panic: %v", p))
		}
	}()
	return f()
}
