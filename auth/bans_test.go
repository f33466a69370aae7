package auth

import (
	"errors"
	"fmt"
	"net/netip"
	"runtime"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/sluicemq/sluice/broker"
)

func TestParseBanAddress(t *testing.T) {
	for in, want := range map[string]string{
		"10.0.0.7": "10.0.0.7", "10.0.0.7/32": "10.0.0.7", "10.9.8.7/8": "10.0.0.0/8", "::ffff:10.0.0.7": "10.0.0.7", "::ffff:10.1.0.0/112": "10.1.0.0/16",
		"2001:db8::1": "2001:db8::1", "2001:DB8::1/32": "2001:db8::/32", "fe80::1%eth0": "fe80::1", "0.0.0.0/0": "0.0.0.0/0", "::/0": "::/0",
	} {
		if got, err := ParseBanAddress(in); err != nil || got != want {
			t.Errorf("%s is %q, %v; want %q", in, got, err, want)
		}
	}
	for _, in := range []string{"", "here", "10.0.0", "10.0.0.0/33", "fe80::%eth0/64"} {
		if got, err := ParseBanAddress(in); err == nil {
			t.Errorf("%q is %q", in, got)
		}
	}
}

func TestBansByAddress(t *testing.T) {
	now := time.UnixMilli(1000)
	b := NewBans(func() time.Time { return now })
	admits := func(want bool, addrs ...string) {
		t.Helper()
		for _, a := range addrs {
			if got := b.Admit(netip.MustParseAddr(a)); got != want {
				t.Errorf("%s: %v, want %v", a, got, want)
			}
		}
	}
	admits(true, "10.0.0.7", "::1")
	list := []Ban{{Kind: BanAddress, Name: "10.0.0.0/8"}, {Kind: BanAddress, Name: "192.0.2.1", Until: 2000}, {Kind: BanAddress, Name: "2001:db8::/32"}}
	if !b.Set(list) {
		t.Error("a longer list keeps nobody out")
	}
	admits(false, "10.0.0.7", "::ffff:10.255.0.1", "192.0.2.1", "2001:db8:1::1")
	admits(true, "11.0.0.1", "192.0.2.2", "2001:db9::1", "::a00:7")
	if b.Refused(BanAddress) != 4 {
		t.Errorf("%d refused", b.Refused(BanAddress))
	}
	now = time.UnixMilli(2000)
	admits(true, "192.0.2.1")
	if len(b.List()) != 2 {
		t.Errorf("%+v: one is over", b.List())
	}
	if b.Set(list[:1]) {
		t.Error("a shorter list keeps somebody out")
	}
	admits(true, "2001:db8:1::1")
	if !b.Admit(netip.Addr{}) {
		t.Error("a Unix socket has no address")
	}
	b.Set([]Ban{{Kind: BanAddress, Name: "::/0"}})
	admits(true, "11.0.0.1")
	admits(false, "::1")
}

// A ban is found before a password is hashed, and ends who is in; that of a name counts for whoever is that user.
func TestBansOfClients(t *testing.T) {
	b := newBench(t, map[string]string{"bob": "right", "eve": "right"})
	b.o.Bans = NewBans(b.o.Now)
	if err := b.Reload(b.o); err != nil {
		t.Fatal(err)
	}
	in, err := b.Authenticate(t.Context(), creds("bob", "right"))
	if err != nil {
		t.Fatal(err)
	}
	hashed := b.hashed.Load()
	for _, ban := range []Ban{{Kind: BanUser, Name: "bob"}, {Kind: BanClient, Name: "c"}, {Kind: BanAddress, Name: "10.0.0.0/8"}} {
		b.o.Bans.Set([]Ban{ban})
		c := creds("bob", "another")
		if ban.Kind == BanAddress { // found once it is known who it is: the listener has asked before
			c.Password = []byte("right")
			c.Remote = netip.MustParseAddrPort("10.0.0.1:1")
		}
		if _, done, err := b.Quick(c); !done || !errors.Is(err, broker.ErrBanned) {
			t.Errorf("%+v: %v, %v", ban, done, err)
		}
		if _, err := b.Authenticate(t.Context(), c); !errors.Is(err, broker.ErrBanned) {
			t.Errorf("%+v: %v", ban, err)
		}
		id := in
		id.Remote = netip.MustParseAddr("10.0.0.1")
		if err := b.Recheck(&id, nil); !errors.Is(err, broker.ErrBanned) {
			t.Errorf("%+v: who is in stays: %v", ban, err)
		}
		if n := b.o.Bans.Refused(ban.Kind); n != 2 {
			t.Errorf("%+v: %d refused", ban, n)
		}
	}
	if b.hashed.Load() != hashed {
		t.Errorf("%d passwords hashed for bans", b.hashed.Load()-hashed)
	}
	b.o.Bans.Set([]Ban{{Kind: BanUser, Name: "bob", Until: b.now.UnixMilli()}, {Kind: BanUser, Name: "ann"}, {Kind: BanClient, Name: ""}})
	if _, err := b.Authenticate(t.Context(), creds("bob", "right")); err != nil {
		t.Errorf("the ban is over: %v", err)
	}
	if err := b.Recheck(&in, nil); err != nil {
		t.Errorf("the ban is over: %v", err)
	}
}

