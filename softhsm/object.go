package softhsm

import (
	"encoding/binary"
	"strings"
)

// The kinds of values in an object's file.
const (
	kindBool = iota + 1
	kindNumber
	kindBytes
	kindTemplate // its size in bytes, then attributes
	kindMechanisms
)

// The attributes of a token.object that identify the token.
const (
	tokenLabel  = 0x80005349 // CKA_OS_TOKENLABEL
	tokenSerial = 0x8000534a // CKA_OS_TOKENSERIAL
)

// wordSize is the size in bytes of every number in an object's file. Numbers are big-endian.
const wordSize = 8

// isComplete reports whether an object's file is complete. It has the number of its generation and
// then attributes, each with its type, the kind of its value and the value (ObjectFile.cpp of
// SoftHSM 2.6.1). A kill during a write leaves an empty file or only the beginning.
func isComplete(content []byte) bool {
	rest, ok := skip(content, wordSize)
	ok = ok && len(rest) > 0
	for ok && len(rest) > 0 {
		rest, ok = skipAttribute(rest)
	}
	return ok
}

// text returns the value of an attribute of a complete file without its padding of spaces. It
// returns "" if the file does not have the attribute.
func text(content []byte, attribute uint64) string {
	rest, ok := skip(content, wordSize)
	for ok && len(rest) > 0 {
		id, value, _ := number(rest)
		kind, value, _ := number(value)
		size, value, sized := number(value)
		if id == attribute && kind == kindBytes && sized && size <= uint64(len(value)) {
			return strings.TrimRight(string(value[:size]), " ")
		}
		rest, ok = skipAttribute(rest)
	}
	return ""
}

func skipAttribute(b []byte) (rest []byte, ok bool) {
	if b, ok = skip(b, wordSize); !ok {
		return nil, false
	}
	kind, b, ok := number(b)
	if !ok {
		return nil, false
	}
	size := uint64(1)
	switch kind {
	case kindBool:
	case kindNumber:
		size = wordSize
	case kindBytes, kindTemplate:
		size, b, ok = number(b)
	case kindMechanisms:
		size, b, ok = number(b)
		ok = ok && size <= uint64(len(b)) // keeps the multiplication from overflowing
		size *= wordSize
	default:
		return nil, false
	}
	if !ok {
		return nil, false
	}
	return skip(b, size)
}

func number(b []byte) (n uint64, rest []byte, ok bool) {
	if len(b) < wordSize {
		return 0, nil, false
	}
	return binary.BigEndian.Uint64(b), b[wordSize:], true
}

func skip(b []byte, n uint64) (rest []byte, ok bool) {
	if uint64(len(b)) < n {
		return nil, false
	}
	return b[n:], true
}
