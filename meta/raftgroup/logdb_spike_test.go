//go:build spike

// Package raftgroup holds, as a test under the build tag spike, the proof that Dragonboat can keep its logs in our journal: one
// flush for all groups of a node. docs/adr/0004-dragonboat-on-the-journal.md tells what it decided. It alone imports Dragonboat.
package raftgroup

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/lni/dragonboat/v4/raftio"
	pb "github.com/lni/dragonboat/v4/raftpb"

	"github.com/sluicemq/sluice/journal/record"
)

// Flags of the payload of a KindRaftUpdate frame.
const (
	updateMore      = 1 // the next frame of this group belongs to the same update
	updateState     = 2
	updateSnapshot  = 4
	updateInstalled = 8 // the snapshot came from the leader and replaces the log
)

// raftLog is a raftio.ILogDB over a write-ahead log that it shares with everybody else. What it must answer it keeps in memory,
// rebuilt by replay; what it must keep goes to the log as frames. SaveRaftState waits for the group commit that carries its
// frames: all groups that wait meanwhile share the next one.
//
// A save of nothing but a commit index is not written: Raft finds it again.
type raftLog struct {
	wake    func()
	onClose func() error

	mu struct {
		sync.Mutex
		waiting []*saveRequest   // not gathered, or not wholly
		flying  [][]*saveRequest // by gathered group, oldest first: what is durable when it is
		failed  error
	}
	groups struct {
		sync.RWMutex
		m map[raftio.NodeInfo]*groupLog
	}
	saves, skipped, frames, commits atomic.Int64
}

// saveRequest is one call that waits. The updates stay the caller's, who is blocked: the committer encodes from them straight into
// the log's staging buffer.
type saveRequest struct {
	updates []pb.Update
	raw     []byte // instead of updates: a frame
	own     bool   // the updates' snapshots were made here: the log stays
	ud      int    // the next update to encode
	entry   int    // the next entry of it
	done    chan error
}

// groupLog is what one replica has stored.
type groupLog struct {
	sync.Mutex
	state     pb.State
	snapshot  pb.Snapshot
	bootstrap *pb.Bootstrap
	first     uint64 // index of entries[0]
	entries   []pb.Entry
	staged    []pb.Entry // replay: of an update that has not ended
}

func newRaftLog() *raftLog {
	l := &raftLog{}
	l.groups.m = make(map[raftio.NodeInfo]*groupLog)
	return l
}

func (l *raftLog) group(shard, replica uint64) *groupLog {
	k := raftio.GetNodeInfo(shard, replica)
	l.groups.RLock()
	g := l.groups.m[k]
	l.groups.RUnlock()
	if g != nil {
		return g
	}
	l.groups.Lock()
	defer l.groups.Unlock()
	if g = l.groups.m[k]; g == nil {
		g = &groupLog{}
		l.groups.m[k] = g
	}
	return g
}

// put stores entries behind or over what is there: an index at or below the last truncates.
func (g *groupLog) put(ents []pb.Entry) {
	if len(ents) == 0 {
		return
	}
	at := ents[0].Index
	switch {
	case len(g.entries) == 0 || at <= g.first || at > g.first+uint64(len(g.entries)):
		g.first, g.entries = at, append(g.entries[:0:0], ents...)
	default:
		g.entries = append(g.entries[:at-g.first:at-g.first], ents...)
	}
}

func (g *groupLog) dropTo(index uint64) {
	if len(g.entries) == 0 || index < g.first {
		return
	}
	n := min(index-g.first+1, uint64(len(g.entries)))
	g.entries = append([]pb.Entry(nil), g.entries[n:]...)
	g.first += n
}

// apply takes over one durable update. An installed snapshot comes before the entries, which follow it.
func (g *groupLog) apply(ud *pb.Update, installed bool) {
	g.Lock()
	defer g.Unlock()
	g.takeState(ud.State)
	if !pb.IsEmptySnapshot(ud.Snapshot) && ud.Snapshot.Index > g.snapshot.Index {
		g.snapshot = ud.Snapshot
		if installed {
			g.entries = nil
		}
	}
	g.put(ud.EntriesToSave)
}

func (g *groupLog) takeState(st pb.State) {
	if !pb.IsEmptyState(st) {
		g.state = st
	}
}

// must tells whether the update has to be durable: entries, term, vote or a snapshot, not a commit index alone.
func (g *groupLog) must(ud *pb.Update) bool {
	g.Lock()
	defer g.Unlock()
	if len(ud.EntriesToSave) > 0 || (!pb.IsEmptySnapshot(ud.Snapshot) && ud.Snapshot.Index > g.snapshot.Index) {
		return true
	}
	return !pb.IsEmptyState(ud.State) && (ud.State.Term != g.state.Term || ud.State.Vote != g.state.Vote)
}

