//go:build spike

package raftgroup

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"encoding/gob"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	dragonboat "github.com/lni/dragonboat/v4"
	"github.com/lni/dragonboat/v4/config"
	"github.com/lni/dragonboat/v4/logger"
	"github.com/lni/dragonboat/v4/plugin/tan"
	"github.com/lni/dragonboat/v4/raftio"
	sm "github.com/lni/dragonboat/v4/statemachine"

	"github.com/sluicemq/sluice/journal"
	"github.com/sluicemq/sluice/journal/record"
)

// nodeConfig is what the parent hands to a node's process, as JSON in the environment.
type nodeConfig struct {
	Node      uint64
	Dir       string
	Addrs     map[uint64]string
	Groups    uint64
	Log       string // journal, file, tan, pebble
	Exec      uint64 // Dragonboat's step workers
	Snapshots uint64 // entries between snapshots of a group; 0: none
}

const nodeEnv = "SLUICE_SPIKE_NODE"

// command is one line of a node's standard input; event one of its standard output.
type command struct {
	Op           string // load, halt, dump, stat, quit
	Size, Window int
}

type event struct {
	Event    string // ready, ack, halted, dump, stat
	Proposer uint64
	Group    uint64
	Seq      uint64
	Dumps    map[uint64]dump
	Stat     stat
}

type stat struct {
	Proposals, Refused             int64
	P50, P99                       time.Duration
	CPU                            time.Duration
	Saves, Skipped, Frames, Groups int64 // of the log store on the journal
	WrittenBytes                   int64 // by the process, as the kernel counts
	RSS                            int64
	Replay                         time.Duration
	ReplayFrames                   int64
}

// dump is the state of one replica, read linearizably.
type dump struct {
	Index uint64
	Hash  uint32
	Seqs  map[uint64][]uint64 // applied, by proposer
}

// counter is the state machine: it keeps which proposals were applied, and verifies the frame in each.
type counter struct {
	mu sync.Mutex
	d  dump
}

func newCounter(uint64, uint64) sm.IStateMachine {
	return &counter{d: dump{Seqs: map[uint64][]uint64{}}}
}

// proposalHead is proposer and sequence number, before the frame in a proposal.
const proposalHead = 16

var errProposal = errors.New("a proposal was applied that is not what was proposed")

func (c *counter) Update(e sm.Entry) (sm.Result, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(e.Cmd) < proposalHead {
		return sm.Result{}, errProposal
	}
	f, n, err := record.DecodeFrame(e.Cmd[proposalHead:])
	if err != nil || n != len(e.Cmd)-proposalHead || record.FrameBatch(f.Payload) == nil || e.Index <= c.d.Index {
		return sm.Result{}, errProposal
	}
	p, seq := binary.LittleEndian.Uint64(e.Cmd), binary.LittleEndian.Uint64(e.Cmd[8:])
	c.d.Seqs[p] = append(c.d.Seqs[p], seq)
	c.d.Index = e.Index
	c.d.Hash = crc32.Update(c.d.Hash, crc32.MakeTable(crc32.Castagnoli), e.Cmd[:proposalHead])
	return sm.Result{Value: seq}, nil
}

func (c *counter) Lookup(any) (any, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	d := dump{Index: c.d.Index, Hash: c.d.Hash, Seqs: map[uint64][]uint64{}}
	for p, s := range c.d.Seqs {
		d.Seqs[p] = slices.Clone(s)
	}
	return d, nil
}

func (c *counter) SaveSnapshot(w io.Writer, _ sm.ISnapshotFileCollection, _ <-chan struct{}) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return gob.NewEncoder(w).Encode(&c.d)
}

func (c *counter) RecoverFromSnapshot(r io.Reader, _ []sm.SnapshotFile, _ <-chan struct{}) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.d = dump{}
	return gob.NewDecoder(r).Decode(&c.d)
}

func (c *counter) Close() error { return nil }

// journalFactory makes NodeHost use l.
type journalFactory struct{ l *raftLog }

func (f journalFactory) Create(config.NodeHostConfig, config.LogDBCallback, []string, []string) (raftio.ILogDB, error) {
	return f.l, nil
}
func (journalFactory) Name() string { return "sluice-journal" }

