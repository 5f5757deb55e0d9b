package signer

import (
	"bytes"
	"encoding/asn1"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"math/big"
	"strings"

	"github.com/kmsgate/kmsgate/hsm"
)

// An Encoding is a form of signatures in files and on terminals.
type Encoding struct {
	Text string // one of Encodings
	// RS is r and s, 32 big-endian bytes each, instead of the ASN.1 that the API has. It is for
	// ECDSA and SM2 only.
	RS bool
}

// Encodings are the values of Encoding.Text. Raw and der have no line break at their end; der is raw
// for ECDSA and SM2, whose signatures are ASN.1.
var Encodings = []string{"base64", "hex", "raw", "der"}

// Check returns an error if signatures of a key have no such form.
func (e Encoding) Check(k Key) error {
	if e.RS && e.Text == "der" {
		return errors.New("r and s are not DER: give --rs or --encoding der")
	}
	if e.RS || e.Text == "der" {
		return k.checkRS()
	}
	return nil
}

// Encode encodes a signature, as Client.Sign returns it.
func (e Encoding) Encode(k Key, signature []byte) ([]byte, error) {
	if err := e.Check(k); err != nil {
		return nil, err
	}
	if e.RS {
		var rs struct{ R, S *big.Int }
		rest, err := asn1.Unmarshal(signature, &rs)
		if err != nil || len(rest) > 0 || rs.R.Sign() <= 0 || rs.S.Sign() <= 0 || rs.R.BitLen() > 256 || rs.S.BitLen() > 256 {
			return nil, errors.New("the signature is not a SEQUENCE of r and s")
		}
		signature = append(rs.R.FillBytes(make([]byte, 32)), rs.S.FillBytes(make([]byte, 32))...)
	}
	switch e.Text {
	case "hex":
		return fmt.Appendln(nil, hex.EncodeToString(signature)), nil
	case "raw", "der":
		return signature, nil
	}
	return fmt.Appendln(nil, base64.StdEncoding.EncodeToString(signature)), nil
}

// Decode is the inverse of Encode. White space around base64 and hex does not count.
func (e Encoding) Decode(k Key, text []byte) (signature []byte, err error) {
	if err := e.Check(k); err != nil {
		return nil, err
	}
	switch e.Text {
	case "raw", "der":
		signature = bytes.Clone(text)
	case "hex":
		signature, err = hex.DecodeString(strings.TrimSpace(string(text)))
	default:
		signature, err = base64.StdEncoding.DecodeString(strings.TrimSpace(string(text)))
	}
	if err != nil {
		return nil, fmt.Errorf("the signature is not %s: %w", e.Text, err)
	}
	if !e.RS {
		return signature, nil
	}
	return hsm.MarshalSignature(signature)
}

func (k Key) checkRS() error {
	switch k.Spec() {
	case hsm.EC_P256, hsm.EC_P256K, hsm.EC_SM2:
		return nil
	}
	return fmt.Errorf("a signature of a key of KeySpec %s has no r and s, and is not ASN.1", k.Spec())
}
