package server

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/sluicemq/sluice/cluster/link"
	"github.com/sluicemq/sluice/config"
	"github.com/sluicemq/sluice/internal/clock"
	"github.com/sluicemq/sluice/internal/pace"
	"github.com/sluicemq/sluice/journal/tier"
	"github.com/sluicemq/sluice/journal/tier/backup"
	"github.com/sluicemq/sluice/journal/tier/localtier"
)

// A node whose log cannot be continued from the leader's gets a copy of the leader's data, a seed: a backup that the leader takes for it, which it reads
// over the link and restores beside its own data. Then it starts anew with that. Nothing of its own is touched before the copy is whole.

// Requests between nodes by which a copy is made and read. Their numbers are on the wire.
const (
	methodSeedTake = 0x5e01 // {}, or of several sets what seedAsks are -> {the backup's name}: takes a backup, and answers when it is whole
	methodSeedRead = 0x5e02 // {offset u64, length u32, name} -> {size of the whole u64, bytes}
	methodSeedEnd  = 0x5e03 // {the backup's name} -> {}
	methodSeedHold = 0x5e04 // {seedAsks without ends} -> {seedAsks}: holds the log of a leader of sets for a node that gets a copy from another one
)

const (
	seedTakeWait = 14 * 24 * time.Hour // as long as a disk may take to be copied, at a pace
	seedReadWait = 30 * time.Second    // for a piece
	seedPiece    = 1 << 20
	seedRest     = 10 * time.Minute // a copy that nobody has read for so long is removed
	seedNameMost = 1 << 10
)

// Files of a seed in a node's data directory.
const (
	seedFolder    = "seed"     // where the node restores it
	seedMark      = "SEED"     // it is whole: the next start takes it
	seedOutFolder = "seed-out" // where the leader puts what it takes for others
)

var seedPieceAgain = pace.Backoff{First: 20 * time.Millisecond, Most: time.Second}

var seedAgain = pace.Backoff{First: 500 * time.Millisecond, Most: 10 * time.Second}

// seeds are the copies that this node makes for others: one at a time.
type seeds struct {
	m  *member
	mu struct {
		sync.Mutex
		busy  bool
		id    string // of the one that is there
		peer  link.NodeID
		store tier.Store
		used  time.Time
		end   *time.Timer
		look  *time.Timer // the log is held; see holdFor
		step  *seedStep   // of the last one
		over  bool
	}
	holds  *setHolds // nil: there are no sets of shards
	giver  *setGiver // likewise
	copier *setCopier
	wg     sync.WaitGroup
	ctx    context.Context
	cancel context.CancelFunc
}

func (s *seeds) dir() string { return filepath.Join(s.m.n.o.clusterConfig.Node.Data, seedOutFolder) }

// serveSeeds takes the requests of other nodes, and removes what an earlier run has left.
func (m *member) serveSeeds(mesh *link.Mesh) {
	s := &seeds{m: m}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	m.seeds = s
	s.ofSets(mesh)
	if err := os.RemoveAll(s.dir()); err != nil {
		m.n.o.logger.Warn("a copy that was made for another node is left", "dir", s.dir(), "err", err)
	}
	mesh.Serve(methodSeedTake, s.take)
	mesh.Serve(methodSeedRead, s.read)
	mesh.Serve(methodSeedEnd, func(r *link.Request) {
		s.drop(string(r.Body.Bytes()))
		r.Reply(nil)
	})
	mesh.Serve(methodSeedHold, s.hold)
}

// take makes a copy.
func (s *seeds) take(r *link.Request) {
	asks, err := s.giver.asked(r.Body.Bytes())
	if err != nil {
		r.Fail(err.Error())
		return
	}
	s.mu.Lock()
	switch {
	case s.mu.over || !s.m.leased():
		s.mu.Unlock()
		r.Fail("this node does not lead")
		return
	case s.mu.busy || s.mu.id != "" && s.mu.peer != r.Peer && time.Since(s.mu.used) < seedReadWait: // who asks again has given up the one before
		s.mu.Unlock()
		r.Fail("busy: a copy is made or read by another node; come again")
		return
	}
	s.mu.busy, s.mu.peer = true, r.Peer
	s.wg.Add(1)
	s.mu.Unlock()
	peer := r.Peer
	go func() {
		defer s.wg.Done()
		id, err := s.make(peer, asks)
		if err != nil {
			s.m.n.o.logger.Error("a copy for another node could not be made", "node", peer, "err", err)
			r.Fail(err.Error())
			return
		}
		s.m.n.o.logger.Info("a copy for another node is made", "node", peer, "copy", id)
		r.Reply([]byte(id))
	}()
}

