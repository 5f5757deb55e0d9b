package limit_test

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kmsgate/kmsgate/gateway/limit"
)

// network returns one of many networks.
func network(i int) netip.Prefix {
	return limit.PrefixOf(fmt.Sprintf("10.%d.%d.%d", i>>16, i>>8&255, i&255))
}

// TestGate checks how many slots strangers have, in all and from one network, and how many the known
// networks have. A request waits for a slot for a limited time.
func TestGate(t *testing.T) {
	t.Parallel()
	for cores, want := range map[int]struct{ stranger, inAll, known int }{
		1: {1, 1, 1}, 2: {1, 1, 1}, 3: {1, 1, 2}, 4: {1, 2, 2}, 6: {2, 3, 3}, 8: {2, 4, 4}, 64: {16, 32, 32},
	} {
		synctest.Test(t, func(t *testing.T) {
			g := limit.NewGate(cores)
			began := time.Now()
			enter := func(network netip.Prefix, known bool) func() bool {
				return func() bool { return g.Enter(t.Context(), network, known) }
			}
			if got := count(want.stranger+1, enter(network(0), false)); got != want.stranger {
				t.Errorf("%d cores: a stranger's network got %d slots, want %d", cores, got, want.stranger)
			}
			if took := time.Since(began); took != limit.GateTime {
				t.Errorf("%d cores: the refusal took %v, want %v", cores, took, limit.GateTime)
			}
			got := want.stranger
			for i := range cores {
				got += count(want.stranger, enter(network(1+i), false))
			}
			if got != want.inAll {
				t.Errorf("%d cores: all strangers got %d slots, want %d", cores, got, want.inAll)
			}
			got = count(want.known+1, enter(network(0), true))
			if got != want.known {
				t.Errorf("%d cores: a known network got %d slots, want %d", cores, got, want.known)
			}
			for i := range cores {
				got += count(want.known, enter(network(1+i), true))
			}
			if got != cores {
				t.Errorf("%d cores: all known networks got %d slots, want %d", cores, got, cores)
			}
			g.Leave(network(0), false)
			if got := count(2, enter(network(0), false)); got != 1 {
				t.Errorf("%d cores: got %d slots after one was freed, want 1", cores, got)
			}
		})
	}
}

// TestGateOrder checks that waiting requests get slots in their order, except those whose network has
// all its slots, and that a request that gives up takes none.
func TestGateOrder(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := limit.NewGate(4) // two slots for strangers, one for a network
		var entered []int
		wait := func(ctx context.Context, i int) {
			go func() {
				if g.Enter(ctx, network(i), false) {
					entered = append(entered, i)
				}
			}()
			synctest.Wait()
		}
		check := func(name string, want ...int) {
			t.Helper()
			if synctest.Wait(); !slices.Equal(entered, want) {
				t.Errorf("%s: networks %v have entered, want %v", name, entered, want)
			}
		}
		leaver, leave := context.WithCancel(t.Context())
		wait(t.Context(), 1)
		wait(t.Context(), 2)
		wait(t.Context(), 1)
		wait(leaver, 3)
		wait(t.Context(), 4)
		wait(t.Context(), 5)
		check("at first", 1, 2)
		leave()
		check("a client left", 1, 2)
		g.Leave(network(2), false)
		check("a slot of network 2 is free", 1, 2, 4)
		g.Leave(network(1), false)
		check("a slot of network 1 is free", 1, 2, 4, 1)
		g.Leave(network(4), false)
		check("a slot of network 4 is free", 1, 2, 4, 1, 5)
		g.Leave(network(1), false)
		g.Leave(network(5), false)
		wait(t.Context(), 6)
		wait(t.Context(), 7)
		check("all slots are free", 1, 2, 4, 1, 5, 6, 7)
	})
}

// TestKnown checks how long a network is known, and that the number of known networks is limited.
func TestKnown(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		k := limit.NewKnown()
		check := func(name string, i int, want bool) {
			t.Helper()
			if got := k.Has(network(i)); got != want {
				t.Errorf("%s: network %d known: %v, want %v", name, i, got, want)
			}
		}
		check("at first", 0, false)
		k.Add(network(0))
		check("added", 0, true)
		time.Sleep(limit.KnownTime - time.Second)
		check("9:59 later", 0, true)
		k.Add(network(0))
		time.Sleep(limit.KnownTime - time.Second)
		check("9:59 after it was added again", 0, true)
		time.Sleep(time.Second)
		check("ten minutes after that", 0, false)
		k.Add(network(0))
		check("added again", 0, true)

		k.Add(netip.Prefix{})
		if k.Has(netip.Prefix{}) {
			t.Error("text that is not an address is known")
		}

		time.Sleep(time.Second)
		for i := range limit.MaxKnown - 1 {
			k.Add(network(1 + i))
		}
		check("as many as possible", 0, true)
		k.Add(network(limit.MaxKnown))
		check("one more", 0, false)
		for i := range limit.MaxKnown {
			check("all others", 1+i, true)
		}
	})
}

// TestKnownCost checks that a network that was added a short while ago costs no allocation.
func TestKnownCost(t *testing.T) { // not parallel, because it counts the allocations of the process
	k, source := limit.NewKnown(), network(1)
	k.Add(source)
	if n := testing.AllocsPerRun(100, func() { k.Add(source); k.Has(source) }); n != 0 {
		t.Errorf("got %g allocations, want none", n)
	}
}

// TestGateTurns has one network wait with many requests, and another with one. The other's turn is next.
func TestGateTurns(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := limit.NewGate(1) // one slot for strangers
		var entered []int
		wait := func(i int) {
			go func() {
				if g.Enter(t.Context(), network(i), false) {
					entered = append(entered, i)
				}
			}()
			synctest.Wait()
		}
		for _, i := range []int{1, 1, 1, 1, 2} {
			wait(i)
		}
		for _, i := range []int{1, 1, 2, 1, 1} {
			g.Leave(network(i), false)
			synctest.Wait()
		}
		if want := []int{1, 1, 2, 1, 1}; !slices.Equal(entered, want) {
			t.Errorf("networks %v have entered, want %v", entered, want)
		}
	})
}
