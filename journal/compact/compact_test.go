package compact

import (
	"testing"

	"github.com/sluicemq/sluice/journal/record"
)

func keyedBatch(at record.Offset, key, value string) record.Batch {
	var b record.BatchBuilder
	b.Begin(nil, 5)
	in := record.Input{Timestamp: 5, Key: []byte(key)}
	if value != "" {
		in.Value = []byte(value)
	}
	b.Append(&in)
	return b.Finish(&record.BatchOptions{BaseOffset: at})
}

// A deletion goes when its time is over, as an earlier pass has set it; not where none has seen all before it, which begins the time anew; never where it is kept for good.
func TestDeletions(t *testing.T) {
	first := NewPass(&Options{Now: 100, KeepDeletes: 50})
	old, gone := keyedBatch(0, "k", "v"), keyedBatch(1, "k", "")
	if !first.Note(old) || !first.Note(gone) {
		t.Fatal("they do not fit")
	}
	if first.Keep(old, false) != nil {
		t.Error("an older record stays")
	}
	met := append(record.Batch(nil), first.Keep(gone, false)...)
	if met.Attributes()&record.DeleteHorizon == 0 || met.BaseTimestamp() != 150 {
		t.Fatalf("it goes at %d", met.BaseTimestamp())
	}
	later := NewPass(&Options{Now: 1000, KeepDeletes: 50})
	if later.Keep(met, true) != nil {
		t.Error("it stays")
	}
	if again := later.Keep(met, false); again == nil || again.BaseTimestamp() != 1050 {
		t.Errorf("it does not begin anew: %v", again)
	}
	for _, b := range []record.Batch{met, gone} {
		if kept := NewPass(&Options{Now: 1000, KeepDeletes: -1}).Keep(b, true); &kept[0] != &b[0] {
			t.Error("what is kept for good is changed")
		}
	}
}
