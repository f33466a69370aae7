package offload

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sluicemq/sluice/journal/record"
)

// put writes one record with a key; an empty value deletes it.
func (k *keyed) put(key, value string) {
	now := k.w.clk.Now().UnixMilli()
	in := record.Input{Timestamp: now, Key: []byte(key)}
	if value != "" {
		in.Value = []byte(value)
	}
	var b record.BatchBuilder
	b.Begin(nil, now)
	b.Append(&in)
	k.wrote[k.next] = keyedRecord{key: key, value: value, deletes: value == ""}
	k.append(b.Finish(&record.BatchOptions{BaseOffset: k.next}))
	k.sealed = k.next
}

// settled lets time pass until passes and removals have nothing to do.
func (k *keyed) settled() {
	k.t.Helper()
	for range 8 {
		k.turns(100)
		k.rebuilt()
		k.w.clk.Advance(k.f.o.OrphanGrace / 3)
	}
}

// TestNothingOlderComesBack: an object whose records were compacted away, or replaced, may outlive what has replaced it: a backup holds it, another
// node has written it, or it has records of another partition. From the store alone nothing of it comes back then that was no key's newest value.
func TestNothingOlderComesBack(t *testing.T) {
	outlives := map[string]func(k *keyed){
		"held by a backup":       func(k *keyed) { k.hold("backup", true) },
		"another node's":         func(k *keyed) { k.o.StoreName = "another"; k.restart() },
		"of two partitions":      func(*keyed) {},
		"goes when nobody needs": func(*keyed) {},
	}
	for name, outlive := range outlives {
		for _, then := range []string{"all is deleted", "all but the last is deleted", "the first is deleted", "the deletion is forgotten", "it goes on"} {
			t.Run(name+", "+then, func(t *testing.T) {
				o := passOptions()
				o.MinObjectBytes = 1
				k := newKeyed(t, 7, o)
				defer func() { k.f.Close() }()
				k.p.DirtyShare = 0
				if name == "of two partitions" {
					k.twin = 10
				}
				for i := range 10 {
					k.put(fmt.Sprint("old ", i), "once")
				}
				k.turns(100)
				was := k.w.s.objectNames()
				outlive(k)
				for i := range 10 {
					k.put(fmt.Sprint("stays ", i), strings.Repeat("v", 780)) // more than an object has: no pass changes it
				}
				k.turns(100)
				if then == "the deletion is forgotten" {
					k.deleteBelow(10)
				}
				for i := range 5 {
					k.put(fmt.Sprint("old ", i), "") // this is what a later pass throws away
				}
				k.turns(100)
				k.rebuilt()
				for i := range 20 {
					k.put(fmt.Sprint("new ", i%10), "v")
					k.w.clk.Advance(30 * time.Second)
					k.turns(100)
				}
				k.settled()
				switch then {
				case "all is deleted":
					k.deleteBelow(k.next)
				case "the first is deleted":
					k.deleteBelow(15)
				case "all but the last is deleted":
					k.deleteBelow(k.next - 1)
				}
				k.settled()
				for i := range 5 {
					k.put(fmt.Sprint("new ", i), "")
				}
				k.settled()
				k.check()
				if name != "goes when nobody needs" {
					if !slices.Contains(k.w.s.objectNames(), was[0]) {
						t.Errorf("%s is gone: nothing was tried", was[0])
					}
				} else if there, rows := len(k.w.s.objectNames()), k.m.Stats().Objects; there != rows {
					t.Errorf("%d objects are there, and rows tell of %d", there, rows)
				}
				if name == "held by a backup" {
					k.hold("backup", false)
					k.settled()
					if there, rows := len(k.w.s.objectNames()), k.m.Stats().Objects; there != rows {
						t.Errorf("after the backup has gone %d objects are there, and rows tell of %d", there, rows)
					}
				}
			})
		}
	}
}

// TestNothingOlderThanAGap: what was deleted before it was offloaded says nothing to who has the store alone; what lies before that does not come back.
func TestNothingOlderThanAGap(t *testing.T) {
	o := passOptions()
	o.MinObjectBytes = 1
	k := newKeyed(t, 8, o)
	defer func() { k.f.Close() }()
	k.p.DirtyShare = 2 // there is no pass
	k.put("key", "old")
	k.turns(100)
	k.hold("backup", true)
	k.put("key", "")
	k.deleteBelow(k.next)
	k.put("other", "v")
	k.turns(100)
	k.reached = k.next
	k.rebuilt()
	if d, ok := k.m.Dirt(keyedPart); !ok || d.First != 2 || len(k.w.s.objectNames()) < 2 {
		t.Errorf("%+v, %v: nothing was tried", d, k.w.s.objectNames())
	}
}
