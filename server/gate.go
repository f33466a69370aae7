package server

import (
	"context"
	"fmt"
	"net/netip"

	"github.com/sluicemq/sluice/broker"
	"github.com/sluicemq/sluice/config"
)

// gate says who comes in and what they may do.
type gate struct{ anonymous string }

func newGate(cfg *config.Config) (*gate, error) { return &gate{anonymous: cfg.Anonymous()}, nil }

func (g *gate) reload(cfg *config.Config) error { return nil }

func (g *gate) Quick(c broker.Credentials) (broker.Identity, bool, error) {
	id := broker.Identity{ClientID: c.ClientID, Remote: c.Remote.Addr(), Source: "anonymous"}
	if g.anonymous == "everywhere" || g.anonymous == "loopback" && (c.Remote == netip.AddrPort{} || c.Remote.Addr().Unmap().IsLoopback()) {
		return id, true, nil
	}
	return id, true, fmt.Errorf("%w", broker.ErrNotAuthorized)
}

func (g *gate) Authenticate(_ context.Context, c broker.Credentials) (broker.Identity, error) {
	id, _, err := g.Quick(c)
	return id, err
}

func (g *gate) Authorize(*broker.Identity, broker.Action, []byte) bool { return true }
func (g *gate) Generation() uint64                                     { return 0 }
