package gateway_test

import (
	"errors"
	"fmt"
	"runtime"
	"testing"

	"github.com/google/uuid"

	"github.com/kmsgate/kmsgate/hsm"
	"github.com/kmsgate/kmsgate/store"
)

// fill writes records of n keys with three versions and an alias each. It creates no key pairs: the
// benchmark measures the gateway and not the backend.
func (b *bench) fill(tb testing.TB, n int) {
	tb.Helper()
	for done := 0; done < n; {
		err := b.db.Update(func(tx *store.Tx) error {
			for range min(1000, n-done) {
				keyId := uuid.NewString()
				errs := tx.Keys().Put(store.Key{KeyId: keyId, KeySpec: hsm.EC_P256, KeyUsage: "SIGN/VERIFY", KeyState: store.Enabled,
					Origin: "Aliyun_KMS", ProtectionLevel: "HSM", Creator: "root", Description: "one of many", CreationDate: b.clock.Now()})
				for range 3 {
					id := uuid.New()
					errs = errors.Join(errs, tx.Versions().Put(store.KeyVersion{KeyId: keyId, KeyVersionId: id.String(), CreationDate: b.clock.Now(),
						Key: hsm.Key{ID: id[:], Spec: hsm.EC_P256, Public: make([]byte, 91)}}))
				}
				errs = errors.Join(errs, tx.Aliases().Create(store.Alias{AliasName: fmt.Sprintf("alias/%d", done), KeyId: keyId, CreationDate: b.clock.Now()}))
				if errs != nil {
					return errs
				}
				done++
			}
			return nil
		})
		if err != nil {
			tb.Fatal(err)
		}
	}
}

// BenchmarkGrowth measures common operations with few keys and with many, without network and
// token. The costs should be the same. It also measures the memory per key.
func BenchmarkGrowth(b *testing.B) {
	for _, n := range []int{10, 10_000} {
		b.Run(fmt.Sprintf("keys=%d", n), func(b *testing.B) {
			var g *bench
			var before, after runtime.MemStats
			g = newBench(b)
			runtime.GC()
			runtime.ReadMemStats(&before)
			g.fill(b, n)
			runtime.GC()
			runtime.ReadMemStats(&after)
			for _, op := range []struct {
				name   string
				action string
				params func(i int) []string
			}{
				{"AsymmetricSign-by-alias", "AsymmetricSign", func(int) []string { return g.signParams("KeyId", "alias/test") }},
				{"DescribeKey", "DescribeKey", func(int) []string { return []string{"KeyId", "alias/5"} }},
				{"ListKeys-page", "ListKeys", func(int) []string { return []string{"PageNumber", "1", "PageSize", "10"} }},
				{"CreateKey", "CreateKey", func(int) []string { return []string{"KeySpec", "EC_P256"} }},
			} {
				b.Run(op.name, func(b *testing.B) {
					for i := 0; b.Loop(); i++ {
						if err := g.server.Call(b.Context(), op.action, params(op.params(i)...), nil); err != nil {
							b.Fatal(err)
						}
					}
				})
			}
			b.Run("memory", func(b *testing.B) {
				for b.Loop() {
				}
				b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/float64(n), "B/key")
				b.ReportMetric(0, "ns/op")
			})
		})
	}
}