// Gather encodes what waits, at most max bytes: the journal's committer calls it when it can write a group.
func (l *raftLog) Gather(dst []byte, max int) (out []byte, more bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	empty, limit := len(dst), len(dst)+max
	var whole []*saveRequest
	wrote := false
	for len(l.mu.waiting) > 0 {
		r := l.mu.waiting[0]
		before := len(dst)
		var done bool
		dst, done = l.encode(r, dst, empty, limit)
		wrote = wrote || len(dst) > before
		if !done {
			break
		}
		whole = append(whole, r)
		l.mu.waiting = l.mu.waiting[1:]
	}
	if wrote {
		l.mu.flying = append(l.mu.flying, whole)
	}
	return dst, len(l.mu.waiting) > 0
}

// encode appends frames of r until dst would pass limit, and tells whether r is through. What is too large by itself goes alone.
func (l *raftLog) encode(r *saveRequest, dst []byte, empty, limit int) (_ []byte, done bool) {
	if r.raw != nil {
		if len(dst)+len(r.raw) > limit && len(dst) > empty {
			return dst, false
		}
		l.frames.Add(1)
		return append(dst, r.raw...), true
	}
	for r.ud < len(r.updates) {
		ud := &r.updates[r.ud]
		room := limit - len(dst) - record.FrameHeaderSize - 1 - 24 - 4 - ud.Snapshot.Size()
		n := r.entry
		for n < len(ud.EntriesToSave) {
			room -= 4 + ud.EntriesToSave[n].SizeUpperLimit()
			if room < 0 {
				break
			}
			n++
		}
		if room < 0 && n == r.entry {
			if len(dst) > empty {
				return dst, false
			}
			n = min(n+1, len(ud.EntriesToSave))
		}
		dst = appendUpdate(dst, ud, r.entry, n, r.own)
		l.frames.Add(1)
		if n < len(ud.EntriesToSave) {
			r.entry = n
			return dst, false
		}
		r.ud, r.entry = r.ud+1, 0
	}
	return dst, true
}

// appendUpdate appends the frame of entries from to n of ud, and, if those are the last, of its state and snapshot.
func appendUpdate(dst []byte, ud *pb.Update, from, n int, own bool) []byte {
	f := record.Frame{Kind: record.KindRaftUpdate, Shard: record.ShardID(ud.ShardID), Partition: record.PartitionID(ud.ReplicaID)}
	if n > from {
		f.Index = ud.EntriesToSave[from].Index
	}
	dst, start := record.BeginFrame(dst, &f)
	flags := byte(0)
	last := n == len(ud.EntriesToSave)
	if !last {
		flags |= updateMore
	}
	if last && !pb.IsEmptyState(ud.State) {
		flags |= updateState
	}
	if last && !pb.IsEmptySnapshot(ud.Snapshot) {
		flags |= updateSnapshot
		if !own {
			flags |= updateInstalled
		}
	}
	dst = append(dst, flags)
	if flags&updateState != 0 {
		dst = binary.LittleEndian.AppendUint64(dst, ud.State.Term)
		dst = binary.LittleEndian.AppendUint64(dst, ud.State.Vote)
		dst = binary.LittleEndian.AppendUint64(dst, ud.State.Commit)
	}
	if flags&updateSnapshot != 0 {
		dst = appendMessage(dst, ud.Snapshot.Size(), &ud.Snapshot)
	}
	for i := from; i < n; i++ {
		e := &ud.EntriesToSave[i]
		dst = appendMessage(dst, e.SizeUpperLimit(), e)
	}
	return record.FinishFrame(dst, start)
}

// appendMessage appends the length of m and m itself, of at most size bytes, without a copy in between.
func appendMessage(dst []byte, size int, m pb.Marshaler) []byte {
	at := len(dst)
	dst = slices.Grow(dst, 4+size)[:at+4+size]
	n, err := m.MarshalTo(dst[at+4:])
	if err != nil {
		panic(err)
	}
	binary.LittleEndian.PutUint32(dst[at:], uint32(n))
	return dst[:at+4+n]
}

// committed tells that the group gathered first of those in flight is durable.
func (l *raftLog) committed() {
	l.commits.Add(1)
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.mu.flying) == 0 {
		return
	}
	for _, r := range l.mu.flying[0] {
		r.done <- nil
	}
	l.mu.flying = l.mu.flying[1:]
}

// errFull stands for a full disk: whoever feeds the log hands it to Failed when the log is to go on later.
var errFull = errors.New("disk is full")

