package signer

import (
	"bytes"
	"encoding/asn1"
	"encoding/base64"
	"encoding/hex"
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

// Encodings are the values of Encoding.Text. Raw has no line break at its end.
var Encodings = []string{"base64", "hex", "raw"}

// Encode encodes a signature, as Client.Sign returns it.
func (e Encoding) Encode(k Key, signature []byte) ([]byte, error) {
	if e.RS {
		if err := k.checkRS(); err != nil {
			return nil, err
		}
		var rs struct{ R, S *big.Int }
		if rest, err := asn1.Unmarshal(signature, &rs); err != nil || len(rest) > 0 || rs.R.BitLen() > 256 || rs.S.BitLen() > 256 {
			return nil, fmt.Errorf("the signature is not a SEQUENCE of r and s: %w", err)
		}
		signature = append(rs.R.FillBytes(make([]byte, 32)), rs.S.FillBytes(make([]byte, 32))...)
	}
	switch e.Text {
	case "hex":
		return fmt.Appendln(nil, hex.EncodeToString(signature)), nil
	case "raw":
		return signature, nil
	}
	return fmt.Appendln(nil, base64.StdEncoding.EncodeToString(signature)), nil
}

// Decode is the inverse of Encode. White space around base64 and hex does not count.
func (e Encoding) Decode(k Key, text []byte) (signature []byte, err error) {
	switch e.Text {
	case "raw":
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
	if err := k.checkRS(); err != nil {
		return nil, err
	}
	return hsm.MarshalSignature(signature)
}

func (k Key) checkRS() error {
	switch k.Spec() {
	case hsm.EC_P256, hsm.EC_P256K, hsm.EC_SM2:
		return nil
	}
	return fmt.Errorf("a signature of a key of KeySpec %s has no r and s", k.Spec())
}
