package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sluicemq/sluice/config"
	"github.com/sluicemq/sluice/internal/vfs"
)

// data looks at the directory, and at the disk below it.
func (d *doctor) data(ctx context.Context) {
	if d.cfg.Journal.Durability == "memory" {
		d.say("data directory", "ok", "", "not used: journal.durability is memory")
		return
	}
	dir := d.cfg.Node.Data
	place, err := existing(dir)
	if err != nil {
		d.say("data directory", "fail", "set node.data to another path", "%v", err)
		return
	}
	if err := unix.Access(place, unix.W_OK|unix.X_OK); err != nil {
		d.say("data directory", "fail", "give the user that runs the node the right to write there", "%s: %v", place, err)
		return
	}
	if place != dir {
		d.say("data directory", "ok", "", "%s is made at the first start", dir)
	} else {
		d.stored(dir)
	}
	d.space(place)
	d.fileSystem(place)
	d.flushes(ctx, place)
}

// existing is dir, or the folder above it in which it would be made.
func existing(dir string) (string, error) {
	for place := dir; ; place = filepath.Dir(place) {
		st, err := os.Stat(place)
		switch {
		case err == nil && !st.IsDir():
			return "", fmt.Errorf("%s is no directory", place)
		case err == nil:
			return place, nil
		case !errors.Is(err, fs.ErrNotExist) || filepath.Dir(place) == place:
			return "", err
		}
	}
}

// stored looks at what a node before has left, without changing it.
func (d *doctor) stored(dir string) {
	journal := filepath.Join(dir, "journal")
	format, err := os.ReadFile(filepath.Join(journal, "FORMAT"))
	switch {
	case errors.Is(err, fs.ErrNotExist) && empty(filepath.Join(journal, "wal")):
		d.say("data directory", "ok", "", "%s has no data yet", dir)
		return
	case errors.Is(err, fs.ErrNotExist):
		d.say("data directory", "fail", "restore it from a backup", "%s has a log, but no FORMAT", journal)
		return
	case err != nil:
		d.say("data directory", "fail", "run this as the user that runs the node", "%v", err)
		return
	}
	found, ok := strings.CutPrefix(string(format), "sluice journal\nformat ")
	switch n, err := strconv.Atoi(strings.TrimSpace(found)); {
	case !ok || err != nil:
		d.say("data directory", "fail", "restore it from a backup", "%s/FORMAT says %.64q, not a format", journal, format)
	case n != journalFormat:
		d.say("data directory", "fail", "take the release that wrote it, or a newer one", "%s has format %d, this program knows %d", journal, n, journalFormat)
	default:
		d.say("data directory", "ok", "", "%s, format %d", dir, n)
	}
	d.shards(dir)
	d.lock(filepath.Join(journal, "LOCK"))
	d.future(filepath.Join(journal, "wal"))
	d.say("data checksums", "skip", "", "not checked here: a start checks all that it replays, and refuses to go on over corruption")
}

func empty(dir string) bool {
	names, err := os.ReadDir(dir)
	return err != nil || len(names) == 0
}

// shards compares the number that is fixed at the first start.
func (d *doctor) shards(dir string) {
	b, err := os.ReadFile(filepath.Join(dir, "SHARDS"))
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	if have := strings.TrimSpace(string(b)); err != nil || have != strconv.Itoa(d.cfg.Cluster.Shards) {
		d.say("shards", "fail", "set cluster.shards back, or start with another node.data",
			"cluster.shards is %d, the data was made with %q (%v)", d.cfg.Cluster.Shards, have, err)
	}
}

// lock tells who holds the directory. It asks for a shared lock and lets it go at once.
func (d *doctor) lock(path string) {
	f, err := os.Open(path)
	if err != nil {
		return // no node was here yet, or stored has said why it cannot be read
	}
	defer f.Close()
	err = unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB)
	switch {
	case err == nil:
		d.say("data lock", "ok", "", "free: no node runs on it")
	case errors.Is(err, unix.EWOULDBLOCK):
		d.holders = lockHolders(f)
		d.say("data lock", "ok", "", "held: a node runs on it%s; a second one would be refused", processes(d.holders))
	default:
		d.say("data lock", "warn", "put node.data on a file system with flock(2)", "%v", err)
	}
}

