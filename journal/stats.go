package journal

import "sync/atomic"

// Stats are the counters of a log. They are written by it alone.
type Stats struct {
	Groups, Frames, Bytes   atomic.Int64 // committed; Bytes are those of frames
	WrittenBytes            atomic.Int64 // with headers and padding
	Flushes                 atomic.Int64
	Segments, LogBytes      atomic.Int64 // now
	PartitionSegments       atomic.Int64 // now
	PartitionBytes          atomic.Int64 // of their files, now
	Limited                 atomic.Int64 // 1: the log has Options.MaxBytes, and takes urgent frames alone
	FailedLimit             atomic.Int64 // times that what waited was refused for that
	TailBytes               atomic.Int64 // now
	Recycled                atomic.Int64 // segments
	RewrittenBytes          atomic.Int64
	FailedFull, FailedIO    atomic.Int64 // groups refused, by reason
	TailReads, MapReads     atomic.Int64 // fetches, by where the bytes were
	DiskReads               atomic.Int64
	Checkpoints             atomic.Int64
	ReplayedFrames, TornCut atomic.Int64
}
