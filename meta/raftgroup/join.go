package raftgroup

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/sluicemq/sluice/meta"
)

// admitted is the answer to a node that joins.
type admitted struct {
	cluster string
	copy    uint64
	level   uint64
	shards  uint64
	nodes   []peer // the others
}

type peer struct {
	id      uint64
	address string
}

func (a *admitted) append(b []byte) []byte {
	b = append(binary.AppendUvarint(b, uint64(len(a.cluster))), a.cluster...)
	for _, v := range []uint64{a.copy, a.level, a.shards, uint64(len(a.nodes))} {
		b = binary.AppendUvarint(b, v)
	}
	for _, p := range a.nodes {
		b = binary.AppendUvarint(b, p.id)
		b = append(binary.AppendUvarint(b, uint64(len(p.address))), p.address...)
	}
	return b
}

func (a *admitted) decode(b []byte) error {
	r := reader{b: b}
	a.cluster = r.string(greetingMax)
	var n uint64
	for _, v := range []*uint64{&a.copy, &a.level, &a.shards, &n} {
		*v = r.uvarint()
	}
	for ; n > 0 && !r.bad && len(a.nodes) < meta.NodesMax; n-- {
		a.nodes = append(a.nodes, peer{r.uvarint(), r.string(meta.NodeAddressMax)})
	}
	if r.bad || len(r.b) > 0 || a.cluster == "" || a.copy == 0 || a.copy > meta.ReplicaMax {
		return errors.New("raftgroup: the answer to a node that joins cannot be read")
	}
	return nil
}

// join asks the nodes that it is told of, one after the other, until one lets it in.
func (g *Group) join(ctx context.Context) error {
	asked := ctx
	ctx, cancel := context.WithTimeout(ctx, g.o.JoinWait)
	defer cancel()
	hello := g.greeting(forJoin, 0)
	told := ""
	var last error // what the nodes have said
	for {
		var now error
		for _, address := range g.o.Join {
			if address == g.o.Address {
				continue // the same list for all nodes is convenient
			}
			a, err := g.ask(ctx, address, &hello)
			if err == nil {
				return g.joinedAs(a)
			}
			if final(err) {
				return fmt.Errorf("join by %s: %w", address, err)
			}
			now = errors.Join(now, fmt.Errorf("%s: %w", address, err))
		}
		if now == nil {
			return errors.New("raftgroup: cluster.peers names no other node than this one")
		}
		if last == nil || ctx.Err() == nil { // that the end cuts a question off is no answer to it
			last = now
		}
		if last.Error() != told {
			told = last.Error()
			g.o.Logger.Info("no node of the cluster lets this one in yet", "node", g.o.Node, "err", last)
		}
		if sleep(ctx, 10*g.o.Tick) != nil {
			if errors.Is(asked.Err(), context.Canceled) {
				return fmt.Errorf("no node of the cluster has let this one in: %w: %w", asked.Err(), last)
			}
			return fmt.Errorf("no node of the cluster has let this one in for %v: %w", g.o.JoinWait, last)
		}
	}
}

// final says whether it is no use to ask again.
func final(err error) bool {
	return errors.Is(err, ErrRemoved) || errors.Is(err, ErrOtherNode) || errors.Is(err, ErrTooOld) || errors.Is(err, ErrOtherCluster) || errors.Is(err, ErrStranger)
}

func (g *Group) ask(ctx context.Context, address string, hello *greeting) (*admitted, error) {
	c, err := openStream(ctx, g.o.Network, address, hello)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	stop := context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	if err := c.SetReadDeadline(time.Now().Add(2 * streamTimeout)); err != nil {
		return nil, err
	}
	status, err := readFrame(c, nil, greetingMax)
	if err != nil {
		return nil, err
	}
	if err := answered(status); err != nil {
		return nil, err
	}
	b, err := readFrame(c, nil, joinMax)
	if err != nil {
		return nil, err
	}
	a := &admitted{}
	return a, a.decode(b)
}