// future looks for files from after now: the clock was ahead once, or is behind.
func (d *doctor) future(dir string) {
	names, _ := os.ReadDir(dir)
	for _, e := range names {
		st, err := e.Info()
		if err != nil {
			continue
		}
		if ahead := time.Until(st.ModTime()); ahead > 5*time.Second {
			d.say("clock of the data", "warn", "set the clock: expiry of messages and sessions goes by it",
				"%s was written %v from now", filepath.Join(dir, e.Name()), ahead.Round(time.Second))
			return
		}
	}
}

func (d *doctor) space(dir string) {
	n, err := vfs.OS{}.FreeSpace(dir)
	free, segment := config.Size(n), d.cfg.Journal.SegmentSize
	switch {
	case err != nil:
		d.say("free space", "warn", "", "%v", err)
	case free < segment && len(d.holders) == 0:
		d.say("free space", "fail", "make room, or lower journal.segment_size", "%v, less than a segment of %v", free/config.MiB*config.MiB, segment)
	case free < 4*segment:
		d.say("free space", "warn", "make room: a journal wants four segments at the least", "%v, segments have %v", free/config.MiB*config.MiB, segment)
	default:
		d.say("free space", "ok", "", "%v", free/config.MiB*config.MiB)
	}
}

// flushArea is what is written over and over, as the journal writes over segments that it has zeroed before.
const flushArea = 256 * vfs.BlockSize

// flushes times single blocks written the way sync mode writes groups: what an acknowledgement waits for when one client waits at
// a time.
func (d *doctor) flushes(ctx context.Context, dir string) {
	took, mode, err := d.measure(ctx, dir)
	if err != nil {
		d.say("flush", "fail", "look at the disk: a node could not write either", "%v", err)
		return
	}
	if mode == vfs.DirectSync {
		d.say("direct I/O", "ok", "", "taken: %v", mode)
	} else {
		d.say("direct I/O", "warn", "use ext4 or XFS on a local disk: each group costs two steps and more CPU here", "not taken by this file system: %v", mode)
	}
	if len(took) == 0 {
		return // interrupted
	}
	slices.Sort(took)
	p50, p99 := took[len(took)/2], took[len(took)*99/100]
	status, do := "ok", ""
	switch {
	case p50 > 10*time.Millisecond:
		status, do = "warn", "an acknowledgement waits that long with journal.durability sync: take a faster disk, or async"
	case p99 > 100*time.Millisecond:
		status, do = "warn", "the slowest acknowledgements wait that long: see what else writes to this disk"
	}
	d.say("flush", status, do, "%d writes of 4 KiB (%v): median %v, p99 %v", len(took), mode, p50.Round(time.Microsecond), p99.Round(time.Microsecond))
}

func (d *doctor) measure(ctx context.Context, dir string) (took []time.Duration, mode vfs.DirectMode, err error) {
	temp, err := os.CreateTemp(dir, ".sluice-doctor-*")
	if err != nil {
		return nil, 0, err
	}
	f, err := vfs.OS{}.Open(temp.Name(), vfs.Write|vfs.Direct)
	// The name goes first, so that nothing stays whatever ends this process.
	if err := errors.Join(err, os.Remove(temp.Name()), temp.Close()); err != nil {
		return nil, 0, err
	}
	defer f.Close()
	mode = f.Direct()
	if err := f.Allocate(0, flushArea); err != nil {
		return nil, mode, err
	}
	block := vfs.AlignedBytes(vfs.BlockSize)
	for began := time.Now(); time.Since(began) < d.flushFor && ctx.Err() == nil; {
		t := time.Now()
		if _, err := f.WriteAt(block, int64(len(took))*vfs.BlockSize%flushArea); err != nil {
			return nil, mode, err
		}
		took = append(took, time.Since(t))
	}
	return took, mode, nil
}
