package kms_test

import (
	"encoding/base64"
	"strconv"
	"strings"
	"testing"

	"github.com/kmsgate/kmsgate/gateway/kms"
)

// FuzzDecode feeds the parameter decoder: it fills the fields or refuses with
// the API's own errors, and never panics.
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
				t.Errorf("error %v", err)
			}
			return
		}
		// What was taken means what it says, and is written in one way.
		number, numberErr := strconv.ParseInt(n, 10, 32)
		if into.S != s || s == "" ||
			(n == "") != (into.N == nil) || (n != "" && (numberErr != nil || *into.N != int(number))) ||
			(b == "") != (into.B == nil) || (b != "" && !strings.EqualFold(b, strconv.FormatBool(*into.B))) ||
			base64.StdEncoding.EncodeToString(into.D) != d {
			t.Errorf("%q, %q, %q, %q decoded to %+v", s, n, b, d, into)
		}
	})
}
