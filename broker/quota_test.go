package broker

import (
	"fmt"
	"math"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/sluicemq/sluice/internal/testx"
)

var (
	nobody = QuotaPart{}
	others = QuotaPart{Said: true, Default: true}
)

func named(name string) QuotaPart { return QuotaPart{Said: true, Name: name} }

func quotaOf(user, client QuotaPart, k QuotaKind, rate float64) (q Quota) {
	q.Entity = QuotaEntity{User: user, ClientID: client}
	q.Set[k], q.Rate[k] = true, rate
	return q
}

// The most exact quota counts, in Kafka's order; who shares it is as exact as the quota, or the default it comes from.
func TestQuotaPrecedence(t *testing.T) {
	order := []struct{ user, client QuotaPart }{
		{named("u"), named("c")}, {named("u"), others}, {named("u"), nobody},
		{others, named("c")}, {others, others}, {others, nobody}, {nobody, named("c")}, {nobody, others},
	}
	for first := range order {
		var q Quotas
		var list []Quota
		for i := first; i < len(order); i++ {
			list = append(list, quotaOf(order[i].user, order[i].client, QuotaProduce, float64(i+1)))
		}
		q.Set(list)
		u := q.Use(0, "u", "c")
		if most, ok := u.Bounds(QuotaProduce, 0); !ok || math.Abs(most-float64(first+1)) > 1e-9 {
			t.Errorf("from %d on: %v, %v", first, most, ok)
		}
		if _, ok := u.Bounds(QuotaConsume, 0); ok {
			t.Error("there is no quota for fetching")
		}
		u.Release(0)
	}
	// Who shares.
	tests := []struct {
		user, client QuotaPart
		same, other  [2]string
	}{
		{named("u"), nobody, [2]string{"u", "d"}, [2]string{"v", "c"}},
		{others, nobody, [2]string{"u", "d"}, [2]string{"v", "c"}},
		{others, others, [2]string{"u", "c"}, [2]string{"u", "d"}},
		{nobody, others, [2]string{"v", "c"}, [2]string{"u", "d"}},
	}
	for _, tt := range tests {
		var q Quotas
		q.Set([]Quota{quotaOf(tt.user, tt.client, QuotaProduce, 100)})
		q.Use(0, "u", "c").Take(QuotaProduce, 1000, 0)
		if q.Use(0, tt.same[0], tt.same[1]).Owed(QuotaProduce, 0) == 0 || q.Use(0, tt.other[0], tt.other[1]).Owed(QuotaProduce, 0) != 0 {
			t.Errorf("%+v is not shared as it should", tt)
		}
	}
}

// Users and client ids of one name in two tenants are not the same, and one tenant's defaults are nothing to another.
func TestQuotaTenants(t *testing.T) {
	var q Quotas
	of := func(tenant uint32, user QuotaPart, rate float64) Quota {
		o := quotaOf(user, nobody, QuotaProduce, rate)
		o.Tenant = tenant
		return o
	}
	q.Set([]Quota{of(0, named("u"), 1), of(1, named("u"), 2), of(1, others, 3)})
	for _, tt := range []struct {
		tenant uint32
		user   string
		want   float64
	}{{0, "u", 1}, {0, "v", 0}, {1, "u", 2}, {1, "v", 3}, {2, "u", 0}, {2, "v", 0}} {
		u := q.Use(tt.tenant, tt.user, "c")
		if most, ok := u.Bounds(QuotaProduce, 0); ok != (tt.want > 0) || ok && math.Abs(most-tt.want) > 1e-9 {
			t.Errorf("tenant %d, user %s: %v, %v", tt.tenant, tt.user, most, ok)
		}
		if q.Bound(tt.tenant, tt.user, "c") != (tt.want > 0) {
			t.Errorf("tenant %d, user %s: bound or not", tt.tenant, tt.user)
		}
		if !u.Is(tt.tenant, tt.user, []byte("c")) || u.Is(tt.tenant+1, tt.user, []byte("c")) {
			t.Error("whose it is")
		}
	}
	q.Set([]Quota{of(1, others, 100), of(2, others, 100)})
	q.Use(1, "u", "c").Take(QuotaProduce, 1000, 0)
	if q.Use(1, "u", "d").Owed(QuotaProduce, 0) == 0 || q.Use(2, "u", "c").Owed(QuotaProduce, 0) != 0 {
		t.Error("what one tenant's user owes is owed by another's")
	}
	// Addresses are the default tenant's alone.
	ip := Quota{Tenant: 1, Entity: QuotaEntity{IP: others}}
	ip.Set[QuotaConnect], ip.Rate[QuotaConnect] = true, 1
	q.Set([]Quota{ip})
	for range 20 {
		if q.Connect(netip.MustParseAddr("10.0.0.1"), 0) != 0 {
			t.Fatal("a tenant's quota counts for the node's connections")
		}
	}
}

