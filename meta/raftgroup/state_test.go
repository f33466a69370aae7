package raftgroup

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/sluicemq/sluice/meta"
)

var quiet = slog.New(slog.DiscardHandler)

// mirror is what a state has told, as plain as can be.
type mirror map[string]string

func (m mirror) apply(_ uint64, changes []meta.Entry) {
	for _, e := range changes {
		if e.Value == nil {
			delete(m, e.Key)
			continue
		}
		m[e.Key] = string(e.Value)
	}
}

func openTestState(t *testing.T, fs vfs.FS, m mirror) *state {
	t.Helper()
	s, err := openState("state", fs, quiet, m.apply)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if s.db != nil {
			_ = s.close()
		}
	})
	return s
}

func (s *state) stop(t *testing.T) {
	t.Helper()
	if err := s.close(); err != nil {
		t.Fatal(err)
	}
	s.db = nil
}

// one applies one command.
func (s *state) one(t *testing.T, index uint64, c command) uint64 {
	t.Helper()
	list := []decided{{index: index, cmd: appendCommand(nil, &c)}}
	if err := s.update(list); err != nil {
		t.Fatal(err)
	}
	return list[0].result
}

// What is on disk and in the log never changes its meaning.
func TestCommandVectors(t *testing.T) {
	c := command{replica: 0x20001, run: 2, seq: 3, base: 300, changes: []meta.Entry{{Key: "user/a", Value: []byte{1, 0, 0, 0}}, {Key: "user/b"}}}
	const want = "01" + "818008" + "02" + "03" + "ac02" + "02" + "06757365722f61" + "0501000000" + "06757365722f62" + "00"
	b := appendCommand(nil, &c)
	if hex.EncodeToString(b) != want {
		t.Errorf("%x", b)
	}
	got, err := decodeCommand(b, commandVersion)
	if err != nil || !reflect.DeepEqual(got, c) {
		t.Errorf("%+v %v", got, err)
	}
	for n := range len(b) {
		if _, err := decodeCommand(b[:n], commandVersion); err == nil {
			t.Errorf("%d bytes of %d pass", n, len(b))
		}
	}
	if _, err := decodeCommand(append(slices.Clone(b), 0), commandVersion); err == nil {
		t.Error("a byte too many passes")
	}
	b[0] = 2
	if _, err := decodeCommand(b, commandVersion); !errors.Is(err, ErrCommandVersion) || !strings.Contains(err.Error(), "version 2") {
		t.Errorf("a newer one: %v", err)
	}
	m := mark{generation: 1, applied: 300, last: 299, entries: 2, bytes: 20, sent: map[uint64]sent{65537: {1, 2, 1}}}
	m.classes[5] = 7
	mb := m.append(nil)
	if hex.EncodeToString(mb) != "0101ac02ab02021400000000000701818004010201" {
		t.Errorf("%x", mb)
	}
	var back mark
	if err := back.decode(mb); err != nil || !reflect.DeepEqual(back, m) {
		t.Errorf("%+v %v", back, err)
	}
	mb[0] = 2
	if err := back.decode(mb); err == nil || !strings.Contains(err.Error(), "version 2") {
		t.Error(err)
	}
	g := greeting{purpose: forImage, cluster: "c", from: 1, to: 2, replica: 3, level: 4, disk: "d", address: "h:1"}
	gb := g.append(nil)
	if hex.EncodeToString(gb) != "534c5247"+"01"+"02"+"01020304"+"0163"+"0164"+"03683a31" {
		t.Errorf("%x", gb)
	}
	var g2 greeting
	if err := g2.decode(gb); err != nil || g2 != g {
		t.Errorf("%+v %v", g2, err)
	}
	a := admitted{cluster: "c", copy: 1, level: 1, shards: 64, nodes: []peer{{1, "h:1"}}}
	ab := a.append(nil)
	if hex.EncodeToString(ab) != "0163"+"010140"+"01"+"01"+"03683a31" {
		t.Errorf("%x", ab)
	}
	var a2 admitted
	if err := a2.decode(ab); err != nil || !reflect.DeepEqual(a, a2) {
		t.Errorf("%+v %v", a2, err)
	}
}

