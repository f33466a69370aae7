package control

import (
	"context"
	"fmt"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/sluicemq/sluice/broker"
	"github.com/sluicemq/sluice/control/api"
)

// explaining is a Connection that can say what it holds and waits for.
type explaining interface {
	Connection
	// Explain is Describe for the state; ok false: as there. It may cost a system call.
	Explain() (s broker.ClientState, ok bool)
}

// explainService is the service Explanations.
type explainService struct {
	api.UnsafeExplanationsServer // a method that is missing does not compile
	s                            *Server
}

// explained is one connection at one moment.
type explained struct {
	info  broker.ClientInfo
	state broker.ClientState
	delay time.Duration // that its loop took to come round
}

// explain looks at one slice of connections.
func (e *explainService) explain(ctx context.Context, at broker.RowPlace, want func(*broker.ClientInfo) bool) (list []explained, next broker.RowPlace, end bool, err error) {
	type found struct {
		list []explained
		next broker.RowPlace
		end  bool
	}
	asked := time.Now()
	f, err := await(ctx, func(done func(found)) {
		var f found
		var delay time.Duration
		e.s.o.Connections.Visit(at, sliceRows, func(c Connection) {
			if delay == 0 {
				delay = max(time.Since(asked), 1)
			}
			info, ok := c.Describe()
			if !ok || !want(&info) {
				return
			}
			x := explained{info: info, delay: delay}
			if c, ok := c.(explaining); ok {
				x.state, _ = c.Explain()
			}
			f.list = append(f.list, x)
		}, func(next broker.RowPlace, end bool) {
			f.next, f.end = next, end
			done(f)
		})
	})
	return f.list, f.next, f.end, err
}

// ExplainClient shows what holds a client, wherever it is connected.
func (e *explainService) ExplainClient(ctx context.Context, r *api.ExplainClientRequest) (*api.ExplainClientResponse, error) {
	what, want, err := which("explain", tenantOf(ctx), r.Id, r.Connection)
	if err != nil {
		return nil, err
	}
	here, others, err := e.s.where(ctx, what, r.Connection, r.Node)
	if err != nil {
		return nil, err
	}
	out := &api.ExplainClientResponse{}
	if here {
		if err := e.explainHere(ctx, r.Id, want, out); err != nil {
			return nil, err
		}
	}
	for _, node := range others {
		some, err := askFor[*api.ExplainClientResponse](ctx, e.s, node, "/sluice.control.v1.Explanations/ExplainClient", r)
		switch status.Code(err) {
		case codes.OK:
			out.Connections = append(out.Connections, some.Connections...)
			if some.Session != nil {
				out.Session, out.SessionDropped, out.Holders = some.Session, some.SessionDropped, some.Holders
			}
		case codes.NotFound:
		case codes.Unavailable:
			out.NotAsked = append(out.NotAsked, uint32(node))
		default:
			return nil, err
		}
	}
	if len(out.Connections) == 0 && out.Session == nil {
		return nil, nobody(out.NotAsked, "%s: it is not connected, and has no session that is kept; sluice client list shows who is connected", what)
	}
	return out, nil
}

// explainHere adds the connections of this node, and the session if this node leads.
func (e *explainService) explainHere(ctx context.Context, kept string, want func(*broker.ClientInfo) bool, out *api.ExplainClientResponse) error {
	var at broker.RowPlace
	for end := false; !end; {
		var list []explained
		var err error
		if list, at, end, err = e.explain(ctx, at, want); err != nil {
			return err
		}
		for i := range list {
			if x := &list[i]; len(out.Connections) < detailRows {
				if x.info.Kept {
					kept = x.info.ClientID
				}
				out.Connections = append(out.Connections, e.s.shownExplanation(x))
			}
		}
	}
	if e.s.o.Peers != nil {
		if _, elsewhere := e.s.o.Peers.Leader(); elsewhere {
			return nil
		}
	}
	if info, ok := e.s.o.Broker.Session(tenantOf(ctx), kept); ok && kept != "" {
		out.Session, out.SessionDropped = shownSession(&info), shownDrops(info.Dropped)
		if len(out.Connections) == 0 {
			out.Holders = away(&info, time.Now())
		}
	}
	return nil
}

// away is what holds a session without a connection.
func away(s *broker.SessionInfo, now time.Time) []*api.Holder {
	text := "it is not connected"
	if s.Ends != 0 && s.Expiry != broker.NeverExpires {
		text += fmt.Sprintf(" for %s", span(now.Sub(time.UnixMilli(s.Ends).Add(-s.Expiry))))
		text += fmt.Sprintf("; its session ends in %s", span(time.UnixMilli(s.Ends).Sub(now)))
	}
	if s.Queued > 0 {
		text += fmt.Sprintf("; %d messages wait for it in the log", s.Queued)
	}
	return []*api.Holder{{Kind: "away", Why: text}}
}

func (s *Server) shownExplanation(x *explained) *api.ClientExplanation {
	c, w := &x.state, &x.state.Core
	out := &api.ClientExplanation{Client: s.shownClient(&x.info), Holders: judge(&x.info, c, x.delay), ReceiveMax: int64(c.ReceiveMax), Window: int64(c.Window),
		SilentUs: c.Silent.Microseconds(), OutBytes: int64(c.OutBytes), OutBound: int64(c.OutBound), StalledUs: c.Stalled.Microseconds(),
		Unanswered: int64(c.Unanswered), SendOwedUs: c.SendOwed.Microseconds(), ReadOwedUs: c.ReadOwed.Microseconds(), Commits: int64(w.Commits),
		Behind: w.Behind, Resend: int64(w.Resend), Reading: int64(w.Reading), Granting: int64(w.Granting), Retained: int64(w.Retained),
		Replays: int64(w.Replays), Pressure: pressureName(c.Pressure), Dropped: shownDrops(c.Dropped), LoopDelayUs: x.delay.Microseconds()}
	if w.Storage != nil {
		out.Storage = plainError(w.Storage)
	}
	for _, p := range c.NotRead {
		out.NotRead = append(out.NotRead, p.String())
	}
	if n := c.Network; n != nil {
		out.Network = &api.Network{Unsent: int64(n.Unsent), Full: n.Full, Repeats: int32(n.Repeats), RttUs: n.RTT.Microseconds()}
	}
	return out
}

func shownDrops(list []broker.DropCount) map[string]int64 {
	if len(list) == 0 {
		return nil
	}
	m := make(map[string]int64, len(list))
	for _, d := range list {
		m[d.Reason] = int64(d.N)
	}
	return m
}

func pressureName(level int) string {
	names := [...]string{"none", "shed", "refuse"}
	return names[min(max(level, 0), len(names)-1)]
}

// plainError is an error of the core without its package's name.
func plainError(err error) string { return text(strings.TrimPrefix(err.Error(), "broker: ")) }
