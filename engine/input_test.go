package engine

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/sluicemq/sluice/alloc"
)

// A large packet that came in pieces can be held beyond OnData: its bytes stay as they are, whatever comes behind it. What cannot be held
// is a view as ever.
func TestHeld(t *testing.T) {
	everyWay(t, func(t *testing.T, w way) {
		type hold struct {
			ref  alloc.Ref
			view []byte
		}
		var holds []hold // the loop's
		s := start(t, w, frames(func(c *Conn, p []byte) {
			if ref := c.Held(); ref != nil {
				ref.Retain()
				holds = append(holds, hold{ref, p})
			}
			if len(p) == 1 { // the end: answer what is held, and whether it is what was sent
				for _, h := range holds {
					ok := bytes.Equal(h.view, pattern(len(h.view)))
					c.Write(fmt.Appendf(nil, "%d %v\n", len(h.view), ok))
					h.ref.Release()
				}
				c.Write([]byte("end"))
			}
		}))
		c := s.dial()
		var want []byte
		for _, n := range []int{40_000, 200, 500_000, 500_000, 3_000_000, 9, 33_000, 1} {
			want = append(want, frame(pattern(n))...)
		}
		r := rand.New(rand.NewPCG(3, 4))
		go func() {
			for b := want; len(b) > 0; {
				n := min(len(b), 1+r.IntN(1<<r.IntN(17)))
				if _, err := c.Write(b[:n]); err != nil {
					return
				}
				b = b[n:]
			}
		}()
		var got []byte
		for !bytes.HasSuffix(got, []byte("end")) {
			got = append(got, read(t, c, 1)...)
		}
		if bytes.Contains(got, []byte("false")) || !bytes.Contains(got, []byte("3000000 true")) {
			t.Errorf("held were %q", got)
		}
	})
}
