package gateway

import "context"

// A Preset fixes values that an operation otherwise chooses: ids, secrets and the Origin. An empty field
// changes nothing. It is for tests: only callers in this process can set one.
type Preset struct {
	KeyId           string // 1 to 64 letters, digits and hyphens
	KeyVersionId    string // a UUID
	Origin          string // of the key
	AccessKeyId     string
	AccessKeySecret string
	ClientKeyId     string
}

type presetKey struct{}

// WithPreset returns a context for [Server.Call] whose operation uses a preset.
func WithPreset(ctx context.Context, p Preset) context.Context {
	return context.WithValue(ctx, presetKey{}, p)
}

// presetOf returns the preset of an operation, which is usually empty.
func presetOf(ctx context.Context) Preset {
	p, _ := ctx.Value(presetKey{}).(Preset)
	return p
}
