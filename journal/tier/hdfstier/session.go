package hdfstier

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/colinmarc/hdfs/v2"

	"github.com/sluicemq/sluice/journal/tier"
)

// idleMax is how many sessions wait for their next use.
const idleMax = 4

// Options are what the store is opened with.
type Options struct {
	NameNodes   []string      // "host:8020", all of a cluster: the active one is found
	Dir         string        // absolute; is made at the first Put
	User        string        // for simple authentication
	Replication int           // 0: 3
	BlockBytes  int64         // 0: 128 MiB
	Timeout     time.Duration // without a byte from a node; 0: 30 s
	// DataNodeNames connects to data nodes by name, not by address, where clients see others than the name node does.
	DataNodeNames bool

	// Dial makes connections; nil: net.Dialer.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
}

// FromSettings opens what the settings say; docs/tiers.md lists them.
func FromSettings(ctx context.Context, s *tier.Settings) (tier.Store, error) {
	o := Options{
		NameNodes: strings.Split(s.Required("name_nodes"), ","), Dir: s.Required("dir"), User: s.Required("user"),
		Replication: int(s.Int("replication", 0, 1, 512)), BlockBytes: s.Int("block_bytes", 0, 1<<20, 1<<40),
		Timeout: s.Duration("timeout", 0), DataNodeNames: s.Bool("data_node_names", false),
	}
	if err := s.Err(); err != nil {
		return nil, err
	}
	return Open(ctx, o)
}

// Open checks the options. It asks the cluster nothing: that it cannot be reached is told at the first use.
func Open(ctx context.Context, o Options) (*Store, error) {
	if len(o.NameNodes) == 0 || o.User == "" || !strings.HasPrefix(o.Dir, "/") || o.Dir == "/" {
		return nil, tier.Wrap(ctx, kind, "open", o.Dir, tier.Permanent, errors.New("name nodes, a user and an absolute directory are needed"))
	}
	for i := range o.NameNodes {
		o.NameNodes[i] = strings.TrimSpace(o.NameNodes[i])
	}
	o.Dir = strings.TrimRight(o.Dir, "/")
	if o.Replication == 0 {
		o.Replication = 3
	}
	if o.BlockBytes == 0 {
		o.BlockBytes = 128 << 20
	}
	if o.Timeout == 0 {
		o.Timeout = 30 * time.Second
	}
	if o.Dial == nil {
		o.Dial = (&net.Dialer{Timeout: 10 * time.Second, KeepAlive: 30 * time.Second}).DialContext
	}
	s := &Store{o: o, p: pool{o: o}}
	s.p.asked = &s.asked
	return s, nil
}

// pool keeps sessions for the next call: the client does one thing at a time, and none of its calls can be ended but with its connections.
type pool struct {
	o     Options
	asked *tier.Requests
	mu    struct {
		sync.Mutex
		idle   []*session
		closed bool
	}
}

// session is a client with the connections it has, used by one call at a time.
type session struct {
	p      *pool
	client *hdfs.Client
	stop   func() bool // ends the watch on the call's context; false: it has ended

	mu struct {
		sync.Mutex
		conns  map[net.Conn]struct{}
		killed bool
		failed bool // a data node's connection has: for a Put, all is lost
	}
}

// take gives a session that dies with ctx until it is released.
func (p *pool) take(ctx context.Context) (*session, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	p.mu.Lock()
	var ses *session
	if k := len(p.mu.idle); k > 0 {
		ses, p.mu.idle = p.mu.idle[k-1], p.mu.idle[:k-1]
	}
	p.mu.Unlock()
	if ses != nil {
		ses.stop = context.AfterFunc(ctx, ses.kill)
		ses.mu.Lock()
		ses.mu.failed = false
		ses.mu.Unlock()
		return ses, nil
	}
	ses = &session{p: p}
	ses.mu.conns = make(map[net.Conn]struct{})
	ses.stop = context.AfterFunc(ctx, ses.kill)
	client, err := hdfs.NewClient(hdfs.ClientOptions{
		Addresses: p.o.NameNodes, User: p.o.User, UseDatanodeHostname: p.o.DataNodeNames, NamenodeDialFunc: ses.dial, DatanodeDialFunc: ses.dialData,
	})
	if err != nil {
		ses.stop()
		ses.kill()
		return nil, err
	}
	ses.client = client
	return ses, nil
}

// with runs f with a session. f's error decides whether the session can be used again.
func (p *pool) with(ctx context.Context, f func(*session) error) error {
	ses, err := p.take(ctx)
	if err != nil {
		return err
	}
	err = f(ses)
	ses.release(err)
	return err
}

func (p *pool) do(ctx context.Context, f func(asking) error) error {
	return p.with(ctx, func(ses *session) error { return f(ses.ask()) })
}

// ask is its client, whose operations are counted.
func (ses *session) ask() asking { return asking{ses.client, ses.p.asked} }