func (s *seeds) make(peer link.NodeID, asks []seedAsk) (id string, err error) {
	s.remove()
	n := s.m.n
	ls := n.storage.(*logStorage)
	s.mu.Lock()
	s.mu.step = nil
	s.mu.Unlock()
	s.holdFor(peer, ls.log)
	defer func() {
		s.mu.Lock()
		s.mu.busy = false
		if err != nil {
			s.letGoLocked(ls.log)
		}
		s.mu.Unlock()
		if err != nil {
			s.remove()
		}
	}()
	st, err := localtier.Open(s.ctx, localtier.Options{Dir: s.dir()})
	if err != nil {
		return "", err
	}
	s.mu.Lock()
	s.mu.store = st
	s.mu.Unlock()
	w, err := backup.Create(s.ctx, st, backup.Options{Pace: s.m.pace.Limiter, Begin: backup.Begin{Cluster: n.o.kafka.cluster, Node: int(n.o.kafka.node)}})
	if err != nil {
		return "", err
	}
	p := s.making(w)
	if err := s.giver.has(s.ctx, asks); err != nil {
		return "", err
	}
	ls.checkpoint()
	taken := time.Now().UTC().Truncate(time.Millisecond)
	snap, err := ls.log.Backup()
	if err != nil {
		return "", err
	}
	if err = s.giver.leads(asks); err == nil {
		err = copyBackup(s.ctx, w, snap, p)
	}
	if err = errors.Join(err, snap.Close()); err != nil {
		return "", err
	}
	m, err := w.Finish(s.ctx, func(m *backup.Manifest) { m.Taken, m.Shards = taken, n.o.shards })
	if err != nil {
		return "", err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sendingLocked(m.Bytes())
	s.mu.id, s.mu.used = w.ID(), time.Now()
	s.mu.end = time.AfterFunc(seedRest, func() { s.stale(w.ID()) })
	return w.ID(), nil
}

// stale removes a copy that nobody reads.
func (s *seeds) stale(id string) {
	s.mu.Lock()
	if s.mu.id == id && time.Since(s.mu.used) < seedRest {
		s.mu.end.Reset(seedRest)
		s.mu.Unlock()
		return
	}
	s.mu.Unlock()
	s.drop(id)
}

func (s *seeds) drop(id string) {
	s.mu.Lock()
	is := s.mu.id == id && !s.mu.busy
	if is {
		s.mu.used = time.Now()
	}
	s.mu.Unlock()
	if is {
		s.remove()
	}
}

func (s *seeds) remove() {
	s.mu.Lock()
	st, end := s.mu.store, s.mu.end
	s.mu.store, s.mu.end, s.mu.id = nil, nil, ""
	s.mu.Unlock()
	if end != nil {
		end.Stop()
	}
	if st != nil {
		_ = st.Close()
	}
	if err := os.RemoveAll(s.dir()); err != nil {
		s.m.n.o.logger.Warn("a copy that was made for another node is left", "dir", s.dir(), "err", err)
	}
}

// read gives a piece of an object of the copy.
func (s *seeds) read(r *link.Request) {
	b := r.Body.Bytes()
	if len(b) < 12 || len(b) > 12+seedNameMost {
		r.Fail("want an offset, a length and a name")
		return
	}
	rng := tier.Range{Off: int64(binary.LittleEndian.Uint64(b)), Len: int64(min(binary.LittleEndian.Uint32(b[8:]), seedPiece))}
	name := string(b[12:])
	s.mu.Lock()
	st, step := s.mu.store, s.mu.step
	s.mu.used = time.Now()
	if st == nil || s.mu.over || s.mu.id == "" || rng.Off < 0 || tier.CheckName(name) != nil {
		s.mu.Unlock()
		r.Fail("there is no such copy")
		return
	}
	s.wg.Add(1)
	s.mu.Unlock()
	rng.Len = int64(max(s.m.pace.Step(int(rng.Len)), 1)) // an answer is not waited for long
	go func() {                                          // it reads a file
		defer s.wg.Done()
		if s.m.pace.Wait(s.ctx, int(rng.Len)) != nil {
			r.Fail("the node stops")
			return
		}
		body, info, err := st.Get(s.ctx, name, rng)
		if err != nil {
			r.Fail(err.Error())
			return
		}
		out := binary.LittleEndian.AppendUint64(make([]byte, 0, 8+rng.Len), uint64(info.Size))
		buf := bytes.NewBuffer(out)
		_, err = io.Copy(buf, body)
		if err = errors.Join(err, body.Close()); err != nil {
			r.Fail(err.Error())
			return
		}
		step.sent.Add(int64(buf.Len() - 8))
		r.Reply(buf.Bytes())
	}()
}

func (s *seeds) close() {
	s.mu.Lock()
	s.mu.over = true
	s.letGoLocked(s.m.n.storage.(*logStorage).log)
	s.mu.Unlock()
	s.cancel()
	s.holds.close()
	s.wg.Wait()
	s.remove()
}

// seedStore is the copy at another node, to be read.
type seedStore struct {
	mesh *link.Mesh
	at   link.NodeID
}

var _ tier.Store = (*seedStore)(nil)

var errSeedStore = errors.New("server: a copy at another node is only read")

func (s *seedStore) piece(ctx context.Context, name string, off int64, n int) (whole int64, b []byte, err error) {
	body := binary.LittleEndian.AppendUint64(nil, uint64(off))
	body = append(binary.LittleEndian.AppendUint32(body, uint32(n)), name...)
	ctx, cancel := context.WithTimeout(ctx, seedReadWait)
	defer cancel()
	m, err := s.mesh.Call(ctx, s.at, methodSeedRead, body)
	for tries := 1; errors.Is(err, link.ErrDown) && pace.Sleep(ctx, clock.Real{}, seedPieceAgain.Wait(tries)) == nil; tries++ {
		m, err = s.mesh.Call(ctx, s.at, methodSeedRead, body) // a connection that breaks costs a piece, not the copy
	}
	if err != nil {
		return 0, nil, fmt.Errorf("read a copy at node %d: %w", s.at, err)
	}
	defer m.Release()
	a := m.Bytes()
	if len(a) < 8 || len(a) > 8+n {
		return 0, nil, fmt.Errorf("read a copy at node %d: the answer is none", s.at)
	}
	return int64(binary.LittleEndian.Uint64(a)), bytes.Clone(a[8:]), nil
}

// Get reads an object piece by piece.
func (s *seedStore) Get(ctx context.Context, name string, rng tier.Range) (io.ReadCloser, tier.Info, error) {
	info, err := s.Stat(ctx, name)
	if err != nil {
		return nil, info, err
	}
	off, n, err := rng.In(info.Size)
	if err != nil {
		return nil, info, err
	}
	return &seedReader{ctx: ctx, s: s, name: name, at: off, end: off + n}, info, nil
}

// Stat asks for an object's size.
func (s *seedStore) Stat(ctx context.Context, name string) (tier.Info, error) {
	size, _, err := s.piece(ctx, name, 0, 1)
	return tier.Info{Name: name, Size: size}, err
}

// Put, List and Delete are not for who reads.
func (s *seedStore) Put(context.Context, string, io.Reader, int64, tier.PutOptions) error {
	return errSeedStore
}

// List is not for who reads.
func (s *seedStore) List(context.Context, string, string, int) ([]tier.Info, bool, error) {
	return nil, false, errSeedStore
}

// Delete is not for who reads.
func (s *seedStore) Delete(context.Context, string) error { return errSeedStore }

// Close has nothing to end.
func (s *seedStore) Close() error { return nil }

type seedReader struct {
	ctx     context.Context
	s       *seedStore
	name    string
	at, end int64
	left    []byte
}

// Read reads.
func (r *seedReader) Read(p []byte) (int, error) {
	if len(r.left) == 0 {
		if r.at >= r.end {
			return 0, io.EOF
		}
		_, b, err := r.s.piece(r.ctx, r.name, r.at, int(min(r.end-r.at, seedPiece)))
		if err == nil && len(b) == 0 {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			return 0, err
		}
		r.left, r.at = b, r.at+int64(len(b))
	}
	n := copy(p, r.left)
	r.left = r.left[n:]
	return n, nil
}

// Close ends it.
func (r *seedReader) Close() error { return nil }

// fetchSeed has the node that leads make a copy, and restores it beside the node's own data. It answers what is to be written into the mark.
func (m *member) fetchSeed(ctx context.Context, mesh *link.Mesh, leader link.NodeID, asks []seedAsk) (mark string, err error) {
	dir := filepath.Join(m.n.o.clusterConfig.Node.Data, seedFolder)
	if err := os.RemoveAll(dir); err != nil {
		return "", err
	}
	taking, cancel := context.WithTimeout(ctx, seedTakeWait)
	defer cancel()
	a, err := mesh.Call(taking, leader, methodSeedTake, appendAsks(nil, asks))
	if err != nil {
		return "", fmt.Errorf("have node %d make a copy: %w", leader, err)
	}
	id := string(a.Bytes())
	a.Release()
	out, err := restoreFrom(ctx, &seedStore{mesh, leader}, RestoreOptions{ID: id, Data: dir, Logger: m.n.o.logger})
	if end, eerr := mesh.Call(context.WithoutCancel(ctx), leader, methodSeedEnd, []byte(id)); eerr == nil {
		end.Release()
	}
	if err != nil {
		return "", fmt.Errorf("copy the data of node %d: %w", leader, err)
	}
	b, err := json.Marshal(out)
	return string(b) + "\n", err
}

// installSeed puts a copy that is whole in the place of the node's own data; without one it removes what a copy that was cut has left. Cut at any step, the
// next call does the rest.
func installSeed(cfg *config.Config) error {
	if !cfg.Clustered() {
		return nil
	}
	data := cfg.Node.Data
	mark, seed := filepath.Join(data, seedMark), filepath.Join(data, seedFolder)
	if _, err := os.Stat(mark); errors.Is(err, os.ErrNotExist) {
		return os.RemoveAll(seed)
	} else if err != nil {
		return err
	}
	if _, err := os.Stat(filepath.Join(seed, "journal")); err == nil {
		if err := os.RemoveAll(filepath.Join(data, "journal")); err != nil {
			return err
		}
		if err := os.Rename(filepath.Join(seed, "journal"), filepath.Join(data, "journal")); err != nil {
			return err
		}
		if err := syncDirectory(data); err != nil {
			return err
		}
	}
	if err := os.Remove(mark); err != nil {
		return err
	}
	return errors.Join(syncDirectory(data), os.RemoveAll(seed))
}

func syncDirectory(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
