package server

import (
	"sync"
	"time"

	"github.com/sluicemq/sluice/auth"
	"github.com/sluicemq/sluice/broker"
	"github.com/sluicemq/sluice/meta"
)

// catalogStore is the catalog together with what makes its changes durable, once there is a core.
type catalogStore struct {
	*meta.Catalog
	group *catalogGroup
}

func newCatalogStore() *catalogStore {
	g := &catalogGroup{}
	return &catalogStore{meta.New(g), g}
}

// catalogGroup makes changes of the catalog commands of the core, for a lone node; those of a node of a cluster the cluster's group decides about.
type catalogGroup struct {
	b      *broker.Broker
	shared meta.Group // nil: the node is alone
}

// Propose makes it a meta.Group.
func (g *catalogGroup) Propose(base uint64, changes []meta.Entry, done func(error)) {
	if g.shared != nil {
		g.shared.Propose(base, changes, done)
		return
	}
	list := make([]broker.CatalogEntry, len(changes))
	for i := range changes {
		list[i] = broker.CatalogEntry(changes[i])
	}
	g.b.SetEntries(list, done)
}

// entriesChanged tells the catalog what the core has applied.
func entriesChanged(c *meta.Catalog) func([]broker.CatalogEntry) {
	return func(changes []broker.CatalogEntry) {
		list := make([]meta.Entry, len(changes))
		for i := range changes {
			list[i] = meta.Entry(changes[i])
		}
		c.Apply(0, list)
	}
}

// authTenants are those beside the default one, as auth knows tenants.
func authTenants(s *meta.Snapshot) (list []auth.Tenant) {
	for _, t := range s.Tenants() {
		list = append(list, auth.Tenant{Name: t.Name, Number: t.Number, Disabled: t.Disabled})
	}
	return list
}

// catalogUsers are the users of the catalog as auth knows users.
type catalogUsers struct{ c *meta.Catalog }

// Account makes it an auth.Directory.
func (u catalogUsers) Account(name string) (auth.Account, bool) {
	user := u.c.Load().User(name)
	if user == nil {
		return auth.Account{}, false
	}
	return auth.Account{Tenant: user.Tenant, Disabled: user.Disabled, Password: user.Password, SHA256: verifierOf(user, meta.SCRAMSHA256),
		SHA512: verifierOf(user, meta.SCRAMSHA512)}, true
}

// Accounts counts them.
func (u catalogUsers) Accounts() int { return u.c.Load().UserCount() }

func verifierOf(u *meta.User, m meta.Mechanism) *auth.Verifier {
	c := u.Credential(m)
	if c == nil {
		return nil
	}
	return &auth.Verifier{Iterations: c.Iterations, Salt: c.Salt, StoredKey: c.StoredKey, ServerKey: c.ServerKey}
}

// recheckPause is how long after all connections were looked at they are looked at again: each time costs a walk over all of them.
const recheckPause = time.Second

// rechecker has connections looked at again when users are changed who may have some.
type rechecker struct {
	wanted chan struct{}
	stop   chan struct{}
	done   sync.WaitGroup
	cancel func()
}

// watchUsers calls recheck soon after users of the catalog were changed or deleted.
func watchUsers(c *meta.Catalog, recheck func()) *rechecker {
	r := &rechecker{wanted: make(chan struct{}, 1), stop: make(chan struct{})}
	r.cancel = c.Subscribe(func(old, now *meta.Snapshot) {
		known := false
		meta.ChangedUsers(old, now, func(name string) { known = known || old.User(name) != nil })
		if known {
			r.soon()
		}
	})
	r.done.Add(1)
	go r.run(recheck)
	return r
}

// soon has recheck called, after those calls that are under way.
func (r *rechecker) soon() {
	select {
	case r.wanted <- struct{}{}:
	default: // it will be
	}
}

func (r *rechecker) run(recheck func()) {
	defer r.done.Done()
	for {
		select {
		case <-r.wanted:
		case <-r.stop:
			return
		}
		recheck()
		select {
		case <-time.After(recheckPause):
		case <-r.stop:
			return
		}
	}
}

func (r *rechecker) close() {
	r.cancel()
	close(r.stop)
	r.done.Wait()
}