// What was not seen is not written over; what comes twice is made once; what belongs to an earlier run is not made at all.
func TestCommandRules(t *testing.T) {
	seen := mirror{}
	s := openTestState(t, vfs.NewMem(), seen)
	set := func(key string) []meta.Entry { return []meta.Entry{{Key: key, Value: []byte{1, 0, 0, 0}}} }
	a := func(seq, base uint64, changes []meta.Entry) command {
		return command{replica: replicaOf(1, 1), run: 5, seq: seq, base: base, changes: changes}
	}
	other := func(seq, base uint64, changes []meta.Entry) command {
		return command{replica: replicaOf(2, 1), run: 1, seq: seq, base: base, changes: changes}
	}
	for i, step := range []struct {
		c    command
		want uint64
	}{
		{a(1, 0, set("user/a")), resultMade},
		{a(1, 0, set("user/a")), resultMade},         // again: 11
		{other(1, 9, set("user/b")), resultConflict}, // it has not seen 10
		{other(1, 9, set("user/b")), resultConflict}, // again
		{other(2, 9, nil), resultMade},               // touches nothing
		{other(3, 10, set("user/b")), resultMade},    // 15
		{a(2, 10, set("user/c")), resultConflict},    // it has not seen 15
		{a(3, 15, set("user/c")), resultMade},        //
		{a(1, 99, set("user/d")), resultStale},       // of before
		{command{replica: replicaOf(1, 1), run: 4, seq: 9, base: 99, changes: set("user/d")}, resultStale},
		{command{replica: replicaOf(1, 2), run: 1, seq: 1, base: 99, changes: set("user/e")}, resultMade}, // the next copy of node 1
	} {
		if got := s.one(t, uint64(10+i), step.c); got != step.want {
			t.Errorf("step %d: %d, want %d", i, got, step.want)
		}
	}
	if len(seen) != 4 || s.mark.entries != 4 || s.mark.last != 20 || s.mark.applied != 20 || len(s.mark.sent) != 2 {
		t.Errorf("%v %+v", seen, s.mark)
	}
	// A command that this program does not understand changes nothing, not even those beside it.
	newer := []decided{{index: 21, cmd: appendCommand(nil, &command{replica: 1, seq: 1, base: 99, changes: set("user/f")})},
		{index: 22, cmd: appendCommand(nil, &command{replica: 2, seq: 1, base: 99, changes: []meta.Entry{{Key: "user/g", Value: []byte{9}}}})}}
	if err := s.update(newer); !errors.Is(err, meta.ErrVersion) || !strings.Contains(err.Error(), "user") || !strings.Contains(err.Error(), "22") {
		t.Error(err)
	}
	if err := s.update([]decided{{index: 21, cmd: []byte{2}}}); !errors.Is(err, ErrCommandVersion) {
		t.Error(err)
	}
	if len(seen) != 4 || s.mark.applied != 20 {
		t.Errorf("%v %+v", seen, s.mark)
	}
}

func TestStateBounds(t *testing.T) {
	s := openTestState(t, vfs.NewMem(), mirror{})
	seq := uint64(0)
	do := func(e ...meta.Entry) uint64 {
		seq++
		return s.one(t, seq, command{replica: 1, run: 1, seq: seq, base: seq, changes: e})
	}
	s.mark.entries, s.mark.bytes = entriesMax-1, bytesMax-100
	if got := do(user("a")); got != resultMade {
		t.Error(got)
	}
	if got := do(user("b")); got != resultEntries {
		t.Error(got)
	}
	if got := do(user("a"), meta.DeleteUser("never")); got != resultMade {
		t.Errorf("what replaces: %d", got)
	}
	if got := do((&meta.User{Name: "a", Password: strings.Repeat("x", 200)}).Entry()); got != resultBytes {
		t.Error(got)
	}
	if got := do(meta.DeleteUser("a"), user("b")); got != resultMade {
		t.Error(got)
	}
	if err := checkChanges([]meta.Entry{{Key: "user/" + strings.Repeat("x", keyMax), Value: nil}}); !errors.Is(err, ErrBounds) {
		t.Error(err)
	}
	var many []meta.Entry
	for i := range 20 {
		many = append(many, (&meta.User{Name: fmt.Sprint(i), Password: strings.Repeat("x", 60<<10)}).Entry())
	}
	if err := checkChanges(many); !errors.Is(err, ErrBounds) {
		t.Error(err)
	}
}

