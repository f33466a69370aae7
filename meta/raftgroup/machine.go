package raftgroup

import (
	"errors"
	"fmt"
	"io"
	"os"

	sm "github.com/lni/dragonboat/v4/statemachine"
)

// machine is the state as Dragonboat knows it. It never answers an error that Dragonboat would end the process for: it halts the group, and
// applies nothing any more. The node goes on to keep the log and to vote, so the others do not notice.
type machine struct {
	g      *Group
	opened chan<- struct{} // with room for one: hears of the first Open
}

// Open makes it a sm.IOnDiskStateMachine.
func (m machine) Open(<-chan struct{}) (uint64, error) {
	defer func() {
		select {
		case m.opened <- struct{}{}:
		default:
		}
	}()
	if err := m.g.checkBehind(); err != nil {
		m.g.halt(err)
		return 0, sm.ErrOpenStopped
	}
	return m.g.state.mark.applied, nil
}

// ErrBehind says that what the log leads on from is not in the state: somebody has put an older state into the directory, or taken it out.
var ErrBehind = errors.New("raftgroup: the catalog's state is older than what its log goes on from; replace the node")

// checkBehind compares the state with the snapshot that the log has. A snapshot that this node has made, or has taken over, has no content any
// more: nothing could bring the state to it. One that came from another node and was not taken over yet is whole.
func (g *Group) checkBehind() error {
	lr, err := g.host.GetLogReader(shardID)
	if err != nil {
		return err
	}
	ss := lr.Snapshot()
	if ss.Index == 0 {
		return nil
	}
	defer func() { _ = ss.Unref() }()
	if ss.OnDiskIndex <= g.state.mark.applied || !ss.Dummy && holdsImage(ss.Filepath) {
		return nil
	}
	return fmt.Errorf("%w: the state is at %d, the log's snapshot at %d", ErrBehind, g.state.mark.applied, ss.OnDiskIndex)
}

// imageWithin is how far from a snapshot file's start an image begins at most.
const imageWithin = 8 << 10

// holdsImage says whether a snapshot file has an image in it.
func holdsImage(path string) bool {
	f, err := os.Open(path)
	if err != nil {
		return false
	}
	defer f.Close()
	b := make([]byte, imageWithin)
	n, _ := io.ReadFull(f, b)
	return containsImage(b[:n])
}

// Update makes it a sm.IOnDiskStateMachine.
func (m machine) Update(entries []sm.Entry) ([]sm.Entry, error) {
	g := m.g
	if g.Halted() == nil {
		list := make([]decided, len(entries))
		for i := range entries {
			list[i] = decided{index: entries[i].Index, cmd: entries[i].Cmd}
		}
		if err := g.state.update(list); err == nil {
			for i := range entries {
				entries[i].Result = sm.Result{Value: list[i].result}
			}
			return entries, nil
		} else if !g.closed() {
			g.halt(err)
		}
	}
	// Dragonboat takes for applied what comes back, and may then let the log go. So nothing comes back until it ends.
	<-g.closing
	return entries, nil
}

// Lookup makes it a sm.IOnDiskStateMachine: readers have the snapshot, a barrier wants to know that all before it is there.
func (m machine) Lookup(any) (any, error) { return nil, m.g.Halted() }

// Sync makes it a sm.IOnDiskStateMachine.
func (m machine) Sync() error {
	if m.g.Halted() != nil {
		return nil // the log's snapshot is at an index that was applied before
	}
	if err := m.g.state.sync(); err != nil {
		m.g.halt(fmt.Errorf("flush the catalog's state: %w", err))
		<-m.g.closing
	}
	return nil
}

// PrepareSnapshot makes it a sm.IOnDiskStateMachine.
func (m machine) PrepareSnapshot() (any, error) { return m.g.state.view(), nil }

// SaveSnapshot makes it a sm.IOnDiskStateMachine.
func (m machine) SaveSnapshot(of any, w io.Writer, stop <-chan struct{}) error {
	v := of.(*view)
	err := errors.Join(v.write(w, stop), v.close())
	switch {
	case err == nil:
		return nil
	case errors.Is(err, errStopped):
		return sm.ErrSnapshotStopped
	case errors.Is(err, sm.ErrSnapshotStreaming):
		return sm.ErrSnapshotStreaming
	}
	m.g.o.Logger.Warn("a snapshot of the catalog was not written", "err", err)
	return sm.ErrSnapshotAborted
}

// RecoverFromSnapshot makes it a sm.IOnDiskStateMachine.
func (m machine) RecoverFromSnapshot(r io.Reader, stop <-chan struct{}) error {
	err := m.g.state.take(r, stop)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, errStopped):
		return sm.ErrSnapshotStopped
	}
	m.g.halt(fmt.Errorf("take over a snapshot of the catalog: %w", err))
	return sm.ErrSnapshotStopped
}

// Close makes it a sm.IOnDiskStateMachine. The group closes the state.
func (machine) Close() error { return nil }
