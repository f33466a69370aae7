//go:build spike

package raftgroup

import (
	"errors"
	"fmt"

	"github.com/sluicemq/sluice/journal"
	"github.com/sluicemq/sluice/journal/record"
)

// journalSource feeds the journal's committer from a raftLog.
type journalSource struct{ *raftLog }

func (s journalSource) Committed(*journal.Group) { s.committed() }

func (s journalSource) Failed(err error) {
	if errors.Is(err, journal.ErrFull) {
		err = fmt.Errorf("%w: %w", errFull, err)
	}
	s.raftLog.Failed(err)
}

// openJournal opens the journal in o.Dir, replays it and lets the committer begin.
func openJournal(o journal.Options) (*raftLog, int64, error) {
	j, err := journal.Open(o)
	if err != nil {
		return nil, 0, err
	}
	l := newRaftLog()
	var frames int64
	err = j.Replay(func(f record.Frame, _ journal.Position) error {
		frames++
		return l.replay(&f)
	})
	if err == nil {
		l.endReplay()
		l.wake, l.onClose = j.Wake, j.Close
		err = j.Start(journalSource{l})
	}
	if err != nil {
		return nil, 0, errors.Join(err, j.Close())
	}
	return l, frames, nil
}
