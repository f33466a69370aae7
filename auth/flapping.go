package auth

import (
	"hash/maphash"
	"net/netip"
	"strings"
	"sync"
	"time"
	"unicode/utf8"
)

// FlappingOptions say who comes too often. The zero value: nobody does.
type FlappingOptions struct {
	Connects        int           // of a client id in a window, as many as are let in; 0: any number
	AddressConnects int           // of an address, or of the /64 of an IPv6 one; 0: any number
	Window          time.Duration // it begins with the first of them
	Ban             time.Duration // for which the next one, and all after it, is refused
}

// Bounds of what is remembered, for client ids and for addresses each.
const (
	flapsMax     = 1 << 16
	flapNamesMax = 256 // bytes of a client id that is shown
	flapReason   = "comes too often"
)

// flaps count who comes how often. A name is known by its hash; only of those who are banned it is kept as well, to be shown.
type flaps struct {
	clients, addresses flapTable
}

type flapTable struct {
	mu struct {
		sync.Mutex
		most        int
		window, ban int64 // milliseconds
		rows        map[uint64]flap
		names       map[uint64]string // of those who are banned
		banned      uint64            // how often somebody was
	}
}

// flap is one name's row. Times are Unix milliseconds.
type flap struct {
	since int64 // of its window
	count int32
	until int64 // its ban's end; 0: it has none
}

var flapSeed = maphash.MakeSeed()

func (f *flaps) init() {
	for _, t := range []*flapTable{&f.clients, &f.addresses} {
		t.mu.rows, t.mu.names = make(map[uint64]flap), make(map[uint64]string)
	}
}

// SetFlapping says from now on who comes too often. Bans that there are stay, unless nobody is to be banned any more.
func (b *Bans) SetFlapping(o FlappingOptions) {
	b.flaps.clients.set(o.Connects, &o)
	b.flaps.addresses.set(o.AddressConnects, &o)
}

func (t *flapTable) set(most int, o *FlappingOptions) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.mu.most, t.mu.window, t.mu.ban = most, o.Window.Milliseconds(), o.Ban.Milliseconds()
	if most == 0 {
		clear(t.mu.rows)
		clear(t.mu.names)
	}
}

func (f *flaps) client(tenant uint32, id string, now time.Time) bool {
	return f.clients.came(flapHash(tenant, id), now, func() string { return cut(id) })
}

func (f *flaps) isBanned(tenant uint32, id string, now time.Time) bool {
	return f.clients.isBanned(flapHash(tenant, id), now)
}

// flapHash tells two tenants' clients of one id apart.
func flapHash(tenant uint32, id string) uint64 {
	return maphash.String(flapSeed, id) ^ uint64(tenant)*0x9e3779b97f4a7c15
}

// address counts an address that is plain. Whoever has one address of IPv6 has its /64.
func (f *flaps) address(a netip.Addr, now time.Time) bool {
	p := flapPrefix(a)
	return f.addresses.came(maphash.Comparable(flapSeed, p), now, func() string { return prefixText(p) })
}

func flapPrefix(a netip.Addr) netip.Prefix {
	bits := a.BitLen()
	if a.Is6() {
		bits = 64
	}
	p, _ := a.Prefix(bits) // the length fits
	return p
}

// cut gives as much of a name as is kept, in memory of its own and of whole characters: what it is cut off of is sixty times as long.
func cut(s string) string {
	if len(s) <= flapNamesMax {
		return s
	}
	n := flapNamesMax
	for n > flapNamesMax-utf8.UTFMax && !utf8.RuneStart(s[n]) {
		n--
	}
	return strings.Clone(s[:n])
}

// came counts somebody in; false: it is banned, or is from now on.
func (t *flapTable) came(h uint64, at time.Time, name func() string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.mu.most == 0 {
		return true
	}
	now := at.UnixMilli()
	r, known := t.mu.rows[h]
	switch {
	case r.until > now:
		return false
	case r.until != 0 || now-r.since >= t.mu.window || now < r.since:
		r = flap{since: now}
		delete(t.mu.names, h)
	}
	if r.count++; int(r.count) > t.mu.most {
		r.until = now + t.mu.ban
		t.mu.names[h] = name()
		t.mu.banned++
	}
	if !known && len(t.mu.rows) >= flapsMax {
		t.makeRoomLocked(now)
	}
	t.mu.rows[h] = r
	return r.until == 0
}

func (t *flapTable) isBanned(h uint64, at time.Time) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.mu.most > 0 && t.mu.rows[h].until > at.UnixMilli()
}

// makeRoomLocked drops a row or more: of a few that the map's random order brings up, those that say nothing any more, else one without a ban,
// else any.
func (t *flapTable) makeRoomLocked(now int64) {
	const look = 16
	looked, dropped := 0, false
	var victim uint64
	harmless := false
	for h, r := range t.mu.rows {
		if looked++; looked > look {
			break
		}
		if r.until <= now && now-r.since >= t.mu.window {
			t.dropLocked(h)
			dropped = true
			continue
		}
		if looked == 1 || !harmless && r.until <= now {
			victim, harmless = h, r.until <= now
		}
	}
	if !dropped {
		t.dropLocked(victim)
	}
}

func (t *flapTable) dropLocked(h uint64) {
	delete(t.mu.rows, h)
	delete(t.mu.names, h)
}

// list are the bans that are not over.
func (f *flaps) list(now time.Time) []Ban {
	return append(f.clients.list(BanClient, now), f.addresses.list(BanAddress, now)...)
}

func (t *flapTable) list(k BanKind, at time.Time) (list []Ban) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for h, name := range t.mu.names {
		if r := t.mu.rows[h]; r.until > at.UnixMilli() {
			list = append(list, Ban{Kind: k, Name: name, Since: r.until - t.mu.ban, Until: r.until, Reason: flapReason, Flapping: true})
		}
	}
	return list
}

// Forgive ends a ban for flapping, by the name that List shows, or by the address of one that is banned with others of its prefix: of a client id in
// all tenants. False: there is none.
func (b *Bans) Forgive(k BanKind, name string) (found bool) {
	t := &b.flaps.clients
	switch k {
	case BanClient:
	case BanAddress:
		t = &b.flaps.addresses
		if a, err := netip.ParseAddr(name); err == nil {
			name = prefixText(flapPrefix(plainAddr(a)))
		}
	default:
		return false
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for h, n := range t.mu.names {
		if n == cut(name) {
			found = found || t.mu.rows[h].until > b.now().UnixMilli()
			t.dropLocked(h)
		}
	}
	return found
}

func (f *flaps) counted(k BanKind) uint64 {
	t := &f.clients
	if k == BanAddress {
		t = &f.addresses
	} else if k != BanClient {
		return 0
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.mu.banned
}
