package journal

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/sluicemq/sluice/internal/testx"
	"github.com/sluicemq/sluice/internal/vfs"
	"github.com/sluicemq/sluice/journal/record"
)

// image is what a backup has, taken out in full.
type image struct {
	files  []BackupFile
	bytes  [][]byte
	rows   []byte
	bounds []PartitionBounds
	end    Position
}

// takeImage copies a backup. between runs while it is held.
func takeImage(b *Backup, between func()) (im image, err error) {
	defer func() {
		if cerr := b.Close(); err == nil {
			err = cerr
		}
	}()
	im.files, im.bounds, im.end = slices.Clone(b.Files()), b.Partitions(), b.End()
	if between != nil {
		between()
	}
	if err := b.Rows(func(k, v []byte) error { im.rows = AppendRow(im.rows, k, v); return nil }); err != nil {
		return im, err
	}
	for i, f := range im.files {
		r, err := b.Open(i)
		if err != nil {
			return im, err
		}
		raw, err := io.ReadAll(io.NewSectionReader(r, 0, f.Size))
		if err != nil || int64(len(raw)) != f.Size {
			return im, fmt.Errorf("%s: %d bytes, %w", f.Name, len(raw), err)
		}
		im.bytes = append(im.bytes, raw)
		if err := r.Close(); err != nil {
			return im, err
		}
		b.Done(i)
	}
	return im, nil
}

// restore writes an image into a directory.
func (im *image) restore(o Options) error {
	r, err := NewRestorer(o)
	if err != nil {
		return err
	}
	err = func() error {
		for i, f := range im.files {
			if err := r.File(f, bytes.NewReader(im.bytes[i])); err != nil {
				return err
			}
		}
		err := r.Rows(func(put func(k, v []byte) error) error {
			in := bytes.NewReader(im.rows)
			for {
				k, v, err := ReadRow(in, nil, nil)
				if errors.Is(err, io.EOF) {
					return nil
				}
				if err == nil {
					err = put(k, v)
				}
				if err != nil {
					return err
				}
			}
		})
		if err != nil {
			return err
		}
		return r.Finish()
	}()
	if cerr := r.Close(); err == nil {
		err = cerr
	}
	return err
}

// TestBackupUnderLoad takes backups at random moments of a log that is written, trimmed, rewritten and checkpointed, lets it go on before they are
// copied, and opens each: it must be what a power cut at that moment would have left.
func TestBackupUnderLoad(t *testing.T) {
	for _, mode := range []Durability{Sync, Async} {
		t.Run(mode.String(), func(t *testing.T) {
			for seed := range uint64(4) {
				backupUnderLoad(t, mode, seed)
			}
		})
	}
}