// fits says whether this program goes into a cluster at a level.
func fits(level uint32) error {
	switch {
	case level > meta.Level:
		return fmt.Errorf("%w: the cluster is at level %d, this program can do %d", ErrTooOld, level, meta.Level)
	case level < meta.LevelOldest:
		return fmt.Errorf("%w: the cluster is at level %d, this program goes into those at %d to %d: upgrade by the version between", ErrTooNew, level, meta.LevelOldest, meta.Level)
	}
	return nil
}

// joinedAs makes the node what it was let in as.
func (g *Group) joinedAs(a *admitted) error {
	if err := fits(uint32(min(a.level, 1<<31))); err != nil {
		return err
	}
	if err := g.sameShards(a.shards); err != nil {
		return err
	}
	if g.o.Cluster != "" && g.o.Cluster != a.cluster {
		return fmt.Errorf("%w: the data are of cluster %s, and %s lets the node in", ErrOtherCluster, g.o.Cluster, a.cluster)
	}
	g.mu.Lock()
	for _, p := range a.nodes {
		g.mu.addresses[meta.NodeID(p.id)] = heardAddress{address: p.address}
	}
	g.mu.Unlock()
	g.id.cluster, g.id.copy, g.id.joined = a.cluster, uint32(a.copy), true
	g.o.Logger.Info("this node is let into the cluster", "cluster", a.cluster, "node", g.o.Node)
	return g.id.write(g.o.Dir)
}

func (g *Group) greeting(p purpose, to meta.NodeID) greeting {
	cluster := g.id.cluster
	if cluster == "" {
		cluster = g.o.Cluster
	}
	return greeting{purpose: p, cluster: cluster, from: uint64(g.o.Node), to: uint64(to), replica: uint64(g.id.copy), level: uint64(meta.Level),
		disk: g.id.disk, address: g.o.Address}
}

// admit says whether a stream is taken.
func (g *Group) admit(h *greeting) error {
	s := g.catalog.Load()
	c := s.Cluster()
	n := s.Node(meta.NodeID(min(h.from, meta.NodeIDMax+1)))
	switch {
	case h.from == 0 || h.from > meta.NodeIDMax || h.purpose < forMessages || h.purpose > forJoin:
		return errGreeting
	case h.to != 0 && h.to != uint64(g.o.Node):
		return fmt.Errorf("%w: node %d answers here, not %d", ErrOtherNode, g.o.Node, h.to)
	case h.from == uint64(g.o.Node):
		return fmt.Errorf("%w: this is node %d, and so says the one that calls", ErrOtherNode, g.o.Node)
	case h.cluster != g.id.cluster && (h.cluster != "" || h.purpose != forJoin):
		return fmt.Errorf("%w: this is %s, node %d is of %q", ErrOtherCluster, g.id.cluster, h.from, h.cluster)
	case c != nil && h.level < uint64(c.Level):
		return fmt.Errorf("%w: the cluster is at level %d, node %d can do %d", ErrTooOld, c.Level, h.from, h.level)
	case n != nil && n.State == meta.NodeRemoved, n != nil && h.purpose != forJoin && h.replica < uint64(n.Replica):
		return fmt.Errorf("%w: node %d", ErrRemoved, h.from)
	case n != nil && n.Disk != "" && n.Disk != h.disk:
		return fmt.Errorf("%w: node %d has joined with another data directory; if that one is lost, sluice node replace lets it join anew", ErrOtherNode, h.from)
	case h.purpose == forJoin && c == nil:
		return fmt.Errorf("%w: it has no catalog yet", ErrNotNow)
	case h.purpose == forJoin && n == nil:
		return fmt.Errorf("%w: node %d", ErrNotAdded, h.from)
	}
	return nil // one that this node's catalog does not know has come after what is in it
}

