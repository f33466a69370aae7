package mqtt

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"hash/maphash"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sluicemq/sluice/broker"
	"github.com/sluicemq/sluice/engine"
	"github.com/sluicemq/sluice/proto/mqtt/wire"
)

// Rechecker is an Authenticator that can tell later whether a client that it let in would still come in: its user is gone, its
// password was changed, its certificate was revoked. Recheck never blocks and is safe for concurrent use.
type Rechecker interface {
	Recheck(id *broker.Identity, certs []*x509.Certificate) error
}

// Flapping says which clients come too often. Neither method blocks; both are safe for concurrent use.
type Flapping interface {
	// Flapping says whether a client id has come too often, before anything is asked about the client. It says no where that depends on its tenant.
	Flapping(clientID string) bool
	// Connected counts a client of a tenant that is let in; false: it has come too often, and is not.
	Connected(tenant uint32, clientID string) bool
}

// verify asks who the client is: at once if that can be told at once, else by the pool.
func (c *conn) verify(p *wire.Connect) {
	h, st := c.l.h, c.setup
	if h.flapping != nil && h.flapping.Flapping(st.creds.ClientID) {
		c.misbehaved(*failBanned)
		c.refuse(*failBanned)
		return
	}
	if p.AuthMethod != nil {
		c.converse(p.AuthMethod, p.AuthData)
		return
	}
	if h.authn == nil {
		c.admit(broker.Identity{Source: "anonymous"})
		return
	}
	if h.quick != nil {
		creds := st.creds
		creds.Password = p.Password
		if id, done, err := h.quick.Quick(creds); done {
			c.verified(id, err)
			return
		}
	}
	st.creds.Password = bytes.Clone(p.Password)
	c.state = stateVerify
	timeout := h.settings.Load().ConnectTimeout
	if timeout > 0 {
		c.link.SetDeadline(c.l.loop.NowMono() + int64(timeout))
	}
	lane, v := broker.LaneHere, &verification{c: c, authn: h.authn, creds: st.creds}
	if h.lanes != nil {
		lane = h.lanes.Lane(st.creds)
	}
	if timeout > 0 {
		v.until = time.Now().Add(timeout)
	}
	if !h.pools[lane].submit(v) {
		c.verified(broker.Identity{}, broker.ErrAuthBusy)
		return
	}
	c.block(blockConnect)
}

// verified goes on with the answer.
func (c *conn) verified(id broker.Identity, err error) {
	clear(c.setup.creds.Password)
	c.setup.creds.Password = nil
	if err == nil {
		err = c.recheckNew(&id)
	}
	if err == nil && c.l.h.flapping != nil && !c.l.h.flapping.Connected(id.Tenant, c.setup.creds.ClientID) {
		err = broker.ErrBanned
	}
	if err == nil {
		c.admit(id)
		return
	}
	f := connectFailure(err)
	c.misbehaved(*f)
	c.refuse(*f)
}

// recheckNew looks again at an answer that has just come: the user may have been changed, and everybody looked at again, between the answer and
// now.
func (c *conn) recheckNew(id *broker.Identity) error {
	h := c.l.h
	if h.recheck == nil {
		return nil
	}
	who := &c.l.identity // what an interface is given would be on the heap
	*who = *id
	err := h.recheck.Recheck(who, c.certificates())
	if err != nil && !errors.Is(err, broker.ErrBanned) {
		err = broker.ErrNotAuthorized
	}
	return err
}

// verification is one client's credentials on their way through the pool and back to the loop.
type verification struct {
	c     *conn
	authn broker.Authenticator
	creds broker.Credentials
	until time.Time // the client is gone then; zero: it waits for ever
	id    broker.Identity
	err   error
}

// work runs on a goroutine of the pool.
func (v *verification) work(ctx context.Context) {
	if !v.until.IsZero() {
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadline(ctx, v.until)
		defer cancel()
	}
	if v.err = ctx.Err(); v.err == nil { // else it has waited too long: nobody need find out any more
		v.id, v.err = v.authn.Authenticate(ctx, v.creds)
	}
	v.c.l.loop.Post(v)
}

// Run takes the answer on the loop. The connection may be gone by then.
func (v *verification) Run(*engine.Loop) {
	if v.c.state != stateVerify {
		return
	}
	v.c.verified(v.id, v.err)
	if v.c.state != stateConnecting {
		v.c.unblock(blockConnect)
	}
}

// laneWorkers is how many clients at a time are verified in a lane where others are asked.
const laneWorkers = 64

// authJob is what a client waits for. work leaves its outcome with the loop.
type authJob interface{ work(ctx context.Context) }

// authPool verifies so many clients at a time, and lets so many wait. Its goroutines are started as clients come.
type authPool struct {
	jobs    chan authJob
	workers int32
	running atomic.Int32

	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup
}

func (p *authPool) start(workers, waiting int) {
	if workers <= 0 {
		workers = 4
	}
	if waiting <= 0 {
		waiting = 4096
	}
	p.jobs = make(chan authJob, waiting)
	p.ctx, p.cancel = context.WithCancel(context.Background())
	p.workers = int32(workers)
}

func (p *authPool) run() {
	defer p.wg.Done()
	for {
		select {
		case j := <-p.jobs:
			j.work(p.ctx)
		case <-p.ctx.Done():
			return
		}
	}
}

// submit never waits; false says that too many do.
func (p *authPool) submit(j authJob) bool {
	select {
	case p.jobs <- j:
	default:
		return false
	}
	if n := p.running.Load(); n < p.workers && p.running.CompareAndSwap(n, n+1) {
		p.wg.Add(1)
		go p.run()
	}
	return true
}

func (p *authPool) close() {
	p.cancel()
	p.wg.Wait()
}

// aclCacheSize is how many topics' decisions a connection keeps.
const aclCacheSize = 4

// aclCache keeps decisions about the topics that a connection published to last, as long as the rules are the same.
type aclCache struct {
	generation uint64
	last       uint8 // the entry that was asked for last: who publishes several at once often does so to one topic
	entries    [aclCacheSize]aclEntry
}

type aclEntry struct {
	topic   []byte
	allowed bool
}

// aclTopicMax is the longest topic that is worth keeping.
const aclTopicMax = 256

var aclSeed = maphash.MakeSeed()

// mayPublish asks the rules about a topic.
func (c *conn) mayPublish(topic []byte) bool {
	a := c.l.h.authz
	if a == nil {
		return true
	}
	if len(topic) > aclTopicMax {
		return a.Authorize(c.identity(), broker.ActionPublish, topic)
	}
	generation := a.Generation() // before asking: an answer by newer rules is then asked again, never the other way round
	x := c.extras()
	if x.acl == nil {
		x.acl = &aclCache{}
	}
	cache := x.acl
	if cache.generation != generation {
		for i := range cache.entries {
			cache.entries[i].topic = cache.entries[i].topic[:0]
		}
		cache.generation = generation
	}
	if e := &cache.entries[cache.last]; bytes.Equal(e.topic, topic) {
		return e.allowed
	}
	cache.last = uint8(maphash.Bytes(aclSeed, topic) % aclCacheSize)
	e := &cache.entries[cache.last]
	if bytes.Equal(e.topic, topic) {
		return e.allowed
	}
	e.topic = append(e.topic[:0], topic...)
	e.allowed = a.Authorize(c.identity(), broker.ActionPublish, topic)
	return e.allowed
}
