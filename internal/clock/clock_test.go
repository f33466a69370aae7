package clock

import (
	"testing"
	"time"
)

func TestManualOrder(t *testing.T) {
	start := time.Unix(1000, 0)
	m := NewManual(start)
	var got []string
	note := func(s string) func() { return func() { got = append(got, s+"@"+m.Mono().String()) } }
	m.AfterFunc(3*time.Second, note("c"))
	m.AfterFunc(time.Second, func() {
		note("a")()
		m.AfterFunc(time.Second, note("nested"))
	})
	m.AfterFunc(time.Second, note("b"))
	stopped := m.AfterFunc(time.Second, note("stopped"))
	moved := m.AfterFunc(time.Second, note("moved"))
	if !stopped.Stop() || stopped.Stop() {
		t.Error("Stop does not tell the truth")
	}
	if !moved.Reset(10 * time.Second) {
		t.Error("Reset of a pending timer tells that it was not")
	}
	if m.Pending() != 4 {
		t.Errorf("%d timers pending", m.Pending())
	}
	m.Advance(5 * time.Second)
	want := []string{"a@1s", "b@1s", "nested@2s", "c@3s"}
	if len(got) != len(want) {
		t.Fatalf("ran %v, want %v", got, want)
	}
	for i := range want {
		if got[i] != want[i] {
			t.Fatalf("ran %v, want %v", got, want)
		}
	}
	if !m.Now().Equal(start.Add(5*time.Second)) || m.Mono() != 5*time.Second {
		t.Errorf("now %v, mono %v", m.Now(), m.Mono())
	}
	if moved.Reset(time.Second); m.Pending() != 1 {
		t.Errorf("%d timers pending", m.Pending())
	}
}

func TestManualWallJumps(t *testing.T) {
	m := NewManual(time.Unix(1000, 0))
	ran := false
	m.AfterFunc(time.Minute, func() { ran = true })
	m.SetWall(time.Unix(5, 0))
	m.SetWall(time.Unix(1e9, 0))
	if ran || m.Mono() != 0 {
		t.Error("a jump of wall time moved timers")
	}
	m.Advance(time.Minute)
	if !ran || !m.Now().Equal(time.Unix(1e9+60, 0)) {
		t.Errorf("ran %v at %v", ran, m.Now())
	}
}

func TestReal(t *testing.T) {
	var c Clock = Real{}
	before := c.Mono()
	done := make(chan struct{})
	c.AfterFunc(time.Millisecond, func() { close(done) })
	<-done
	if c.Mono()-before < time.Millisecond || time.Since(c.Now()) > time.Minute {
		t.Error("the system's clock stands")
	}
}
