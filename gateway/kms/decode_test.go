package kms_test

import (
	"encoding/base64"
	"strconv"
	"strings"
	"testing"

	"github.com/kmsgate/kmsgate/gateway/kms"
)

// FuzzDecode checks that the parameter decoder either fills the fields or returns an error of the
// API, and never panics.
func FuzzDecode(f *testing.F) {
	f.Add("name", "1", "true", "AAAA")
	f.Add("", "-1", "TRUE", "AAA")
	f.Add("x", "9999999999", "", "\r\nAAAA")
	f.Fuzz(func(t *testing.T, s, n, b, d string) {
		var into struct {
			S string `kms:"required"`
			N *int
			B *bool
			D []byte
		}
		err := kms.Decode(map[string]string{"S": s, "N": n, "B": b, "D": d}, &into)
		if err != nil {
			if code := err.(*kms.Error).Code; code != "MissingParameter" && code != "InvalidParameter" {
				t.Errorf("Decode: %v, want MissingParameter or InvalidParameter", err)
			}
			return
		}
		// Each field holds the value of its parameter, and each value has one accepted form.
		number, numberErr := strconv.ParseInt(n, 10, 32)
		if into.S != s || s == "" ||
			(n == "") != (into.N == nil) || (n != "" && (numberErr != nil || *into.N != int(number))) ||
			(b == "") != (into.B == nil) || (b != "" && !strings.EqualFold(b, strconv.FormatBool(*into.B))) ||
			base64.StdEncoding.EncodeToString(into.D) != d {
			t.Errorf("%q, %q, %q, %q decoded to %+v", s, n, b, d, into)
		}
	})
}
