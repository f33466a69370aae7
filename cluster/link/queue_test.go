package link

import (
	"testing"

	"github.com/sluicemq/sluice/internal/testx"
)

// What can wait wakes no writer: it goes with what is sent next, before it on its own channel.
func TestQueueWaits(t *testing.T) {
	there := &collector{}
	a := newNode(t, 1, nil, nil)
	b := newNode(t, 2, nil, collect(there, KindReplication))
	join(t, a, b)
	ch, err := a.Open(2, KindReplication, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	c := ch.c
	idle := func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		return c.mu.idle
	}
	testx.Eventually(t, wait, idle, "the writer waits")
	for _, s := range []string{"1", "2"} {
		if err := ch.Queue([]byte(s)); err != nil {
			t.Fatal(err)
		}
		if !idle() {
			t.Fatal("the writer was woken")
		}
	}
	if err := ch.Send([]byte("3")); err != nil {
		t.Fatal(err)
	}
	testx.Eventually(t, wait, func() bool { return there.len() == 3 }, "all have come")
	for i, want := range []string{"1", "2", "3"} {
		if got := string(there.got[i]); got != want {
			t.Errorf("%d: %q", i, got)
		}
	}
	ch.Close()
	if err := ch.Queue(nil); err == nil {
		t.Error("it takes messages after its end")
	}
}