// randomChange is a change of a small world.
func randomChange(r *rand.Rand) (list []meta.Entry) {
	for range 1 + r.IntN(4) {
		name := fmt.Sprint("u", r.IntN(60))
		if r.IntN(3) == 0 {
			list = append(list, meta.DeleteUser(name))
			continue
		}
		list = append(list, (&meta.User{Name: name, Password: strings.Repeat("p", r.IntN(50))}).Entry())
	}
	return list
}

// The power goes at any moment: what is there afterwards is what some prefix of the log had made, all that was told of at least, and from
// there the log leads to the same state again.
func TestStatePower(t *testing.T) {
	for seed := range uint64(20) {
		r := rand.New(rand.NewPCG(seed, 1))
		mem := vfs.NewCrashableMem()
		s := openTestState(t, mem, mirror{})
		cutAt := uint64(1 + r.IntN(200))
		var crashed *vfs.MemFS
		var log []command
		states := []mirror{{}}
		want := mirror{}
		told := uint64(0)
		for i := uint64(1); i <= 200; i++ {
			c := command{replica: 1, run: 1, seq: i, base: i, changes: randomChange(r)}
			log = append(log, c)
			if i == cutAt {
				crashed = mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 50, RNG: rand.New(rand.NewPCG(seed, 2))})
			}
			if s.one(t, i, c) != resultMade {
				t.Fatal("not made")
			}
			want.apply(i, c.changes)
			states = append(states, cloneMirror(want))
			if i < cutAt {
				told = i
			}
		}
		s.stop(t)
		got := mirror{}
		s = openTestState(t, crashed, got)
		at := s.mark.applied
		if at < told {
			t.Fatalf("seed %d: told of %d, and %d is there", seed, told, at)
		}
		if !reflect.DeepEqual(got, states[at]) {
			t.Fatalf("seed %d: at %d it is not what the log had made", seed, at)
		}
		for i := at + 1; i <= uint64(len(log)); i++ {
			s.one(t, i, log[i-1])
		}
		if !reflect.DeepEqual(got, want) {
			t.Fatalf("seed %d: from %d on the log leads elsewhere", seed, at)
		}
		s.stop(t)
	}
}

func cloneMirror(m mirror) mirror {
	c := mirror{}
	for k, v := range m {
		c[k] = v
	}
	return c
}