// Failed ends all that wait, unless err is errFull: then what was in flight waits again, and is written from its begin when there
// is space. Dragonboat panics at an error of its store, so the store answers late rather than with one.
func (l *raftLog) Failed(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	var again []*saveRequest
	for _, rs := range append(l.mu.flying, l.mu.waiting) {
		again = append(again, rs...)
	}
	l.mu.flying, l.mu.waiting = nil, nil
	if errors.Is(err, errFull) {
		for _, r := range again {
			r.ud, r.entry = 0, 0
		}
		l.mu.waiting = again
		return
	}
	l.mu.failed = err
	for _, r := range again {
		r.done <- err
	}
}

func (l *raftLog) wait(r *saveRequest) error {
	r.done = make(chan error, 1)
	l.mu.Lock()
	if l.mu.failed != nil {
		defer l.mu.Unlock()
		return l.mu.failed
	}
	l.mu.waiting = append(l.mu.waiting, r)
	l.mu.Unlock()
	l.wake()
	return <-r.done
}

// replay takes over one frame of the log, in the log's order. Frames of other kinds are not its own.
func (l *raftLog) replay(f *record.Frame) error {
	g := l.group(uint64(f.Shard), uint64(f.Partition))
	switch f.Kind {
	case record.KindRaftUpdate:
		return g.replayUpdate(f.Index, f.Payload)
	case record.KindRaftCompact:
		g.dropTo(f.Index)
	case record.KindRaftBootstrap:
		g.bootstrap = &pb.Bootstrap{}
		return g.bootstrap.Unmarshal(f.Payload)
	case record.KindRaftRemove:
		l.groups.Lock()
		delete(l.groups.m, raftio.GetNodeInfo(uint64(f.Shard), uint64(f.Partition)))
		l.groups.Unlock()
	}
	return nil
}

var errPayload = fmt.Errorf("bad payload of a raft frame")

func (g *groupLog) replayUpdate(index uint64, p []byte) error {
	if len(p) == 0 {
		return errPayload
	}
	flags, p := p[0], p[1:]
	ud := pb.Update{}
	if flags&updateState != 0 {
		if len(p) < 24 {
			return errPayload
		}
		ud.State.Term = binary.LittleEndian.Uint64(p)
		ud.State.Vote = binary.LittleEndian.Uint64(p[8:])
		ud.State.Commit = binary.LittleEndian.Uint64(p[16:])
		p = p[24:]
	}
	next := func() ([]byte, error) {
		if len(p) < 4 || uint64(binary.LittleEndian.Uint32(p)) > uint64(len(p)-4) {
			return nil, errPayload
		}
		n := 4 + int(binary.LittleEndian.Uint32(p))
		m := p[4:n]
		p = p[n:]
		return m, nil
	}
	if flags&updateSnapshot != 0 {
		m, err := next()
		if err != nil {
			return err
		}
		if err := ud.Snapshot.Unmarshal(m); err != nil {
			return err
		}
	}
	// The log may have been full in the midst of an update, which was then written again.
	for len(g.staged) > 0 && g.staged[len(g.staged)-1].Index >= index {
		g.staged = g.staged[:len(g.staged)-1]
	}
	for len(p) > 0 {
		m, err := next()
		if err != nil {
			return err
		}
		var e pb.Entry
		if err := e.Unmarshal(m); err != nil { // copies Cmd
			return err
		}
		g.staged = append(g.staged, e)
	}
	if flags&updateMore != 0 {
		return nil
	}
	ud.EntriesToSave, g.staged = g.staged, nil
	g.apply(&ud, flags&updateInstalled != 0)
	return nil
}

// endReplay drops what a crash cut short.
func (l *raftLog) endReplay() {
	for _, g := range l.groups.m {
		g.staged = nil
	}
}

// What follows is raftio.ILogDB.

func (l *raftLog) Name() string         { return "sluice-journal" }
func (l *raftLog) BinaryFormat() uint32 { return 1 }
func (l *raftLog) Close() error         { return l.onClose() }

func (l *raftLog) ListNodeInfo() ([]raftio.NodeInfo, error) {
	l.groups.RLock()
	defer l.groups.RUnlock()
	var out []raftio.NodeInfo
	for k, g := range l.groups.m {
		if g.bootstrap != nil {
			out = append(out, k)
		}
	}
	return out, nil
}

func (l *raftLog) frame(kind record.FrameKind, shard, replica, index uint64, payload []byte) []byte {
	return record.AppendFrame(nil, &record.Frame{
		Kind: kind, Shard: record.ShardID(shard), Partition: record.PartitionID(replica), Index: index, Payload: payload,
	})
}

func (l *raftLog) SaveBootstrapInfo(shard, replica uint64, b pb.Bootstrap) error {
	payload := pb.MustMarshal(&b)
	if err := l.wait(&saveRequest{raw: l.frame(record.KindRaftBootstrap, shard, replica, 0, payload)}); err != nil {
		return err
	}
	g := l.group(shard, replica)
	g.Lock()
	defer g.Unlock()
	g.bootstrap = &b
	return nil
}

