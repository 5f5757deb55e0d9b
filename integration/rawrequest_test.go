package integration

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/kmsgate/kmsgate/gateway/acs"
)

// A rawRequest is a request that no SDK makes: of another time, or very large.
type rawRequest struct {
	action  string
	query   url.Values
	form    url.Values
	padding int // spaces in the Authorization header
	nonce   string
}

// sign returns the request with a signature of a time. It can be sent more than once.
func (q rawRequest) sign(env map[string]string, signed time.Time) (*http.Request, error) {
	body := q.form.Encode()
	u := url.URL{Scheme: "https", Host: env["KMSGATE_ENDPOINT"], Path: "/",
		RawQuery: strings.ReplaceAll(q.query.Encode(), "+", "%20")}
	r, err := http.NewRequest(http.MethodPost, u.String(), strings.NewReader(body))
	if err != nil {
		return nil, err
	}
	if body != "" {
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	hash := sha256.Sum256([]byte(body))
	for name, value := range map[string]string{
		"x-acs-action": q.action, "x-acs-version": "2016-01-20", "x-acs-content-sha256": hex.EncodeToString(hash[:]),
		"x-acs-date": signed.UTC().Format("2006-01-02T15:04:05Z"), "x-acs-signature-nonce": uuid.NewString() + q.nonce,
	} {
		r.Header.Set(name, value)
	}
	authorize := func(signature []byte) {
		r.Header.Set("Authorization", fmt.Sprintf("ACS3-HMAC-SHA256 Credential=%s,%sSignedHeaders=host;x-acs-action;"+
			"x-acs-content-sha256;x-acs-date;x-acs-signature-nonce;x-acs-version,Signature=%x",
			env["KMSGATE_ACCESS_KEY_ID"], strings.Repeat(" ", q.padding), signature))
	}
	authorize(make([]byte, sha256.Size))
	claim, err := acs.Parse(r, body)
	if err != nil {
		return nil, err
	}
	mac := hmac.New(sha256.New, []byte(env["KMSGATE_ACCESS_KEY_SECRET"]))
	mac.Write([]byte(claim.StringToSign()))
	authorize(mac.Sum(nil))
	return r, nil
}

// sendRaw sends a request that sign has returned. It returns the status and code of the answer, such
// as "400 SignatureNonceUsed", or "OK".
func sendRaw(client *http.Client, r *http.Request) (code string, err error) {
	body, err := r.GetBody()
	if err != nil {
		return "", err
	}
	again := r.Clone(r.Context())
	again.Body = body
	resp, err := client.Do(again)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return "", err
	}
	if resp.StatusCode == http.StatusOK {
		return answered, nil
	}
	var refusal struct{ Code string }
	if err := json.Unmarshal(text, &refusal); err != nil || refusal.Code == "" {
		return "", errors.Join(fmt.Errorf("got status %d and %q, want an error of the API", resp.StatusCode, text), err)
	}
	return fmt.Sprintf("%d %s", resp.StatusCode, refusal.Code), nil
}