// backupUnderLoad is one seed of it. Length: a story, each step of which needs the one before.
func backupUnderLoad(t *testing.T, mode Durability, seed uint64) {
	t.Helper()
	w := newWorld(smallOptions(mode))
	if err := w.start(); err != nil {
		t.Fatal(err)
	}
	rnd := rand.New(rand.NewPCG(seed, 1))
	step := func(i int) {
		w.put([worldParts]int{rnd.IntN(1500), i % 3 * 900, 200})
		w.settle(t)
		switch rnd.IntN(8) {
		case 0:
			w.setStart(0, record.Offset(2*i-10))
			w.setStart(1, record.Offset(i/2))
		case 1, 2:
			if err := w.checkpoint(rnd.IntN(2) == 0); err != nil {
				t.Fatal(err)
			}
		}
	}
	type taken struct {
		k  known
		im image
	}
	var all []taken
	i := 0
	for range 4 {
		for range 10 + rnd.IntN(25) {
			step(i)
			i++
		}
		w.mu.Lock()
		k := w.mu.known
		k.least, k.leastIdx = w.mu.acked.most, w.mu.acked.mostIdx // async, too: what is copied needs no flush
		w.mu.Unlock()
		b, err := w.l.Backup()
		if err != nil {
			t.Fatal(err)
		}
		late := w.knows()
		k.most, k.mostIdx, k.start = late.most, late.mostIdx, late.start
		im, err := takeImage(b, func() {
			for range 15 {
				step(i)
				i++
			}
		})
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, taken{k, im})
	}
	if err := w.l.Close(); err != nil {
		t.Fatal(err)
	}
	for n, b := range all {
		o := w.o
		o.FS, o.Dir = vfs.NewMem(), "elsewhere"
		if err := b.im.restore(o); err != nil {
			t.Fatalf("seed %d, backup %d: %v", seed, n, err)
		}
		l, _, err := check(o, b.k)
		if err != nil {
			t.Fatalf("seed %d, backup %d: %v", seed, n, err)
		}
		for _, p := range b.im.bounds {
			if start, end, size := l.LogStart(p.Partition), l.LogEnd(p.Partition), l.Size(p.Partition); end != p.End || start > p.Start || size < p.Bytes {
				t.Errorf("seed %d, backup %d: partition %d has %d to %d, %d bytes; it had %+v", seed, n, p.Partition, start, end, size, p)
			}
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// A backup keeps the log from recycling what it has to copy, and lets it afterwards; closing the log while one is open waits for it, and ends it.
// Length: a log, and a backup of it, step by step.
func TestBackupHoldsAndLetsGo(t *testing.T) {
	o := smallOptions(Sync)
	o.FS, o.Dir = vfs.NewMem(), "data"
	l := open(t, o)
	put := func(from, n int) {
		for i := range n {
			if err := l.src.commit(t, recordsFrame(nil, 1, record.Offset(from+i), 1, 4000)); err != nil {
				t.Fatal(err)
			}
		}
	}
	put(0, 40)
	b, err := l.Backup()
	if err != nil {
		t.Fatal(err)
	}
	files := len(b.Files())
	put(40, 40)
	l.SetLogStart(1, 80)
	if err := l.Checkpointer().Write(1, 80, l.src.end(), nil); err != nil {
		t.Fatal(err)
	}
	if err := l.Checkpointer().Flush(); err != nil {
		t.Fatal(err)
	}
	im, err := takeImage(b, nil)
	if err != nil || len(im.files) != files {
		t.Fatalf("%d files of %d: %v", len(im.files), files, err)
	}
	testx.Eventually(t, waitFor, func() bool { return l.Stats().Recycled.Load() > 0 })
	if b, err = l.Backup(); err != nil {
		t.Fatal(err)
	}
	r, err := b.Open(0)
	if err != nil {
		t.Fatal(err)
	}
	closed := make(chan error, 1)
	go func() { closed <- l.Close() }()
	testx.Eventually(t, waitFor, l.closing.Load)
	if _, err := r.ReadAt(make([]byte, 1), 0); !errors.Is(err, ErrClosed) {
		t.Errorf("read while closing: %v", err)
	}
	if err := b.Rows(func(_, _ []byte) error { return nil }); err == nil {
		t.Error("rows were read while closing")
	}
	if _, err := l.Backup(); err == nil {
		t.Error("a backup began while closing")
	}
	if err := r.Close(); err != nil {
		t.Error(err)
	}
	if err := b.Close(); err != nil {
		t.Error(err)
	}
	if err := <-closed; err != nil {
		t.Fatal(err)
	}
	to := o
	to.Dir = "elsewhere"
	if err := im.restore(to); err != nil {
		t.Fatal(err)
	}
	again := open(t, to)
	defer again.close(t)
	if got := offsets(t, again.Log, 1, 0); len(got) != 40 {
		t.Errorf("the backup has %d records, and 40 were written before it", len(got))
	}
	if err := again.src.commit(t, recordsFrame(nil, 1, 40, 1, 10)); err != nil {
		t.Errorf("the restored log takes nothing: %v", err)
	}
}

// A power cut at any moment of a restore leaves a directory that Open refuses, or a whole one.
func TestRestoreCut(t *testing.T) {
	w := newWorld(smallOptions(Sync))
	if err := w.start(); err != nil {
		t.Fatal(err)
	}
	for i := range 40 {
		w.put([worldParts]int{1500, i % 3 * 900, 200})
		w.settle(t)
	}
	if err := w.checkpoint(true); err != nil {
		t.Fatal(err)
	}
	k := w.knows()
	b, err := w.l.Backup()
	if err != nil {
		t.Fatal(err)
	}
	im, err := takeImage(b, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.l.Close(); err != nil {
		t.Fatal(err)
	}
	mem := vfs.NewMem()
	var cuts []*vfs.Mem
	seed := uint64(0)
	mem.OnSync = func(string, string) {
		seed++
		cut := vfs.Cut{}
		if seed%2 == 0 {
			cut.Rand = seeded(seed)
		}
		cuts = append(cuts, mem.Crash(cut))
	}
	o := w.o
	o.FS, o.Dir = mem, "elsewhere"
	if err := im.restore(o); err != nil {
		t.Fatal(err)
	}
	mem.OnSync = nil
	for n, c := range append(cuts, mem.Crash(vfs.Cut{})) {
		o.FS = c
		names, err := c.List("elsewhere")
		if vfs.IsNotExist(err) {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Contains(names, "FORMAT") {
			wal, _ := c.List("elsewhere/wal")
			if l, err := Open(o); err == nil {
				_ = l.Close()
				if len(wal) > 0 {
					t.Fatalf("cut %d: half a log opens", n)
				}
			}
			continue
		}
		l, _, err := check(o, k)
		if err != nil {
			t.Fatalf("cut %d: %v", n, err)
		}
		_ = l.Close()
	}
	if len(cuts) < 5 {
		t.Errorf("%d power cuts", len(cuts))
	}
}

// What is not a log's is not written, and nothing goes where something is.
func TestRestoreRefuses(t *testing.T) {
	o := smallOptions(Sync)
	o.FS, o.Dir = vfs.NewMem(), "data"
	r, err := NewRestorer(o)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"", "FORMAT", "LOCK", "../wal/0000000000000001.log", "wal/../0000000000000001.log", "wal/1.log", "wal/0000000000000001.seg",
		"wal/0000000000000001.log/x", "partitions/0000000000000001.log", "/etc/passwd"} {
		if err := r.File(BackupFile{Name: name, Size: 1, Full: blockSize}, bytes.NewReader([]byte("x"))); err == nil {
			t.Errorf("%q was written", name)
		}
	}
	f := BackupFile{Name: "wal/0000000000000001.log", Size: 2, Full: blockSize}
	if err := r.File(f, bytes.NewReader([]byte("x"))); err == nil {
		t.Error("a file that is cut was written")
	}
	for key, value := range map[string]string{"": "", "x": "", "\x00r": "short", "\x02ab": "", "\x01\x00\x00": ""} {
		err := r.Rows(func(put func(k, v []byte) error) error { return put([]byte(key), []byte(value)) })
		if err == nil {
			t.Errorf("a row %q was written", key)
		}
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := NewRestorer(o); err == nil {
		t.Error("a directory that holds something was taken")
	}
}