// release gives the session back: for the next call, if nothing has happened to its connections.
func (ses *session) release(err error) {
	p := ses.p
	alive := ses.stop() && (err == nil || isRemote(err) || errors.Is(err, tier.ErrNotFound) || errors.Is(err, tier.ErrExists) || errors.Is(err, tier.ErrRange))
	p.mu.Lock()
	alive = alive && !p.mu.closed && len(p.mu.idle) < idleMax
	if alive {
		p.mu.idle = append(p.mu.idle, ses)
	}
	p.mu.Unlock()
	if !alive {
		ses.end()
	}
}

func (ses *session) end() {
	ses.kill()
	_ = ses.client.Close() // of connections that are closed
}

func (p *pool) close() {
	p.mu.Lock()
	idle := p.mu.idle
	p.mu.idle, p.mu.closed = nil, true
	p.mu.Unlock()
	for _, ses := range idle {
		ses.end()
	}
}

// kill closes the session's connections, and lets it have no other.
func (ses *session) kill() {
	ses.mu.Lock()
	defer ses.mu.Unlock()
	ses.mu.killed = true
	for c := range ses.mu.conns {
		_ = c.Close()
	}
	clear(ses.mu.conns)
}

var errKilled = errors.New("hdfs: session has ended")

// broken tells whether a data node's connection has failed, or all were closed.
func (ses *session) broken() bool {
	ses.mu.Lock()
	defer ses.mu.Unlock()
	return ses.mu.killed || ses.mu.failed
}

func (ses *session) dialData(ctx context.Context, network, addr string) (net.Conn, error) {
	c, err := ses.dial(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	return &dataConn{c}, nil
}

// dataConn is a connection to a data node. Its Write never fails: the client would leave a goroutine behind, waiting for packets for ever. The
// connection is closed instead, so that the next read fails: no block is finished without an answer.
type dataConn struct{ net.Conn }

func (c *dataConn) Write(p []byte) (int, error) {
	if _, err := c.Conn.Write(p); err != nil {
		_ = c.Close()
		ses := c.Conn.(*conn).ses
		ses.mu.Lock()
		ses.mu.failed = true
		ses.mu.Unlock()
	}
	return len(p), nil
}

func (ses *session) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	ses.mu.Lock()
	killed := ses.mu.killed
	ses.mu.Unlock()
	if killed {
		return nil, errKilled
	}
	raw, err := ses.p.o.Dial(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	ses.mu.Lock()
	defer ses.mu.Unlock()
	if ses.mu.killed {
		_ = raw.Close()
		return nil, errKilled
	}
	c := &conn{Conn: raw, ses: ses, timeout: ses.p.o.Timeout}
	ses.mu.conns[raw] = struct{}{}
	return c, nil
}

// conn gives each read and write a time of its own: the client gives them none.
type conn struct {
	net.Conn
	ses     *session
	timeout time.Duration
}

func (c *conn) Read(p []byte) (int, error) {
	if err := c.SetReadDeadline(time.Now().Add(c.timeout)); err != nil {
		return 0, err
	}
	return c.Conn.Read(p)
}

func (c *conn) Write(p []byte) (int, error) {
	if err := c.SetWriteDeadline(time.Now().Add(c.timeout)); err != nil {
		return 0, err
	}
	return c.Conn.Write(p)
}

func (c *conn) Close() error {
	c.ses.mu.Lock()
	delete(c.ses.mu.conns, c.Conn)
	c.ses.mu.Unlock()
	return c.Conn.Close()
}

// isRemote tells whether err is a node's answer, and not of the connection to it.
func isRemote(err error) bool {
	var remote hdfs.Error
	if errors.As(err, &remote) {
		return true
	}
	for _, e := range []error{os.ErrNotExist, os.ErrExist, os.ErrPermission, os.ErrInvalid, syscall.ENOTEMPTY} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// kindOf is the kind of a client's error.
func kindOf(err error) tier.Kind {
	switch {
	case errors.Is(err, os.ErrNotExist):
		return tier.NotFound
	case errors.Is(err, os.ErrPermission):
		return tier.Denied
	case errors.Is(err, os.ErrInvalid), errors.Is(err, os.ErrExist), errors.Is(err, syscall.ENOTEMPTY):
		return tier.Permanent
	}
	var remote hdfs.Error
	if errors.As(err, &remote) {
		ex := remote.Exception()
		switch {
		case strings.Contains(ex, "QuotaExceeded") || strings.Contains(ex, "QuotaByStorageType"), strings.Contains(ex, "DiskOutOfSpace"):
			return tier.Full
		case strings.Contains(ex, "AccessControl"), strings.Contains(ex, "AuthorizationException"), strings.Contains(ex, "InvalidToken"):
			return tier.Denied
		case strings.Contains(ex, "UnsupportedOperation"), strings.Contains(ex, "InvalidPath"), strings.Contains(ex, "IllegalArgument"):
			return tier.Permanent
		}
	}
	return tier.Unavailable
}

// String names the store in messages.
func (s *Store) String() string { return fmt.Sprintf("hdfs://%s%s", s.o.NameNodes[0], s.o.Dir) }
