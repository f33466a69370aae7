package server

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/sluicemq/sluice/auth"
	"github.com/sluicemq/sluice/bridge"
	"github.com/sluicemq/sluice/broker"
	"github.com/sluicemq/sluice/config"
	"github.com/sluicemq/sluice/control"
	"github.com/sluicemq/sluice/meta"
)

// banKeeper is the catalog's bans for those who ask and change them, and gives all of them to those who keep clients out after each change.
type banKeeper struct {
	*follower
	catalog *meta.Catalog
	bans    *auth.Bans
}

var _ control.Bans = (*banKeeper)(nil)

// keepBans has recheck called when somebody may have to go.
func keepBans(c *meta.Catalog, bans *auth.Bans, recheck func()) *banKeeper {
	return &banKeeper{follow(c, meta.BansChanged, func(s *meta.Snapshot) {
		if bans.Set(listBans(s)) {
			recheck()
		}
	}), c, bans}
}

func listBans(s *meta.Snapshot) []auth.Ban {
	list := make([]auth.Ban, 0, s.BanCount())
	for _, b := range s.Bans() {
		list = append(list, auth.Ban{Kind: auth.BanKind(b.Kind), Name: b.Name, Since: b.Since, Until: b.Until, Reason: b.Reason})
	}
	return list
}

// List makes it a control.Bans.
func (k *banKeeper) List() []auth.Ban { return k.bans.List() }

// Add makes it a control.Bans.
func (k *banKeeper) Add(b auth.Ban, done func(error)) {
	k.catalog.Update(func(s *meta.Snapshot) ([]meta.Entry, error) {
		list, err := meta.AddBan(s, meta.Ban{Kind: uint8(b.Kind), Name: b.Name, Since: b.Since, Until: b.Until, Reason: b.Reason}, time.Now().UnixMilli())
		if errors.Is(err, meta.ErrTooManyBans) {
			err = fmt.Errorf("%w: %w", broker.ErrQuota, err)
		}
		return list, err
	}, func(err error) { k.settled(func() { done(err) }) })
}

// Remove makes it a control.Bans.
func (k *banKeeper) Remove(kind auth.BanKind, name string, done func(found bool, err error)) {
	forgiven := k.bans.Forgive(kind, name)
	found := false
	k.catalog.Update(func(s *meta.Snapshot) ([]meta.Entry, error) {
		list := meta.RemoveBan(s, uint8(kind), name)
		found = list != nil
		return list, nil
	}, func(err error) { k.settled(func() { done(forgiven || found, err) }) })
}

// flapping counts clients, but not the node's bridges, which come back as often as the network lets them; nobody else has their ids.
type flapping struct {
	*auth.Bans
	limits *broker.TenantLimits
}

// Flapping makes it an mqtt.Flapping. Where there are tenants a client id says nothing as long as nobody knows whose it is.
func (f flapping) Flapping(clientID string) bool { return !f.limits.Any() && f.Bans.Flapping(clientID) }

// Connected makes it an mqtt.Flapping.
func (f flapping) Connected(tenant uint32, clientID string) bool {
	return strings.HasPrefix(clientID, bridge.SessionPrefix) || f.Bans.Connected(tenant, clientID)
}

func flappingOptions(cfg *config.Config) auth.FlappingOptions {
	f := &cfg.Limits.Flapping
	return auth.FlappingOptions{Connects: f.Connects, AddressConnects: f.AddressConnects, Window: f.Window, Ban: f.Ban}
}

func (c *collector) collectBans(k sink) {
	counts := make(map[auth.BanKind]int)
	for _, b := range c.s.bans.List() {
		counts[b.Kind]++
	}
	for _, kind := range auth.BanKindsAll() {
		k.gauge("sluice_auth_bans", float64(counts[kind]), kind.String())
		k.counter("sluice_auth_banned_total", c.s.bans.Refused(kind), kind.String())
		if kind != auth.BanUser {
			k.counter("sluice_auth_flapping_total", c.s.bans.Flapped(kind), kind.String())
		}
	}
}