// node is one process of the cluster.
type node struct {
	cfg nodeConfig
	nh  *dragonboat.NodeHost
	log *raftLog
	out struct {
		sync.Mutex
		*json.Encoder
	}
	proposer uint64 // this load of this process, never another
	halt     chan struct{}
	loads    sync.WaitGroup
	lat      struct {
		sync.Mutex
		d []time.Duration
	}
	acked, refused atomic.Int64
	replay         time.Duration
	replayed       int64
}

func TestMain(m *testing.M) {
	if s := os.Getenv(nodeEnv); s != "" {
		if err := runNode(s); err != nil {
			fmt.Fprintln(os.Stderr, "node:", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func runNode(s string) error {
	n := &node{proposer: uint64(time.Now().UnixNano())}
	if err := json.Unmarshal([]byte(s), &n.cfg); err != nil {
		return err
	}
	n.out.Encoder = json.NewEncoder(os.Stdout)
	for _, name := range []string{"raft", "rsm", "transport", "grpc", "dragonboat", "raftpb", "logdb", "tan", "raftdb", "config", "settings", "nodehost", "order", "utils", "server", "registry"} {
		logger.GetLogger(name).SetLevel(logger.ERROR)
	}
	if err := n.start(); err != nil {
		return err
	}
	n.emit(&event{Event: "ready"})
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
		var c command
		if err := json.Unmarshal(in.Bytes(), &c); err != nil {
			return err
		}
		switch c.Op {
		case "load":
			n.load(c.Size, c.Window)
		case "halt":
			close(n.halt)
			n.loads.Wait()
			n.emit(&event{Event: "halted"})
		case "dump":
			if err := n.dump(); err != nil {
				return err
			}
		case "stat":
			n.emit(&event{Event: "stat", Stat: n.stat()})
		case "quit":
			n.nh.Close()
			return nil
		}
	}
	return in.Err() // the parent has gone
}

func (n *node) emit(e *event) {
	n.out.Lock()
	defer n.out.Unlock()
	if err := n.out.Encode(e); err != nil {
		os.Exit(1)
	}
}

func (n *node) start() error {
	c := config.NodeHostConfig{
		NodeHostDir: filepath.Join(n.cfg.Dir, "raft"), RTTMillisecond: 20, RaftAddress: n.cfg.Addrs[n.cfg.Node],
		Expert: config.ExpertConfig{Engine: config.GetDefaultEngineConfig(), LogDB: config.GetTinyMemLogDBConfig()},
	}
	c.Expert.Engine.ExecShards = n.cfg.Exec
	switch n.cfg.Log {
	case "journal", "file":
		if err := n.openLog(); err != nil {
			return err
		}
		c.Expert.LogDBFactory = journalFactory{n.log}
	case "tan":
		c.Expert.LogDBFactory = tan.Factory
	default:
		c.Expert.LogDB.Shards = n.cfg.Exec
	}
	var err error
	if n.nh, err = dragonboat.NewNodeHost(c); err != nil {
		return err
	}
	for g := uint64(1); g <= n.cfg.Groups; g++ {
		gc := config.Config{
			ReplicaID: n.cfg.Node, ShardID: g, ElectionRTT: 50, HeartbeatRTT: 5, CheckQuorum: true, PreVote: true,
			SnapshotEntries: n.cfg.Snapshots, CompactionOverhead: 10,
		}
		if err := n.nh.StartReplica(n.cfg.Addrs, false, newCounter, gc); err != nil {
			return fmt.Errorf("group %d: %w", g, err)
		}
	}
	return nil
}

func (n *node) openLog() (err error) {
	start := time.Now()
	if dir := filepath.Join(n.cfg.Dir, "log"); n.cfg.Log == "file" {
		n.log, n.replayed, err = openFileLog(dir)
	} else {
		n.log, n.replayed, err = openJournal(journal.Options{Dir: dir})
	}
	n.replay = time.Since(start)
	return err
}

// proposal is a batch of records of about size bytes, in its frame, behind room for the head.
func proposal(size int) []byte {
	f := record.Frame{Kind: record.KindRecords, Index: 1}
	b, start := record.BeginFrame(make([]byte, proposalHead), &f)
	b = record.BeginRecordsPayload(b, nil)
	var bb record.BatchBuilder
	bb.Begin(b, 1)
	const around = 200 // head, headers and the last record's own
	value := make([]byte, min(1000, size-around))
	for i := int32(0); i == 0 || bb.Size() < size-len(value)-around; i++ {
		bb.Append(&record.Input{OffsetDelta: i, Timestamp: 1, Key: []byte("plant/7/temp"), Value: value})
	}
	return record.FinishFrame(bb.Finish(&record.BatchOptions{}), start)
}

// load proposes to each group that this node leads, window at a time, until halted.
func (n *node) load(size, window int) {
	n.halt = make(chan struct{})
	n.proposer++ // sequence numbers begin anew
	n.lat.d = nil
	n.acked.Store(0)
	n.refused.Store(0)
	for g := uint64(1); g <= n.cfg.Groups; g++ {
		seq := &atomic.Uint64{}
		for range window {
			n.loads.Go(func() { n.propose(g, seq, proposal(size)) })
		}
	}
}

func (n *node) propose(g uint64, seq *atomic.Uint64, cmd []byte) {
	s := n.nh.GetNoOPSession(g)
	for {
		select {
		case <-n.halt:
			return
		default:
		}
		leader, _, ok, err := n.nh.GetLeaderID(g)
		if err != nil || !ok || leader != n.cfg.Node {
			pause(50 * time.Millisecond)
			continue
		}
		q := seq.Add(1)
		binary.LittleEndian.PutUint64(cmd, n.proposer)
		binary.LittleEndian.PutUint64(cmd[8:], q)
		start := time.Now()
		rs, err := n.nh.Propose(s, cmd, 10*time.Second)
		if err != nil {
			n.refused.Add(1)
			pause(10 * time.Millisecond)
			continue
		}
		r := <-rs.ResultC()
		if !r.Completed() {
			n.refused.Add(1)
			rs.Release()
			continue
		}
		took := time.Since(start)
		rs.Release()
		n.acked.Add(1)
		n.emit(&event{Event: "ack", Proposer: n.proposer, Group: g, Seq: q})
		n.lat.Lock()
		n.lat.d = append(n.lat.d, took)
		n.lat.Unlock()
	}
}

func pause(d time.Duration) {
	t := time.NewTimer(d)
	<-t.C
}

// dump reads each group's state, linearizably.
func (n *node) dump() error {
	out := make(map[uint64]dump, n.cfg.Groups)
	for g := uint64(1); g <= n.cfg.Groups; g++ {
		deadline := time.Now().Add(60 * time.Second)
		for {
			ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
			v, err := n.nh.SyncRead(ctx, g, nil)
			cancel()
			if err == nil {
				out[g] = v.(dump)
				break
			}
			if time.Now().After(deadline) {
				return fmt.Errorf("group %d cannot be read: %w", g, err)
			}
			pause(20 * time.Millisecond)
		}
	}
	n.emit(&event{Event: "dump", Dumps: out})
	return nil
}

func (n *node) stat() stat {
	s := stat{Proposals: n.acked.Load(), Refused: n.refused.Load(), Replay: n.replay, ReplayFrames: n.replayed}
	n.lat.Lock()
	d := slices.Clone(n.lat.d)
	n.lat.Unlock()
	if len(d) > 0 {
		slices.Sort(d)
		s.P50, s.P99 = d[len(d)/2], d[len(d)*99/100]
	}
	var ru syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &ru) == nil {
		s.CPU = time.Duration(ru.Utime.Nano() + ru.Stime.Nano())
	}
	if n.log != nil {
		s.Saves, s.Skipped, s.Frames, s.Groups = n.log.saves.Load(), n.log.skipped.Load(), n.log.frames.Load(), n.log.commits.Load()
	}
	s.WrittenBytes = procField("/proc/self/io", "write_bytes:")
	runtime.GC()
	s.RSS = procField("/proc/self/status", "VmRSS:") * 1024
	return s
}

func procField(file, name string) int64 {
	b, err := os.ReadFile(file)
	if err != nil {
		return 0
	}
	for line := range bytes.Lines(b) {
		if rest, ok := strings.CutPrefix(string(line), name); ok {
			var v int64
			fmt.Sscan(rest, &v)
			return v
		}
	}
	return 0
}
