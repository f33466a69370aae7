package broker

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/sluicemq/sluice/journal/record"
)

// Errors of replicated shards.
var (
	// ErrNotLeader says that this node does not lead the shard: another one may. Of what was on its way when leadership went, nobody knows what
	// becomes: the next leader may have it, or not.
	ErrNotLeader = errors.New("broker: this node does not lead the shard")
	// ErrStaleEpoch says that who calls speaks of a leader that is not the one that this replica knows.
	ErrStaleEpoch = errors.New("broker: the epoch is not the replica's")
	// ErrGap says that frames do not follow what the replica has: ReplicaState.Last tells what does.
	ErrGap = errors.New("broker: frames do not follow")
	// ErrDiverged says that a replica has applied what the leader does not have. Only an unclean election can make that: the replica has to be
	// made anew.
	ErrDiverged = errors.New("broker: the replica has applied what the leader does not have")
)

// Role is what a node is to a replicated shard.
type Role uint8

// The roles. A replica begins without one: it keeps what it has.
const (
	RoleNone Role = iota
	RoleFollower
	RoleLeader
)

// EpochStart says which frame is the first of a leader's epoch. An epoch has one leader, so two replicas that know the same start of it have the
// same frames from there to where either of them ends, or its epoch does.
type EpochStart struct {
	Epoch record.Epoch
	First uint64
}

// ReplicaState is where a replica of a shard stands.
type ReplicaState struct {
	Role          Role
	Epoch         record.Epoch
	Open          bool   // it leads, and takes commands
	Synced        bool   // it follows, and what it has is the leader's
	Last          uint64 // the last frame that it was given, or has made
	Durable       uint64 // the last one that its log has
	HighWatermark uint64 // the last one that all in-sync replicas have, as far as it knows
	TooFew        bool   // it leads, and too few replicas are in sync for anything to be committed
	Applied       uint64 // the last one that its tables have
}

const (
	// leadBytesMax is how many bytes of frames a leader has waiting for its followers when it takes one list more.
	leadBytesMax = 8 << 20
	// followBytesMax bounds the frames of a shard that wait on a follower to be written or applied. It is more than a leader is ever ahead of its high
	// watermark: a follower without room for all of that would wait for a word that comes behind what it has no room for.
	followBytesMax = 2*leadBytesMax + pendingBytesMax
	// A log says where the high watermark is each markEvery, or each markBytes of a shard if that is sooner: what lies behind is kept in memory
	// after a restart until the shard's role is known.
	markEvery = time.Second
	markBytes = 4 << 20
	// epochsMax bounds the leaders that are remembered.
	epochsMax = 1024
)

// copied is what a list of a replicated shard is beside its entries: its frames, as they are in the log.
type copied struct {
	kept      []byte
	epoch     record.Epoch
	gen       uint32
	early     bool // a batch of it is answered before it is applied
	verbatim  bool // it has frames alone, from another node or from a leader that is none any more
	truncates bool // the log is to take back what lies above truncTo first
	truncTo   uint64
}

// peer is another replica, as the leader knows it.
type peer struct {
	node   uint64
	index  uint64 // its log has all up to it
	inSync bool
	joins  bool // it is in sync since SetInSync, and was not seen yet to have all that was committed then
}

// waitingList is a list that is in the log and waits for the high watermark.
type waitingList struct {
	p           *pending
	before, end Place  // the ends of the group before it and of its own
	next, last  uint64 // the frames that are to be applied; verbatim lists alone begin in the middle
	off         int    // where next lies in p.kept
	cut         bool   // p.kept goes on behind last with what was taken back
}

// replica is a shard's part in its replication. Guarded by the shard's lock; lists are taken off on the home loop alone.
type replica struct {
	role   Role
	epoch  record.Epoch
	open   bool
	synced bool   // as a follower: what it has is the leader's
	claim  uint64 // as a leader: it opens when this frame is applied

	durable, hw uint64
	told        uint64 // the high watermark, as the leader has told it; it may lie above durable
	peers       []peer
	least       int // in-sync replicas, this one included, below which the high watermark stands still
	epochs      []EpochStart
	saved       int // of them the checkpoint has so many

	inbound    []byte // frames that are to be written
	truncating bool   // truncTo is to be written before them
	truncTo    uint64
	gen        uint32 // moves with each truncation: what was on its way then does not count for durable

	ended []endedSession // when applied is so far, what is there of them goes

	lists  []waitingList
	bytes  int
	posted bool
	look   bool // a list has come for which somebody is to be answered before it is applied

	marked   uint64
	markedAt time.Duration
	since    int // bytes
	mark     bool
}