// A name that nothing vouches for is no user, so its ban keeps nobody out; ANONYMOUS does.
func TestBansOfNobody(t *testing.T) {
	o := Options{Anonymous: "everywhere", Bans: NewBans(nil)}
	o.Bans.Set([]Ban{{Kind: BanUser, Name: "bob"}})
	p, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	if id, done, err := p.Quick(creds("bob", "x")); !done || err != nil || id.User != "" {
		t.Errorf("%+v, %v, %v", id, done, err)
	}
	o.Bans.Set([]Ban{{Kind: BanUser, Name: broker.AnonymousPrincipal}})
	if _, _, err := p.Quick(broker.Credentials{}); !errors.Is(err, broker.ErrBanned) {
		t.Errorf("anonymous: %v", err)
	}
}

func TestFlapping(t *testing.T) {
	now := time.UnixMilli(1_000_000)
	b := NewBans(func() time.Time { return now })
	for range 1000 {
		if !b.Connected(0, "a") || b.Flapping("a") || !b.Admit(netip.MustParseAddr("10.0.0.1")) {
			t.Fatal("banned without a limit")
		}
	}
	b.SetFlapping(FlappingOptions{Connects: 3, AddressConnects: 2, Window: time.Second, Ban: time.Minute})
	for i := range 4 {
		if got := b.Connected(0, "a"); got != (i < 3) {
			t.Errorf("connection %d: %v", i+1, got)
		}
	}
	if !b.Flapping("a") || b.Flapping("b") || !b.Connected(0, "b") {
		t.Error("a is banned and b is not")
	}
	for i, from := range []string{"2001:db8::1", "2001:db8::2", "2001:db8::3"} {
		if got := b.Admit(netip.MustParseAddr(from)); got != (i < 2) {
			t.Errorf("%s: %v", from, got)
		}
	}
	list := b.List()
	if len(list) != 2 || list[0].Name != "a" || list[1].Name != "2001:db8::/64" || !list[0].Flapping || list[0].Since != now.UnixMilli() ||
		list[0].Until != now.Add(time.Minute).UnixMilli() {
		t.Errorf("%+v", list)
	}
	if b.Flapped(BanClient) != 1 || b.Flapped(BanAddress) != 1 || b.Refused(BanClient) != 2 || b.Refused(BanAddress) != 1 {
		t.Error("not counted")
	}
	if !b.Forgive(BanAddress, "2001:db8::3") || b.Forgive(BanAddress, "2001:db8::3") || !b.Admit(netip.MustParseAddr("2001:db8::1")) || b.Forgive(BanUser, "a") {
		t.Error("not forgiven")
	}
	now = now.Add(time.Minute)
	for i := range 3 {
		if b.Flapping("a") || !b.Connected(0, "a") {
			t.Errorf("the ban is over, connection %d", i+1)
		}
	}
	now = now.Add(time.Second)
	if !b.Connected(0, "a") {
		t.Error("another window")
	}
	for range 4 {
		b.Connected(0, "a")
	}
	b.SetFlapping(FlappingOptions{})
	if b.Flapping("a") || len(b.List()) != 0 {
		t.Error("banned still")
	}
}

