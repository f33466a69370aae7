package vfs

import (
	"bytes"
	"errors"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func must[T any](t *testing.T) func(v T, err error) T {
	t.Helper()
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func ok(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// TestConformance says the same of the real file system and the one in memory.
func TestConformance(t *testing.T) {
	for name, fsys := range map[string]FS{"os": OS{}, "mem": NewMem(), "fault": &Fault{FS: NewMem()}} {
		t.Run(name, func(t *testing.T) { testFS(t, fsys, t.TempDir()) })
	}
}

func testFS(t *testing.T, fsys FS, dir string) {
	t.Helper()
	dir += "/a/b"
	ok(t, fsys.MkdirAll(dir))
	ok(t, fsys.MkdirAll(dir))
	if _, err := fsys.Open(dir+"/none", 0); !IsNotExist(err) {
		t.Fatalf("open of nothing: %v", err)
	}
	f := must[File](t)(fsys.Open(dir+"/x", Write|Create))
	must[int](t)(f.WriteAt([]byte("hello"), 3))
	ok(t, f.Sync())
	if n := must[int64](t)(f.Size()); n != 8 {
		t.Fatalf("size %d", n)
	}
	ok(t, f.Truncate(6))
	ok(t, f.Close())
	if got := must[[]byte](t)(ReadFile(fsys, dir+"/x")); string(got) != "\x00\x00\x00hel" {
		t.Fatalf("read %q", got)
	}
	ok(t, WriteFile(fsys, dir+"/y", []byte("whole")))
	ok(t, fsys.Rename(dir+"/y", dir+"/z"))
	if diff := cmp.Diff([]string{"x", "z"}, must[[]string](t)(fsys.List(dir))); diff != "" {
		t.Fatal(diff)
	}
	ok(t, fsys.SyncDir(dir))
	info := must[Info](t)(fsys.Stat(dir + "/z"))
	if info.Size != 5 || info.Dir || info.Name != "z" {
		t.Fatalf("%+v", info)
	}
	if free := must[int64](t)(fsys.FreeSpace(dir)); free <= 0 {
		t.Fatalf("free %d", free)
	}
	lock, err := fsys.Lock(dir + "/LOCK")
	ok(t, err)
	if _, err := fsys.Lock(dir + "/LOCK"); !errors.Is(err, ErrLocked) {
		t.Fatalf("second lock: %v", err)
	}
	ok(t, lock.Close())
	lock, err = fsys.Lock(dir + "/LOCK")
	ok(t, err)
	ok(t, lock.Close())
	testDirect(t, fsys, dir+"/direct")
	testUnbuffered(t, fsys, dir+"/unbuffered")
	ok(t, RemoveAll(fsys, dir))
	if _, err := fsys.Stat(dir); !IsNotExist(err) {
		t.Fatalf("still there: %v", err)
	}
}

// testUnbuffered writes whole blocks past the page cache, and cuts the file to what belongs to it.
func testUnbuffered(t *testing.T, fsys FS, path string) {
	t.Helper()
	f := must[File](t)(fsys.Open(path, Write|Create|Truncate|Unbuffered))
	if got := f.Direct(); got != DirectOnly && got != Buffered {
		t.Fatalf("opened as %v", got)
	}
	b := AlignedBytes(2 * BlockSize)
	copy(b, "block")
	must[int](t)(f.WriteAt(b, 0))
	must[int](t)(f.WriteAt(b[:BlockSize], 2*BlockSize))
	ok(t, f.Truncate(2*BlockSize+5))
	ok(t, f.Sync())
	ok(t, f.Close())
	if got := must[[]byte](t)(ReadFile(fsys, path)); len(got) != 2*BlockSize+5 || string(got[2*BlockSize:]) != "block" {
		t.Fatalf("read %d bytes", len(got))
	}
	ok(t, fsys.Remove(path))
}

func testDirect(t *testing.T, fsys FS, path string) {
	t.Helper()
	f := must[File](t)(fsys.Open(path, Write|Create|Direct))
	ok(t, f.Allocate(0, 4*BlockSize))
	b := AlignedBytes(BlockSize)
	copy(b, "block")
	must[int](t)(f.WriteAt(b, BlockSize))
	if f.Direct() == Buffered {
		t.Fatal("a direct file is buffered")
	}
	r := must[File](t)(fsys.Open(path, Random))
	m := must[Mapping](t)(r.Map(0, 4*BlockSize, false))
	ok(t, r.Close())
	ok(t, m.Populate(BlockSize, 5))
	if got := m.Bytes()[BlockSize:][:5]; string(got) != "block" {
		t.Fatalf("mapped %q", got)
	}
	// What is written now is seen: in pages that were read already, in those that were not, and in such as the process has let go of.
	for i, text := range []string{"first", "later", "third"} {
		copy(b, text)
		must[int](t)(f.WriteAt(b, BlockSize))
		must[int](t)(f.WriteAt(b, int64(i%2)*2*BlockSize))
		for _, at := range []int64{BlockSize, int64(i%2) * 2 * BlockSize} {
			ok(t, m.Populate(at, 5))
			if got := m.Bytes()[at:][:5]; string(got) != text {
				t.Fatalf("mapped %q at %d, want %q", got, at, text)
			}
		}
		if runtime.GOOS == "linux" && !m.Resident(BlockSize, BlockSize) {
			t.Fatal("what has just been read is not resident")
		}
		m.Drop(0, 4*BlockSize)
	}
	ok(t, m.Close())
	w := must[Mapping](t)(f.Map(0, 2*BlockSize, true))
	ok(t, w.Populate(0, BlockSize))
	copy(w.Bytes(), "mapped")
	ok(t, w.Sync(0, 6))
	ok(t, w.Close())
	ok(t, f.Close())
	if got := must[[]byte](t)(ReadFile(fsys, path)); string(got[:6]) != "mapped" || len(got) != 4*BlockSize {
		t.Fatalf("read back %q of %d", got[:6], len(got))
	}
}

func TestGuardCutFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	ok(t, os.WriteFile(path, make([]byte, 2*BlockSize), 0o600))
	f := must[File](t)(OS{}.Open(path, Write))
	m := must[Mapping](t)(f.Map(0, 2*BlockSize, false))
	ok(t, f.Truncate(0))
	err := Guard(func() error {
		if m.Bytes()[BlockSize] != 0 {
			return errors.New("not zero")
		}
		return nil
	})
	if !errors.Is(err, ErrFault) {
		t.Fatalf("got %v", err)
	}
	if err := m.Populate(0, 1); err == nil {
		t.Fatal("populating nothing worked")
	}
	ok(t, m.Close())
	ok(t, f.Close())
	defer func() {
		if recover() == nil {
			t.Fatal("a panic was swallowed")
		}
	}()
	_ = Guard(func() error { panic("mine") })
}

func TestPermission(t *testing.T) {
	if os.Geteuid() == 0 {
		t.Skip("root may do everything")
	}
	dir := t.TempDir()
	ok(t, os.Chmod(dir, 0o500))
	if _, err := (OS{}).Open(dir+"/x", Write|Create); !errors.Is(err, fs.ErrPermission) {
		t.Fatalf("got %v", err)
	}
}

func TestMemCrash(t *testing.T) {
	m := NewMem()
	ok(t, m.MkdirAll("d"))
	ok(t, m.SyncDir("."))
	f := must[File](t)(m.Open("d/kept", Write|Create))
	must[int](t)(f.WriteAt(bytes.Repeat([]byte{1}, 4*SectorSize), 0))
	ok(t, f.Sync())
	must[int](t)(f.WriteAt(bytes.Repeat([]byte{2}, 4*SectorSize), 0))
	if _, err := m.Crash(Cut{}).Stat("d/kept"); !IsNotExist(err) {
		t.Fatalf("a name that was not synced is there: %v", err)
	}
	ok(t, m.SyncDir("d"))
	if got := must[[]byte](t)(ReadFile(m.Crash(Cut{}), "d/kept")); got[0] != 1 || got[len(got)-1] != 1 {
		t.Fatal("bytes that were not synced are there")
	}
	if got := must[[]byte](t)(ReadFile(m.Crash(Cut{Keep: true}), "d/kept")); got[0] != 2 {
		t.Fatal("bytes that the system had are gone")
	}
	torn := false
	for seed := range uint64(50) {
		got := must[[]byte](t)(ReadFile(m.Crash(Cut{Rand: rand.New(rand.NewPCG(seed, 1))}), "d/kept"))
		for s := range 4 {
			sector := got[s*SectorSize:][:SectorSize]
			if bytes.Count(sector, []byte{1}) != SectorSize && bytes.Count(sector, []byte{2}) != SectorSize {
				t.Fatal("a sector was torn")
			}
			torn = torn || sector[0] != got[0]
		}
	}
	if !torn {
		t.Fatal("nothing was ever torn")
	}
	ok(t, f.Sync())
	mp := must[Mapping](t)(f.Map(0, 4*SectorSize, true))
	copy(mp.Bytes(), []byte{7})
	if got := must[[]byte](t)(ReadFile(m.Crash(Cut{}), "d/kept")); got[0] != 2 {
		t.Fatal("mapped bytes that were not synced are there")
	}
	ok(t, mp.Sync(0, 1))
	if got := must[[]byte](t)(ReadFile(m.Crash(Cut{}), "d/kept")); got[0] != 7 {
		t.Fatal("mapped bytes that were synced are gone")
	}
	ok(t, mp.Close())
	ok(t, m.Rename("d/kept", "d/moved"))
	if _, err := m.Crash(Cut{}).Stat("d/kept"); err != nil {
		t.Fatalf("a renaming that was not synced took the file: %v", err)
	}
}

func TestMemOnSyncSeesWhatIsOnItsWay(t *testing.T) {
	m := NewMem()
	f := must[File](t)(m.Open("x", Write|Create|Direct))
	ok(t, m.SyncDir("."))
	var before *Mem
	m.OnSync = func(string, string) { before = m.Crash(Cut{}) }
	b := AlignedBytes(BlockSize)
	b[0] = 9
	must[int](t)(f.WriteAt(b, 0))
	if got := must[[]byte](t)(ReadFile(before, "x")); len(got) != 0 {
		t.Fatal("it was durable before the sync")
	}
	if got := must[[]byte](t)(ReadFile(m.Crash(Cut{}), "x")); len(got) != BlockSize || got[0] != 9 {
		t.Fatal("it was not durable behind the sync")
	}
	if _, err := f.WriteAt(b[:100], 0); err == nil {
		t.Fatal("a write that is not aligned worked")
	}
}

func TestFault(t *testing.T) {
	eio := syscall.EIO
	f := &Fault{FS: NewMem(), Judge: FailNth(1, eio, OpWrite)}
	file := must[File](t)(f.Open("x", Write|Create))
	must[int](t)(file.WriteAt([]byte("a"), 0))
	if _, err := file.WriteAt([]byte("b"), 0); !errors.Is(err, eio) {
		t.Fatalf("got %v", err)
	}
	space := NewSpace(1024)
	f.Judge = space.Judge
	must[int](t)(file.WriteAt(make([]byte, 100), 0))
	n, err := file.WriteAt(bytes.Repeat([]byte{5}, 2000), 0)
	if !IsFull(err) || n != 512 {
		t.Fatalf("wrote %d, %v", n, err)
	}
	space.Add(5000)
	must[int](t)(file.WriteAt(make([]byte, 2000), 0))
	f.Judge = func(op Op) Verdict {
		if op.Kind == OpRead {
			return Verdict{Flip: func(b []byte) { b[0] ^= 1 }}
		}
		return Verdict{}
	}
	b := make([]byte, 1)
	must[int](t)(file.ReadAt(b, 0))
	if b[0] != 1 {
		t.Fatal("no bit was flipped")
	}
	if f.Ops() == 0 {
		t.Fatal("nothing was counted")
	}
}
