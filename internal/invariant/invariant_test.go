package invariant

import "testing"

func TestCheck(t *testing.T) {
	Check(true, "holds")
	defer func() {
		if got := recover() != nil; got != Enabled {
			t.Errorf("panicked: %v, enabled: %v", got, Enabled)
		}
	}()
	Check(false, "does not hold")
}

func TestCheckCostsNothing(t *testing.T) {
	if Enabled {
		t.Skip("checks are on")
	}
	x := 0
	if n := testing.AllocsPerRun(100, func() { x++; Check(x > 0, "counts up") }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