// leadsLocked says whether the shard takes commands here.
func (s *shard) leadsLocked() bool { return s.rep == nil || s.rep.open }

func (s *shard) leads() bool {
	if s.rep == nil {
		return true
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.rep.open
}

// serves says whether the shard is read here: by who leads, or, in the epoch follows, by a follower that has nothing but what its leader has.
func (s *shard) serves(follows record.Epoch) bool {
	if s.rep == nil {
		return true
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.rep
	return r.open || follows != 0 && r.role == RoleFollower && r.synced && r.epoch == follows
}

// replicated gives a shard of a node that is one of several.
func (b *Broker) replicated(shard record.ShardID) (*shard, error) {
	if int(shard) >= len(b.shards) || b.shards[shard].rep == nil {
		return nil, fmt.Errorf("shard %d is not replicated here", shard)
	}
	return b.shards[shard], nil
}

// Replica tells where the node's replica of a shard stands. Any goroutine.
func (b *Broker) Replica(shard record.ShardID) ReplicaState {
	s, err := b.replicated(shard)
	if err != nil {
		return ReplicaState{}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.rep
	return ReplicaState{Role: r.role, Epoch: r.epoch, Open: r.open, Synced: r.synced, Last: s.mu.index, Durable: r.durable, HighWatermark: r.hw,
		TooFew: r.tooFew(), Applied: s.mu.applied}
}

// TopicsCurrent says whether this node knows of all topics that were made before the leader of now, whose shard is the first. Any goroutine.
func (b *Broker) TopicsCurrent() bool { return b.current(0) }

// current says whether the tables of a shard have all that was acknowledged before its leader of now: they lead, or follow and have come to the begin of that
// leader's epoch. A follower that has just started knows of less, as nobody has told it what of its log is committed. True of a node alone.
func (b *Broker) current(shard record.ShardID) bool {
	s, err := b.replicated(shard)
	if err != nil {
		return true
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.rep
	if r.open || r.role != RoleFollower || !r.synced || len(r.epochs) == 0 {
		return r.open
	}
	last := r.epochs[len(r.epochs)-1]
	return last.Epoch == r.epoch && s.mu.applied >= last.First
}

// ReplicaHistory gives the starts of the leaders' epochs, as far as the replica knows, and the last frame that its log has: they may begin behind that. An open leader's
// is the last one that it has made, since its followers may have that already. Any goroutine.
func (b *Broker) ReplicaHistory(shard record.ShardID) (epochs []EpochStart, end uint64) {
	s, err := b.replicated(shard)
	if err != nil {
		return nil, 0
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	end = s.rep.durable
	if s.rep.open {
		end = s.mu.index
	}
	return slices.Clone(s.rep.epochs), end
}

// Lead makes the node the leader of a shard in an epoch that no other leader has had; others are the nodes that are in sync beside it, least how many have
// to be, itself included, for anything to be committed (KIP-966). It takes
// commands once all that its log has is committed. done runs on the shard's home loop. Errors: ErrStaleEpoch.
func (b *Broker) Lead(shard record.ShardID, epoch record.Epoch, others []uint64, least int, done func(error)) {
	s, err := b.replicated(shard)
	if err != nil {
		done(err)
		return
	}
	s.home.Run(func() { done(s.home.lead(s, epoch, others, least)) })
}

// FollowLeader makes the node a follower of the shard's leader in this epoch, whose ReplicaHistory it gets. What the replica has beyond the leader,
// or otherwise than it, it takes back. done runs on the shard's home loop and is told with which frame Follow is to go on. Errors: ErrStaleEpoch,
// ErrDiverged.
func (b *Broker) FollowLeader(shard record.ShardID, epoch record.Epoch, history []EpochStart, end uint64, done func(from uint64, err error)) {
	s, err := b.replicated(shard)
	if err != nil {
		done(0, err)
		return
	}
	s.home.Run(func() { done(s.home.followLeader(s, epoch, history, end)) })
}

// Resign ends whatever the node is to the shard: what waits is answered with ErrNotLeader. done runs on the shard's home loop.
func (b *Broker) Resign(shard record.ShardID, done func()) {
	s, err := b.replicated(shard)
	if err != nil {
		done()
		return
	}
	s.home.Run(func() {
		_ = s.home.demote(s, RoleNone, s.rep.epoch) // of its own epoch: never stale
		done()
	})
}

// SetInSync tells the leader which nodes beside it are in sync, and how many have to be, as Lead does. From then on nothing is committed that one of them lacks.
// Errors: ErrStaleEpoch; ErrGap: one that is more lacks, yet, what is committed already, and may not lead before another call has said that it does not.
// Any goroutine.
func (b *Broker) SetInSync(shard record.ShardID, epoch record.Epoch, others []uint64, least int) error {
	return b.asLeader(shard, epoch, func(r *replica) error {
		r.least = least
		for i := range r.peers {
			p := &r.peers[i]
			p.inSync = p.inSync && slices.Contains(others, p.node)
		}
		var err error
		for _, n := range others {
			p := r.peerOf(n)
			p.joins = p.joins || !p.inSync
			p.inSync = true
			if p.joins = p.joins && p.index < max(r.hw, r.claim); p.joins {
				err = ErrGap
			}
		}
		return err
	})
}

// Acked tells the leader that a node's log has all frames up to index: it has been told so by a follower of this epoch. Any goroutine.
func (b *Broker) Acked(shard record.ShardID, epoch record.Epoch, node, index uint64) error {
	return b.asLeader(shard, epoch, func(r *replica) error {
		r.peerOf(node).index = index
		return nil
	})
}

func (b *Broker) asLeader(shard record.ShardID, epoch record.Epoch, fn func(*replica) error) error {
	s, err := b.replicated(shard)
	if err != nil {
		return err
	}
	s.mu.Lock()
	if s.rep.role != RoleLeader || s.rep.epoch != epoch {
		s.mu.Unlock()
		return ErrStaleEpoch
	}
	err = fn(s.rep)
	b.advance(s)
	return err
}

// Watermark tells a follower how far all in-sync replicas are. Any goroutine.
func (b *Broker) Watermark(shard record.ShardID, epoch record.Epoch, index uint64) error {
	s, err := b.replicated(shard)
	if err != nil {
		return err
	}
	s.mu.Lock()
	if s.rep.role != RoleFollower || !s.rep.synced || s.rep.epoch != epoch {
		s.mu.Unlock()
		return ErrStaleEpoch
	}
	s.rep.told = max(s.rep.told, index)
	b.advance(s)
	return nil
}

// Follow gives a follower whole frames of its shard, in order, as the leader's log has them. Their checksums are looked at: a frame that was damaged at the
// leader would end this node's log at its next start. They are copied. What it has already is passed over.
// Errors: ErrStaleEpoch, ErrGap; ErrBusy, come again when the state has moved; record.ErrFrame. Any goroutine.
func (b *Broker) Follow(shard record.ShardID, epoch record.Epoch, frames []byte) error {
	s, err := b.replicated(shard)
	if err != nil {
		return err
	}
	if err := b.writable(); err != nil {
		return err
	}
	for rest := frames; len(rest) > 0; {
		f, n, err := record.DecodeFrame(rest)
		if err != nil || f.Shard != shard || f.Kind != record.KindRecords && f.Kind != record.KindCommand {
			return fmt.Errorf("follow shard %d: %w", shard, record.ErrFrame)
		}
		rest = rest[n:]
	}
	s.mu.Lock()
	first, err := s.followLocked(epoch, frames)
	s.mu.Unlock()
	if first {
		b.dirtyShard(s)
	}
	return err
}

func (s *shard) followLocked(epoch record.Epoch, frames []byte) (first bool, err error) {
	r := s.rep
	if r.role != RoleFollower || !r.synced || r.epoch != epoch {
		return false, ErrStaleEpoch
	}
	for len(frames) > 0 {
		f, n, err := record.ViewFrame(frames)
		switch {
		case err != nil:
			return first, err
		case f.Index <= s.mu.index:
			frames = frames[n:]
			continue
		case f.Index != s.mu.index+1 || f.Epoch > epoch || f.Epoch < r.lastEpoch():
			return first, fmt.Errorf("%w: frame %d of epoch %d behind %d", ErrGap, f.Index, f.Epoch, s.mu.index)
		}
		if held := len(r.inbound) + r.bytes; held > followBytesMax {
			return first, ErrBusy
		}
		r.inbound = append(r.inbound, frames[:n]...)
		r.began(f.Epoch, f.Index)
		s.mu.index = f.Index
		first = s.markDirtyLocked() || first
		frames = frames[n:]
	}
	return first, nil
}

func (r *replica) lastEpoch() record.Epoch {
	if n := len(r.epochs); n > 0 {
		return r.epochs[n-1].Epoch
	}
	return 0
}

// began notes an epoch's first frame.
func (r *replica) began(e record.Epoch, index uint64) {
	if e <= r.lastEpoch() {
		return
	}
	if len(r.epochs) == epochsMax {
		r.epochs = slices.Delete(r.epochs, 0, 1)
		r.saved = 0
	}
	r.epochs = append(r.epochs, EpochStart{e, index})
}

// cutEpochs forgets the epochs that began above index.
func (r *replica) cutEpochs(index uint64) {
	for n := len(r.epochs); n > 0 && r.epochs[n-1].First > index; n-- {
		r.epochs = r.epochs[:n-1]
	}
	r.saved = min(r.saved, len(r.epochs))
}

func (r *replica) peerOf(node uint64) *peer {
	for i := range r.peers {
		if r.peers[i].node == node {
			return &r.peers[i]
		}
	}
	r.peers = append(r.peers, peer{node: node})
	return &r.peers[len(r.peers)-1]
}

// tooFew says whether a leader has too few replicas in sync for anything to be committed.
func (r *replica) tooFew() bool {
	if r.role != RoleLeader {
		return false
	}
	n := 1
	for i := range r.peers {
		if r.peers[i].inSync {
			n++
		}
	}
	return n < r.least
}

// common is the last frame that a replica with these epochs and this end has in common with another one (KIP-101).
func common(own []EpochStart, end uint64, other []EpochStart, otherEnd uint64) uint64 {
	// A leader that is not open may lose what its log does not have yet, and have its epoch begin there instead: whoever followed by that would count as having
	// what it has not.
	for n := len(other); n > 0 && other[n-1].First > otherEnd; n-- {
		other = other[:n-1]
	}
	for i := len(own) - 1; i >= 0; i-- {
		k := slices.Index(other, own[i])
		if k < 0 {
			end = own[i].First - 1
			continue
		}
		if k+1 < len(other) {
			otherEnd = other[k+1].First - 1
		}
		return min(end, otherEnd)
	}
	if len(other) > 0 { // from before there were leaders: of a node that was alone
		otherEnd = other[0].First - 1
	}
	return min(end, otherEnd)
}

// advance moves the high watermark, if it can, and lets go of the shard's lock.
func (b *Broker) advance(s *shard) {
	r := s.rep
	hw := r.durable
	switch r.role {
	case RoleLeader:
		for i := range r.peers {
			if p := &r.peers[i]; p.inSync {
				hw = min(hw, p.index)
			}
		}
		if r.tooFew() {
			hw = 0
		}
	case RoleFollower:
		hw = min(hw, r.told)
	case RoleNone:
		hw = 0
	}
	r.hw = max(r.hw, hw)
	kick := !r.posted && r.dueLocked()
	r.posted = r.posted || kick
	s.mu.Unlock()
	if kick {
		s.home.post(post{kind: postReplicated, s: s})
	}
	if fn := b.opts.ShardMoved; fn != nil {
		fn(s.id)
	}
}

// dueLocked says whether the home loop has something to do with the lists: no loop is woken for what only waits for other nodes.
func (r *replica) dueLocked() bool {
	if len(r.lists) == 0 {
		return false
	}
	switch w := &r.lists[0]; {
	case r.look:
		return true
	case w.p.verbatim:
		return w.next > w.last || w.next <= r.hw
	default:
		return w.last <= r.hw
	}
}

// MarkWatermarks has the log's next groups say where the high watermarks are: before it is closed. Any goroutine.
func (b *Broker) MarkWatermarks() {
	for _, s := range b.shards {
		if s.rep == nil {
			continue
		}
		s.mu.Lock()
		s.rep.mark = s.rep.hw > s.rep.marked
		first := s.rep.mark && s.markDirtyLocked()
		s.mu.Unlock()
		if first {
			b.dirtyShard(s)
		}
	}
}

// collectLocked is the checkpoint's row of the leaders' epochs, as far as they are applied.
func (r *replica) collectLocked(s *shard, rows []rowChange) []rowChange {
	if r == nil {
		return rows
	}
	n := 0
	for n < len(r.epochs) && r.epochs[n].First <= s.mu.applied {
		n++
	}
	if n == r.saved {
		return rows
	}
	r.saved = n
	v := []byte{1}
	for _, e := range r.epochs[:n] {
		v = binary.AppendUvarint(binary.AppendUvarint(v, uint64(e.Epoch)), e.First)
	}
	return append(rows, rowChange{[]byte{rowEpochs}, v})
}

func (s *shard) loadEpochs(row []byte) bool {
	d := decoder{b: row}
	if d.byte() != 1 {
		return false
	}
	var list []EpochStart
	for len(d.b) > 0 && d.ok() {
		list = append(list, EpochStart{record.Epoch(d.uvarint()), d.uvarint()})
	}
	if s.rep != nil { // a node that was one of several and is alone now keeps it where it is
		s.rep.epochs, s.rep.saved = list, len(list)
	}
	return d.ok()
}

func (r *replica) loadedLocked(applied uint64) {
	if r != nil {
		r.hw, r.durable, r.marked = applied, applied, applied
	}
}
