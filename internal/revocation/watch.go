package revocation

import (
	"os"
	"time"
)

// Stamps tell whether files have changed since they were looked at. The zero value has seen nothing. It is for one goroutine.
type Stamps struct{ seen map[string]stamp }

type stamp struct {
	size     int64
	modified time.Time
	file     os.FileInfo // os.SameFile tells one that was moved over the other
}

// Changed says whether a file has been written, replaced, made or removed since the last call with the same files; at the first call, and with other files, it says yes.
func (s *Stamps) Changed(files []string) bool {
	now := make(map[string]stamp, len(files))
	changed := s.seen == nil || len(files) != len(s.seen)
	for _, f := range files {
		var st stamp
		if info, err := os.Stat(f); err == nil {
			st = stamp{info.Size(), info.ModTime(), info}
		}
		old, known := s.seen[f]
		same := known && st.size == old.size && st.modified.Equal(old.modified) && (st.file == nil) == (old.file == nil)
		if same && st.file != nil {
			same = os.SameFile(st.file, old.file)
		}
		changed = changed || !same
		now[f] = st
	}
	s.seen = now
	return changed
}