func (l *raftLog) GetBootstrapInfo(shard, replica uint64) (pb.Bootstrap, error) {
	g := l.group(shard, replica)
	g.Lock()
	defer g.Unlock()
	if g.bootstrap == nil {
		return pb.Bootstrap{}, raftio.ErrNoBootstrapInfo
	}
	return *g.bootstrap, nil
}

func (l *raftLog) SaveRaftState(updates []pb.Update, _ uint64) error {
	return l.save(updates, false)
}

func (l *raftLog) save(updates []pb.Update, own bool) error {
	kept := make([]pb.Update, 0, len(updates))
	for i := range updates {
		g := l.group(updates[i].ShardID, updates[i].ReplicaID)
		if g.must(&updates[i]) {
			kept = append(kept, updates[i])
			continue
		}
		g.Lock()
		g.takeState(updates[i].State)
		g.Unlock()
	}
	if len(kept) == 0 {
		l.skipped.Add(1)
		return nil
	}
	l.saves.Add(1)
	if err := l.wait(&saveRequest{updates: kept, own: own}); err != nil {
		return err
	}
	for i := range kept {
		l.group(kept[i].ShardID, kept[i].ReplicaID).apply(&kept[i], !own)
	}
	return nil
}

func (l *raftLog) SaveSnapshots(updates []pb.Update) error {
	kept := make([]pb.Update, 0, len(updates))
	for _, ud := range updates {
		if !pb.IsEmptySnapshot(ud.Snapshot) {
			kept = append(kept, pb.Update{ShardID: ud.ShardID, ReplicaID: ud.ReplicaID, Snapshot: ud.Snapshot})
		}
	}
	return l.save(kept, true)
}

func (l *raftLog) GetSnapshot(shard, replica uint64) (pb.Snapshot, error) {
	g := l.group(shard, replica)
	g.Lock()
	defer g.Unlock()
	return g.snapshot, nil
}

func (l *raftLog) IterateEntries(ents []pb.Entry, size, shard, replica, low, high, maxSize uint64) ([]pb.Entry, uint64, error) {
	g := l.group(shard, replica)
	g.Lock()
	defer g.Unlock()
	for i := low; i < high && i >= g.first && i < g.first+uint64(len(g.entries)); i++ {
		e := g.entries[i-g.first]
		ents = append(ents, e)
		if size += uint64(e.SizeUpperLimit()); size > maxSize {
			break
		}
	}
	return ents, size, nil
}

func (l *raftLog) ReadRaftState(shard, replica, _ uint64) (raftio.RaftState, error) {
	g := l.group(shard, replica)
	g.Lock()
	defer g.Unlock()
	if pb.IsEmptyState(g.state) && len(g.entries) == 0 && pb.IsEmptySnapshot(g.snapshot) {
		return raftio.RaftState{}, raftio.ErrNoSavedLog
	}
	st := g.state
	// The commit index is not flushed for itself, so it may lie behind the snapshot, which Dragonboat refuses to start from.
	st.Commit = max(st.Commit, g.snapshot.Index)
	return raftio.RaftState{State: st, FirstIndex: g.first, EntryCount: uint64(len(g.entries))}, nil
}

func (l *raftLog) RemoveEntriesTo(shard, replica, index uint64) error {
	if err := l.wait(&saveRequest{raw: l.frame(record.KindRaftCompact, shard, replica, index, nil)}); err != nil {
		return err
	}
	g := l.group(shard, replica)
	g.Lock()
	defer g.Unlock()
	g.dropTo(index)
	return nil
}

func (l *raftLog) CompactEntriesTo(_, _, _ uint64) (<-chan struct{}, error) {
	done := make(chan struct{})
	close(done) // the journal recycles segments by itself
	return done, nil
}

func (l *raftLog) RemoveNodeData(shard, replica uint64) error {
	if err := l.wait(&saveRequest{raw: l.frame(record.KindRaftRemove, shard, replica, 0, nil)}); err != nil {
		return err
	}
	l.groups.Lock()
	defer l.groups.Unlock()
	delete(l.groups.m, raftio.GetNodeInfo(shard, replica))
	return nil
}

func (l *raftLog) ImportSnapshot(ss pb.Snapshot, replica uint64) error {
	if err := l.RemoveNodeData(ss.ShardID, replica); err != nil {
		return err
	}
	if err := l.SaveBootstrapInfo(ss.ShardID, replica, pb.Bootstrap{Join: true, Type: ss.Type}); err != nil {
		return err
	}
	return l.SaveRaftState([]pb.Update{{
		ShardID: ss.ShardID, ReplicaID: replica, Snapshot: ss, State: pb.State{Term: ss.Term, Commit: ss.Index},
	}}, 0)
}
