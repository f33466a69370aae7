package server

import (
	"github.com/sluicemq/sluice/broker"
	"github.com/sluicemq/sluice/meta"
)

// catalogGroup makes changes of the catalog commands of the core: the group of a lone node.
type catalogGroup struct{ b *broker.Broker }

// Propose makes it a meta.Group.
func (g *catalogGroup) Propose(changes []meta.Entry, done func(error)) {
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
		c.Apply(list)
	}
}
