package journal

// limitError is ErrLimit.
type limitError struct{}

// Error names it.
func (limitError) Error() string {
	return "journal: the log is as large as it may be (journal.max_bytes)"
}

// Is finds ErrFull: who need not tell the two apart treats them alike.
func (limitError) Is(target error) bool { return target == ErrFull }

// Used is how many bytes the files of log and partition segments have, those aside that are about to be removed.
func (l *Log) Used() int64 { return l.stats.LogBytes.Load() + l.stats.PartitionBytes.Load() }

// Limited tells whether frames are refused since the log has Options.MaxBytes.
func (l *Log) Limited() bool { return l.stats.Limited.Load() != 0 }

// wakeLimited has the committer look again, if frames are refused.
func (l *Log) wakeLimited() {
	if l.Limited() {
		l.com.signal()
	}
}

// limited tells whether nothing but urgent frames may be written now: the log has more than its bytes, or would have with the next segment and
// is in the last quarter of this one, which is set aside for them. It is the committer's.
func (c *committer) limited() bool {
	l := c.l
	if l.o.MaxBytes <= 0 {
		return false
	}
	used, s := l.Used(), c.active
	if s == nil || c.mustRotate || s.size-s.end < s.size/reserveShare {
		used += l.o.SegmentBytes
	}
	limited := used > l.o.MaxBytes
	if was := l.stats.Limited.Load() != 0; was != limited {
		if limited {
			l.stats.Limited.Store(1)
			l.log.Error("the log is as large as it may be: only what lets go of something is written until it has room", "dir", l.o.Dir, "bytes", l.Used(), "max_bytes", l.o.MaxBytes)
		} else {
			l.stats.Limited.Store(0)
			l.log.Info("the log has room again", "dir", l.o.Dir, "bytes", l.Used(), "max_bytes", l.o.MaxBytes)
		}
	}
	return limited
}