// However many come, so many are remembered; those who are banned last.
func TestFlappingIsBounded(t *testing.T) {
	now := time.UnixMilli(1_000_000)
	b := NewBans(func() time.Time { return now })
	b.SetFlapping(FlappingOptions{Connects: 1, Window: time.Hour, Ban: time.Hour})
	for range 2 {
		b.Connected(0, "banned")
	}
	for i := range 3 * flapsMax {
		b.Connected(0, fmt.Sprint(i))
	}
	if n := len(b.flaps.clients.mu.rows); n != flapsMax {
		t.Errorf("%d are remembered", n)
	}
	if !b.Flapping("banned") || len(b.flaps.clients.mu.names) != 1 {
		t.Error("a ban is forgotten for others who came once")
	}
	for i := range 2 * flapsMax { // all of them banned
		b.Connected(0, fmt.Sprint("x", i))
		b.Connected(0, fmt.Sprint("x", i))
	}
	if n, names := len(b.flaps.clients.mu.rows), len(b.flaps.clients.mu.names); n != flapsMax || names > flapsMax {
		t.Errorf("%d are remembered, %d names", n, names)
	}
}

// Of a client id that is banned no more is kept than is shown, in whole characters, and it is forgiven by that as well as by all of it.
func TestFlappingNames(t *testing.T) {
	b := NewBans(nil)
	b.SetFlapping(FlappingOptions{Connects: 1, Window: time.Hour, Ban: time.Hour})
	long := strings.Repeat("x", flapNamesMax-1) + strings.Repeat("\u20ac", 20_000)
	heap := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := heap()
	const many = 300
	for i := range many {
		for range 2 {
			b.Connected(0, fmt.Sprint(i, long))
		}
	}
	if took := int64(heap() - before); took > many*10_000 {
		t.Errorf("%d bytes for %d names", took, many)
	}
	list := b.List()
	if len(list) != many {
		t.Fatalf("%d bans", len(list))
	}
	for _, ban := range list {
		if len(ban.Name) > flapNamesMax || len(ban.Name) < flapNamesMax-3 || !utf8.ValidString(ban.Name) {
			t.Errorf("%q", ban.Name)
		}
	}
	if !b.Forgive(BanClient, list[0].Name) || !b.Forgive(BanClient, list[1].Name+strings.Repeat("\u20ac", 20_000)) || len(b.List()) != many-2 {
		t.Error("not forgiven")
	}
}

// BenchmarkAdmit is a look at an address that is not banned, among as many bans as are kept, of as many lengths as there are.
func BenchmarkAdmit(b *testing.B) {
	for _, lengths := range []int{1, 25} {
		b.Run(fmt.Sprint(lengths), func(b *testing.B) {
			bans := NewBans(nil)
			var list []Ban
			for i := range 20_000 {
				p := netip.PrefixFrom(netip.AddrFrom4([4]byte{20, byte(i >> 16), byte(i >> 8), byte(i)}), 32-i%lengths).Masked()
				list = append(list, Ban{Kind: BanAddress, Name: p.String()})
			}
			bans.Set(list)
			from := netip.MustParseAddr("10.0.0.1")
			for b.Loop() {
				if !bans.Admit(from) {
					b.Fatal("banned")
				}
			}
		})
	}
}

// A client id that comes too often in one tenant is banned there, and whoever has it in another one is not. The ban is lifted by its name.
func TestFlappingOfTenants(t *testing.T) {
	b := NewBans(nil)
	b.SetFlapping(FlappingOptions{Connects: 1, Window: time.Hour, Ban: time.Hour})
	for range 2 {
		b.Connected(1, "x")
	}
	if b.Connected(1, "x") || !b.Connected(2, "x") || !b.Connected(0, "x") || b.Flapping("x") {
		t.Error("the wrong one is banned")
	}
	b.Connected(2, "x")
	if list := b.List(); len(list) != 2 || list[0].Name != "x" || list[1].Name != "x" {
		t.Errorf("%+v", list)
	}
	if !b.Forgive(BanClient, "x") || !b.Connected(1, "x") || !b.Connected(2, "x") || len(b.List()) != 0 {
		t.Error("not forgiven in all tenants")
	}
}
