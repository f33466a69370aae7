package control

import (
	"context"
	"time"

	"github.com/sluicemq/sluice/auth"
	"github.com/sluicemq/sluice/control/api"
	"github.com/sluicemq/sluice/meta"
)

// Bans are the catalog's, and those that this node has made for flapping.
type Bans interface {
	List() []auth.Ban // that are not over, in no order
	// Add adds a ban or changes it. done is called when the change counts.
	Add(b auth.Ban, done func(error))
	// Remove takes a ban away. done is called when the change counts.
	Remove(kind auth.BanKind, name string, done func(found bool, err error))
}

// banService is the service Bans.
type banService struct {
	api.UnsafeBansServer // a method that is missing does not compile
	s                    *Server
}

// banTarget reads who is kept out.
func banTarget(what string, t *api.BanTarget) (kind auth.BanKind, name string, err error) {
	said := 0
	for _, x := range []struct {
		kind auth.BanKind
		name string
	}{{auth.BanClient, t.GetClientId()}, {auth.BanUser, t.GetUser()}, {auth.BanAddress, t.GetAddress()}} {
		if x.name != "" {
			kind, name = x.kind, x.name
			said++
		}
	}
	switch {
	case said != 1:
		return 0, "", wrong("%s: want a client id, a user or an address, one of them", what)
	case len(name) > meta.BanNameMax:
		return 0, "", wrong("%s: a name has at most %d bytes, found %d", what, meta.BanNameMax, len(name))
	case kind == auth.BanAddress:
		if name, err = auth.ParseBanAddress(name); err != nil {
			return 0, "", wrong("%s: %v", what, err)
		}
	}
	return kind, name, nil
}

// was notes a ban before a change.
func (c *banService) was(ctx context.Context, kind auth.BanKind, name string) {
	for _, b := range c.s.o.Bans.List() {
		if b.Kind == kind && b.Name == name {
			was(ctx, shownBan(&b))
			return
		}
	}
}

// Add adds a ban.
func (c *banService) Add(ctx context.Context, r *api.AddBanRequest) (*api.Ban, error) {
	const what = "add ban"
	kind, name, err := banTarget(what, r.Target)
	if err != nil {
		return nil, err
	}
	now := time.Now().UnixMilli()
	if r.UntilMs != 0 && r.UntilMs <= now {
		return nil, wrong("%s: its end is over", what)
	}
	if len(r.Reason) > meta.BanReasonMax {
		return nil, wrong("%s: a reason has at most %d bytes, found %d", what, meta.BanReasonMax, len(r.Reason))
	}
	c.was(ctx, kind, name)
	b := auth.Ban{Kind: kind, Name: name, Since: now, Until: r.UntilMs, Reason: r.Reason}
	if err := awaitError(ctx, func(done func(error)) { c.s.o.Bans.Add(b, done) }); err != nil {
		return nil, refuse(err, what, "")
	}
	return shownBan(&b), nil
}

func shownBan(b *auth.Ban) *api.Ban {
	out := &api.Ban{Target: &api.BanTarget{}, SinceMs: b.Since, UntilMs: b.Until, Reason: text(b.Reason), Source: sourceCatalog}
	if b.Flapping {
		out.Source = sourceFlapping
	}
	switch b.Kind {
	case auth.BanClient:
		out.Target.ClientId = text(b.Name)
	case auth.BanUser:
		out.Target.User = text(b.Name)
	case auth.BanAddress:
		out.Target.Address = b.Name
	}
	return out
}

// sourceFlapping is where a ban comes from that a node has made itself.
const sourceFlapping = "flapping"

// List lists the bans: client ids first, then users, then addresses, each by name.
func (c *banService) List(_ context.Context, r *api.ListBansRequest) (*api.ListBansResponse, error) {
	size, err := sizeOf(r.PageSize)
	if err != nil {
		return nil, err
	}
	page, next := pageOf(c.s.o.Bans.List(), banKey, r.PageToken, size)
	out := &api.ListBansResponse{NextPageToken: next}
	for i := range page {
		out.Bans = append(out.Bans, shownBan(&page[i]))
	}
	return out, nil
}

// banKey puts bans in their order. One for flapping may be there beside one of the catalog.
func banKey(b *auth.Ban) string {
	key := string(rune('0'+b.Kind)) + b.Name
	if b.Flapping {
		key += "\x00f"
	}
	return key
}

// Remove takes a ban away.
func (c *banService) Remove(ctx context.Context, r *api.RemoveBanRequest) (*api.RemoveBanResponse, error) {
	const what = "remove ban"
	kind, name, err := banTarget(what, r.Target)
	if err != nil {
		return nil, err
	}
	c.was(ctx, kind, name)
	type outcome struct {
		found bool
		err   error
	}
	o, err := await(ctx, func(done func(outcome)) {
		c.s.o.Bans.Remove(kind, name, func(found bool, err error) { done(outcome{found, err}) })
	})
	if err == nil {
		err = o.err
	}
	if err != nil {
		return nil, refuse(err, what, "")
	}
	if !o.found {
		return nil, missing("%s: %s %s is not banned; sluice ban list shows what is there", what, kind, quoted(name))
	}
	return &api.RemoveBanResponse{}, nil
}