// image writes a state's image.
func image(t *testing.T, s *state) []byte {
	t.Helper()
	var b bytes.Buffer
	v := s.view()
	if err := errors.Join(v.write(&b, nil), v.close()); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// An image brings any state to the one that it is of, and tells what differs and nothing else. Cut short or damaged, it changes nothing.
func TestImages(t *testing.T) {
	for seed := range uint64(10) {
		r := rand.New(rand.NewPCG(seed, 3))
		mem := vfs.NewCrashableMem()
		from, to := mirror{}, mirror{}
		a, b := openTestState(t, vfs.NewMem(), from), openTestState(t, mem, to)
		for i := uint64(1); i <= 100; i++ {
			c := command{replica: 1, run: 1, seq: i, base: i, changes: randomChange(r)}
			a.one(t, i, c)
			if i <= 30 {
				b.one(t, i, c)
			}
		}
		img := image(t, a)
		if !bytes.Equal(img, image(t, a)) || !containsImage(img) {
			t.Fatal("an image is not the same twice")
		}
		before, mark := cloneMirror(to), b.mark
		for _, bad := range [][]byte{img[:len(img)-1], img[:r.IntN(len(img))], nil, flip(img, r.IntN(len(img)))} {
			if err := b.take(bytes.NewReader(bad), nil); err == nil {
				t.Fatalf("seed %d: %d bytes of %d pass", seed, len(bad), len(img))
			}
			if !reflect.DeepEqual(to, before) || !reflect.DeepEqual(b.mark, mark) {
				t.Fatal("a bad image has changed something")
			}
		}
		told := 0
		b.apply = func(index uint64, changes []meta.Entry) {
			told += len(changes)
			for _, e := range changes {
				if old, found := to[e.Key]; found == (e.Value != nil) && old == string(e.Value) {
					t.Errorf("%s is told and does not differ", e.Key)
				}
			}
			to.apply(index, changes)
		}
		if err := b.take(bytes.NewReader(img), nil); err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(from, to) || b.mark.applied != a.mark.applied || b.mark.last != a.mark.last || told == 0 {
			t.Fatalf("seed %d: it is not the image's state: %+v, %+v", seed, b.mark, a.mark)
		}
		crashed := mem.CrashClone(vfs.CrashCloneCfg{})
		b.stop(t)
		again := mirror{}
		b = openTestState(t, crashed, again)
		if !reflect.DeepEqual(from, again) {
			t.Fatalf("seed %d: after a power cut it is another", seed)
		}
		if !bytes.Equal(image(t, b), img) {
			t.Fatal("the image of what was taken over is another")
		}
		b.stop(t)
		a.stop(t)
	}
}

func flip(b []byte, at int) []byte {
	c := slices.Clone(b)
	c[at] ^= 0x10
	return c
}

func FuzzCommand(f *testing.F) {
	f.Add(appendCommand(nil, &command{replica: 1, run: 2, seq: 3, base: 4, changes: []meta.Entry{user("a"), meta.DeleteUser("b")}}))
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := decodeCommand(b, commandVersion)
		if err != nil {
			return
		}
		again, err := decodeCommand(appendCommand(nil, &c), commandVersion)
		if err != nil || !reflect.DeepEqual(again, c) {
			t.Errorf("%+v is %+v the second time: %v", c, again, err)
		}
	})
}

func FuzzStream(f *testing.F) {
	f.Add((&greeting{purpose: forJoin, from: 1, disk: "d", address: "h:1"}).append(nil))
	f.Add((&admitted{cluster: "c", copy: 1, shards: 4, nodes: []peer{{1, "h:1"}}}).append(nil))
	f.Add([]byte{3, 0, 0, 0, 1, 2, 3})
	f.Fuzz(func(t *testing.T, b []byte) {
		var g, g2 greeting
		if g.decode(b) == nil && (g2.decode(g.append(nil)) != nil || g2 != g) {
			t.Errorf("%+v %+v", g, g2)
		}
		var a, a2 admitted
		if a.decode(b) == nil && (a2.decode(a.append(nil)) != nil || !reflect.DeepEqual(a, a2)) {
			t.Errorf("%+v %+v", a, a2)
		}
		if got, err := readFrame(bytes.NewReader(b), nil, 1<<10); err == nil && len(got) > len(b) {
			t.Error("more came than was sent")
		}
		_ = answered(b)
	})
}

func FuzzImage(f *testing.F) {
	s, err := openState("state", vfs.NewMem(), quiet, mirror{}.apply)
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { _ = s.close() })
	list := []decided{{index: 1, cmd: appendCommand(nil, &command{replica: 1, changes: []meta.Entry{user("a"), user("b")}})}}
	if err := s.update(list); err != nil {
		f.Fatal(err)
	}
	var b bytes.Buffer
	v := s.view()
	if err := errors.Join(v.write(&b, nil), v.close()); err != nil {
		f.Fatal(err)
	}
	f.Add(b.Bytes())
	f.Fuzz(func(t *testing.T, b []byte) {
		if err := s.take(bytes.NewReader(b), nil); err == nil && !containsImage(b) {
			t.Error("what is no image was taken")
		}
	})
}