// heard remembers where a node is whose entry says something else: it may be unable to change that before it is reached.
func (g *Group) heard(h *greeting) {
	id := meta.NodeID(h.from)
	if meta.CheckNodeAddress(h.address) != nil {
		return
	}
	said := ""
	if n := g.catalog.Load().Node(id); n != nil {
		said = n.Address
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if _, known := g.mu.addresses[id]; known || len(g.mu.addresses) < meta.NodesMax {
		g.mu.addresses[id] = heardAddress{h.address, said}
	}
}

// addressOf is where a node is reached, empty if nobody has said.
func (g *Group) addressOf(id meta.NodeID) string {
	said := ""
	if n := g.catalog.Load().Node(id); n != nil {
		said = n.Address
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if h, ok := g.mu.addresses[id]; ok && h.instead == said {
		return h.address
	}
	return said
}

// Addresses are where the other nodes of the cluster are reached, as far as this one knows.
func (g *Group) Addresses() map[meta.NodeID]string {
	list := make(map[meta.NodeID]string)
	for _, n := range g.catalog.Load().Nodes() {
		if a := g.addressOf(n.ID); n.ID != g.o.Node && n.State != meta.NodeRemoved && a != "" {
			list[n.ID] = a
		}
	}
	return list
}

// answerJoin lets a node in that was added: it is tied to its data directory, and its copy comes along from now on.
func (g *Group) answerJoin(c net.Conn, h *greeting) {
	ctx, cancel := context.WithTimeout(g.ctx, streamTimeout)
	defer cancel()
	a, err := g.letIn(ctx, h)
	if c.SetDeadline(time.Now().Add(streamTimeout)) != nil {
		return
	}
	if err != nil {
		g.complain("a node could not join", "node", h.from, "err", err)
	}
	if writeFrame(c, append(make([]byte, 4), answer(err)...)) != nil || err != nil {
		return
	}
	_ = writeFrame(c, a.append(make([]byte, 4)))
}

func (g *Group) letIn(ctx context.Context, h *greeting) (*admitted, error) {
	id := meta.NodeID(h.from)
	if err := meta.CheckNodeAddress(h.address); err != nil {
		return nil, err
	}
	err := g.update(ctx, func(s *meta.Snapshot) ([]meta.Entry, error) {
		return meta.ClaimNode(s, id, h.disk, h.address, uint32(min(h.level, 1<<31)))
	})
	switch {
	case errors.Is(err, meta.ErrNodeGone):
		return nil, fmt.Errorf("%w: %w", ErrRemoved, err)
	case errors.Is(err, meta.ErrOtherDisk):
		return nil, fmt.Errorf("%w: %w", ErrOtherNode, err)
	case errors.Is(err, meta.ErrLevel):
		return nil, fmt.Errorf("%w: %w", ErrTooOld, err)
	case err != nil:
		return nil, fmt.Errorf("%w: %w", ErrNotNow, err)
	}
	s := g.catalog.Load()
	n, cluster := s.Node(id), s.Cluster()
	if err := g.dropRetired(ctx, id); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNotNow, err)
	}
	if err := g.addCopy(ctx, replicaOf(id, n.Replica)); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNotNow, err)
	}
	a := &admitted{cluster: cluster.ID, copy: uint64(n.Replica), level: uint64(cluster.Level), shards: uint64(cluster.Shards)}
	for _, o := range s.Nodes() {
		if o.ID != id && o.State != meta.NodeRemoved {
			a.nodes = append(a.nodes, peer{uint64(o.ID), g.addressOf(o.ID)})
		}
	}
	return a, nil
}

// complainEvery is how often the group logs what it cannot help.
const complainEvery = 10 * time.Second

func (g *Group) complain(what string, args ...any) {
	g.mu.Lock()
	now := time.Now()
	quiet := now.Sub(g.mu.complained) < complainEvery
	if !quiet {
		g.mu.complained = now
	}
	g.mu.Unlock()
	if !quiet {
		g.o.Logger.Warn(what, args...) //nolint:sloglint // a constant of each caller
	}
}

// refused remembers that another node refuses this one for good.
func (g *Group) refused(by meta.NodeID, err error) {
	if !final(err) {
		return
	}
	g.mu.Lock()
	g.mu.fatal = err
	g.mu.Unlock()
	g.complain("another node refuses this one", "by", by, "err", err)
}

// Refused says why other nodes refuse this one for good, nil if none did: it was removed, or is not who it says.
func (g *Group) Refused() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.mu.fatal
}

func containsImage(b []byte) bool { return bytes.Contains(b, []byte(imageMagic)) }
