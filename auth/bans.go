package auth

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/sluicemq/sluice/broker"
)

// BanKind is what a ban keeps out.
type BanKind uint8

// The kinds of bans. The numbers are on disk.
const (
	BanClient  BanKind = 1 // a client id of MQTT
	BanUser    BanKind = 2
	BanAddress BanKind = 3 // an address or a prefix
	banKinds           = 4
)

// String is the kind as a metric's label and in answers.
func (k BanKind) String() string {
	switch k {
	case BanClient:
		return "client_id"
	case BanUser:
		return "user"
	case BanAddress:
		return "address"
	}
	return "unknown"
}

// BanKindsAll are all kinds, in their order.
func BanKindsAll() []BanKind { return []BanKind{BanClient, BanUser, BanAddress} }

// Ban keeps a client id, a user or addresses out until it ends.
type Ban struct {
	Kind         BanKind
	Name         string // of BanAddress as ParseBanAddress writes it
	Since, Until int64  // Unix milliseconds; Until 0: for ever
	Reason       string
	Flapping     bool // it was made by this node since the client came too often; it is in no catalog
}

// ParseBanAddress reads an address or a prefix (10.0.0.0/8), and gives the one way in which the same addresses are written.
func ParseBanAddress(s string) (string, error) {
	if a, err := netip.ParseAddr(s); err == nil && !strings.Contains(s, "/") { // a zone may have one
		return a.Unmap().WithZone("").String(), nil
	}
	p, err := netip.ParsePrefix(s)
	if err != nil {
		return "", fmt.Errorf("want an address or a prefix such as 10.0.0.0/8, found %q", s)
	}
	return prefixText(plainPrefix(p)), nil
}

// plainPrefix is p without what it does not say, and of IPv4 if it is.
func plainPrefix(p netip.Prefix) netip.Prefix {
	if a := p.Addr(); a.Is4In6() && p.Bits() >= 96 {
		p = netip.PrefixFrom(a.Unmap(), p.Bits()-96)
	}
	return p.Masked()
}

func prefixText(p netip.Prefix) string {
	if p.IsSingleIP() {
		return p.Addr().String()
	}
	return p.String()
}

// banSet is a list of bans as it is asked. It is immutable. The values are when they end.
type banSet struct {
	list    []Ban
	clients map[string]int64
	users   map[string]int64
	lengths []banPrefixes // of addresses, one for each length of a prefix that there is
}

type banPrefixes struct {
	bits  int
	four  bool
	until map[netip.Addr]int64
}

func newBanSet(list []Ban) *banSet {
	s := &banSet{list: list, clients: make(map[string]int64), users: make(map[string]int64)}
	for i := range list {
		switch b := &list[i]; b.Kind {
		case BanClient:
			s.clients[b.Name] = b.Until
		case BanUser:
			s.users[b.Name] = b.Until
		case BanAddress:
			s.addAddress(b)
		}
	}
	return s
}

// addAddress leaves out what is no address: nothing of the kind is stored.
func (s *banSet) addAddress(b *Ban) {
	p, err := netip.ParsePrefix(b.Name)
	if err != nil {
		a, err := netip.ParseAddr(b.Name)
		if err != nil {
			return
		}
		p = netip.PrefixFrom(a, a.BitLen())
	}
	p = plainPrefix(p)
	at := slices.IndexFunc(s.lengths, func(l banPrefixes) bool { return l.bits == p.Bits() && l.four == p.Addr().Is4() })
	if at < 0 {
		at = len(s.lengths)
		s.lengths = append(s.lengths, banPrefixes{p.Bits(), p.Addr().Is4(), make(map[netip.Addr]int64)})
	}
	s.lengths[at].until[p.Addr()] = b.Until
}

// holds says whether a ban that ends at until is there at now.
func holds(until int64, found bool, now int64) bool { return found && (until == 0 || now < until) }

func (s *banSet) client(id string, now int64) bool {
	until, found := s.clients[id]
	return holds(until, found, now)
}

func (s *banSet) user(name string, now int64) bool {
	until, found := s.users[name]
	return holds(until, found, now)
}

// address costs a look for each length of a prefix that is banned. a is plain.
func (s *banSet) address(a netip.Addr, now int64) bool {
	for i := range s.lengths {
		l := &s.lengths[i]
		if l.four != a.Is4() {
			continue
		}
		p, err := a.Prefix(l.bits)
		if err != nil {
			continue
		}
		if until, found := l.until[p.Addr()]; holds(until, found, now) {
			return true
		}
	}
	return false
}

// Bans say who is kept out: by a list that its owner gives, and for a while who comes too often. Make it with NewBans. Safe for concurrent use.
type Bans struct {
	now     func() time.Time
	set     atomic.Pointer[banSet]
	flaps   flaps
	refused [banKinds]atomic.Uint64
}

