//go:build spike

package raftgroup

import (
	"errors"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/sluicemq/sluice/journal/record"
)

// fileLog is the least log that could serve: frames appended to one file, each gathered group flushed. It has no segments, no
// groups' checksums and no recycling; beside the journal's figures, its own say what those cost.
type fileLog struct {
	f    *os.File
	log  *raftLog
	work chan struct{} // holds one token while frames wait
	stop chan struct{}
	done chan struct{}
}

const fileGroupMax = 1 << 20

func openFileLog(dir string) (*raftLog, int64, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, 0, err
	}
	path := filepath.Join(dir, "log")
	src, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, 0, err
	}
	l := newRaftLog()
	size, frames, err := replayFile(l, src)
	if err != nil {
		return nil, 0, err
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, 0, err
	}
	if err := f.Truncate(size); err != nil {
		return nil, 0, err
	}
	fl := &fileLog{f: f, log: l, work: make(chan struct{}, 1), stop: make(chan struct{}), done: make(chan struct{})}
	l.wake = func() {
		select {
		case fl.work <- struct{}{}:
		default:
		}
	}
	l.onClose = func() error {
		close(fl.stop)
		<-fl.done
		return f.Close()
	}
	go fl.commit(size)
	return l, frames, nil
}

// replayFile hands over each whole frame, and says where they end.
func replayFile(l *raftLog, src []byte) (size, frames int64, err error) {
	for {
		f, n, err := record.DecodeFrame(src[size:])
		if err != nil {
			l.endReplay()
			return size, frames, nil // a torn tail
		}
		if err := l.replay(&f); err != nil {
			return 0, 0, err
		}
		size += int64(n)
		frames++
	}
}

func (fl *fileLog) commit(at int64) {
	defer close(fl.done)
	buf := make([]byte, 0, fileGroupMax)
	for {
		select {
		case <-fl.work:
		case <-fl.stop:
			return
		}
		for more := true; more; {
			if buf, more = fl.log.Gather(buf[:0], fileGroupMax); len(buf) == 0 {
				break
			}
			_, err := fl.f.WriteAt(buf, at)
			if err == nil {
				err = unix.Fdatasync(int(fl.f.Fd()))
			}
			if err != nil {
				fl.log.Failed(err)
				return
			}
			at += int64(len(buf))
			fl.log.committed()
		}
	}
}
