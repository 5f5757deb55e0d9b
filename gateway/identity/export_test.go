package identity

import "time"

// UseNonce remembers a nonce, as AccessKey does.
func (r *Registry) UseNonce(accessKeyId, nonce string, until, now time.Time) {
	if err := r.nonces.use(accessKeyId, nonce, until, now); err != nil {
		panic(err)
	}
}