// NewBans makes a list without bans. now may be nil: time.Now.
func NewBans(now func() time.Time) *Bans {
	if now == nil {
		now = time.Now
	}
	b := &Bans{now: now}
	b.set.Store(newBanSet(nil))
	b.flaps.init()
	return b
}

// Set replaces the list, which is Bans' from then on. More says whether somebody may be kept out now who was not before.
func (b *Bans) Set(list []Ban) (more bool) {
	old := b.set.Swap(newBanSet(list))
	had := make(map[Ban]struct{}, len(old.list))
	for i := range old.list {
		had[old.list[i]] = struct{}{}
	}
	for i := range list {
		if _, same := had[list[i]]; !same {
			return true
		}
	}
	return false
}

// List gives the bans that are not over, those for flapping among them, in no order.
func (b *Bans) List() (list []Ban) {
	now := b.now()
	for _, x := range b.set.Load().list {
		if holds(x.Until, true, now.UnixMilli()) {
			list = append(list, x)
		}
	}
	return append(list, b.flaps.list(now)...)
}

// Refused is how many were kept out by a kind of ban, each time counted.
func (b *Bans) Refused(k BanKind) uint64 { return b.refused[k].Load() }

// Flapped is how often somebody was banned for coming too often, by a client id or an address.
func (b *Bans) Flapped(k BanKind) uint64 { return b.flaps.counted(k) }

// plainAddr is an address as bans know it.
func plainAddr(a netip.Addr) netip.Addr { return a.Unmap().WithZone("") }

// Admit says whether a connection from an address is taken, and counts it. It never blocks, and costs well under a microsecond.
func (b *Bans) Admit(from netip.Addr) bool {
	if !from.IsValid() {
		return true
	}
	a, now := plainAddr(from), b.now()
	if !b.set.Load().address(a, now.UnixMilli()) && b.flaps.address(a, now) {
		return true
	}
	b.refused[BanAddress].Add(1)
	return false
}

// Flapping says whether a client id of MQTT has come too often, and may not come yet, if its client is the default tenant's.
func (b *Bans) Flapping(clientID string) bool {
	if !b.flaps.isBanned(0, clientID, b.now()) {
		return false
	}
	b.refused[BanClient].Add(1)
	return true
}

// Connected counts a client of a tenant that was let in. False: it has come too often, and may not now.
func (b *Bans) Connected(tenant uint32, clientID string) bool {
	if b.flaps.client(tenant, clientID, b.now()) {
		return true
	}
	b.refused[BanClient].Add(1)
	return false
}

// any says whether the list has bans.
func (b *Bans) any() bool { return b != nil && len(b.set.Load().list) > 0 }

// errBanned is the reason behind broker.ErrBanned, by kind.
var errBanned = [banKinds]error{
	BanClient:  errors.New("the client id is banned"),
	BanUser:    errors.New("the user is banned"),
	BanAddress: errors.New("the address is banned"),
}

// check says which ban of the list keeps a client out, 0 if none does. That it was asked is not counted.
func (b *Bans) check(id *broker.Identity) BanKind {
	s := b.set.Load()
	if len(s.list) == 0 {
		return 0
	}
	now := b.now().UnixMilli()
	switch {
	case id.ClientID != "" && s.client(id.ClientID, now):
		return BanClient
	case s.user(id.Principal(), now):
		return BanUser
	case id.Remote.IsValid() && s.address(plainAddr(id.Remote), now):
		return BanAddress
	}
	return 0
}

// refusal counts who is kept out by a ban, and is what it is told; nil for none.
func (b *Bans) refusal(k BanKind) error {
	if k == 0 {
		return nil
	}
	b.refused[k].Add(1)
	return refuse(broker.ErrBanned, errBanned[k])
}

// early finds bans before anything is asked or hashed: of the client id, and of the name that decides once its password is right.
func (rs *ruleSet) early(c *broker.Credentials) BanKind {
	b := rs.o.Bans
	if !b.any() {
		return 0
	}
	s, now := b.set.Load(), b.now().UnixMilli()
	if c.ClientID != "" && s.client(c.ClientID, now) {
		return BanClient
	}
	byName := c.HasUsername && !rs.showsCertificate(c) && !rs.showsToken(c) && (rs.hasUsers() || rs.ldap != nil)
	if byName && s.user(c.Username, now) {
		return BanUser
	}
	return 0
}

// keptOut says whether bans keep out a client that the rest would let in.
func (rs *ruleSet) keptOut(id *broker.Identity) error {
	if rs.o.Bans == nil {
		return nil
	}
	return rs.o.Bans.refusal(rs.o.Bans.check(id))
}

// recheckBans says whether a ban has come since the client was let in.
func (rs *ruleSet) recheckBans(id *broker.Identity) error {
	if rs.o.Bans == nil {
		return nil
	}
	if k := rs.o.Bans.check(id); k != 0 {
		return refuse(broker.ErrBanned, errBanned[k])
	}
	return nil
}