// A client that waits as long as it is told gets its rate, whatever it takes at once, alone or with others who share it.
func TestQuotaRate(t *testing.T) {
	for _, size := range []float64{10, 700, 5000} {
		for _, clients := range []int{1, 3} {
			var q Quotas
			q.Set([]Quota{quotaOf(named("u"), nobody, QuotaProduce, 1000)})
			uses := make([]*QuotaUse, clients)
			ready := make([]time.Duration, clients)
			for i := range uses {
				uses[i] = q.Use(0, "u", fmt.Sprint(i))
			}
			taken := 0.0
			const end = 300 * time.Second
			for now := time.Hour; now < time.Hour+end; now += time.Millisecond {
				for i, u := range uses {
					if now >= ready[i] {
						ready[i] = now + max(u.Take(QuotaProduce, size, int64(now)), time.Millisecond)
						taken += size
					}
				}
			}
			if rate := taken / end.Seconds(); rate < 950 || rate > 1000+(1000+size*float64(clients+1))/end.Seconds() {
				t.Errorf("%d clients, %v at once: %v in a second, want 1000", clients, size, rate)
			}
		}
	}
}

// What is owed stays owed over a change of quotas and a client that goes and comes back; a bucket that nobody holds and that is full is forgotten.
func TestQuotaBuckets(t *testing.T) {
	var q Quotas
	if q.Any() || q.Use(0, "u", "c").Take(QuotaProduce, 1e9, 0) != 0 {
		t.Error("there are no quotas yet")
	}
	q.Set([]Quota{quotaOf(named("u"), nobody, QuotaProduce, 1000)})
	u := q.Use(0, "u", "c")
	if d := u.Take(QuotaProduce, 11_000, 0); d != 10*time.Second {
		t.Errorf("told to wait %v", d)
	}
	u.Release(0)
	u = q.Use(0, "u", "c")
	if d := u.Owed(QuotaProduce, int64(time.Second)); d != 9*time.Second {
		t.Errorf("after it came back it owes %v", d)
	}
	q.Set([]Quota{quotaOf(named("u"), nobody, QuotaProduce, 2000)})
	if d := u.Take(QuotaProduce, 2000, int64(time.Second)); d != 10*time.Second {
		t.Errorf("at another rate: %v", d)
	}
	if d := u.Take(QuotaProduce, 1e12, int64(time.Second)); d != throttleMax {
		t.Errorf("more than anybody can owe: %v", d)
	}
	q.Set(nil)
	if u.Take(QuotaProduce, 1, 0) != 0 || q.Any() {
		t.Error("quotas that are gone bound nothing")
	}
	if n, _ := q.Throttled(QuotaProduce); n != 3 {
		t.Errorf("counted %d throttles", n)
	}
	q.Set([]Quota{quotaOf(others, nobody, QuotaProduce, 1000)})
	for i := range 1000 {
		u := q.Use(0, fmt.Sprint(i), "")
		u.Take(QuotaProduce, 1, int64(2*time.Hour)+int64(i)*int64(10*time.Millisecond))
		u.Release(int64(2*time.Hour) + int64(i)*int64(10*time.Millisecond))
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if n := len(q.mu.buckets); n > 200 {
		t.Errorf("%d buckets are kept", n)
	}
}

func TestQuotaConnect(t *testing.T) {
	var q Quotas
	a := netip.MustParseAddr("::ffff:10.0.0.1")
	if q.Connect(a, 0) != 0 {
		t.Error("there is no quota")
	}
	var def, off Quota
	def.Entity.IP, def.Set[QuotaConnect], def.Rate[QuotaConnect] = others, true, 10
	off.Entity.IP, off.Set[QuotaConnect] = named("10.0.0.2"), true
	q.Set([]Quota{def, off})
	admitted := 0
	for now := int64(time.Hour); now < int64(time.Hour+10*time.Second); now += int64(10 * time.Millisecond) {
		if q.Connect(a, now) == 0 {
			admitted++
		}
	}
	if admitted < 100 || admitted > 112 {
		t.Errorf("%d connections in 10 s at 10 a second", admitted)
	}
	if q.Connect(netip.MustParseAddr("10.0.0.2"), 0) == 0 || q.Connect(netip.MustParseAddr("10.0.0.3"), 0) != 0 {
		t.Error("each address has its own")
	}
}

func TestQuotaRace(t *testing.T) {
	var q Quotas
	var all sync.WaitGroup
	for g := range 4 {
		all.Go(func() {
			for i := range 500 {
				u := q.Use(0, "u", fmt.Sprint(i%3))
				u.Take(QuotaProduce, 10, int64(i))
				q.Connect(netip.AddrFrom4([4]byte{10, 0, 0, byte(i)}), int64(i))
				if g == 0 {
					q.Set([]Quota{quotaOf(named("u"), nobody, QuotaProduce, float64(i)), quotaOf(nobody, others, QuotaProduce, 5)}[i%2:])
				}
				u.Release(int64(i))
			}
		})
	}
	all.Wait()
	for key, b := range q.mu.buckets {
		if b.refs != 0 {
			t.Errorf("%+v is held by %d", key, b.refs)
		}
	}
}

func TestQuotaTakesNoMemory(t *testing.T) {
	if testx.RaceEnabled {
		t.Skip("the race detector allocates")
	}
	var q Quotas
	q.Set([]Quota{quotaOf(named("u"), nobody, QuotaProduce, 1000)})
	u := q.Use(0, "u", "c")
	now := int64(0)
	if n := testing.AllocsPerRun(100, func() {
		now += int64(time.Millisecond)
		u.Take(QuotaProduce, 10, now)
		u.Owed(QuotaRequest, now)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
