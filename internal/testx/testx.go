// Package testx is what tests of all packages share: waiting for a condition, certificates made at run time, and what the build
// can promise. Product code never imports it.
package testx

import (
	"testing"
	"time"
)

// Eventually waits until cond holds, and fails the test when it does not within timeout. It asks in growing steps of 100 µs to
// 10 ms, on the test's goroutine. A reason, if given, is printed with the failure, an *error as what it is by then.
func Eventually(t testing.TB, timeout time.Duration, cond func() bool, reason ...any) {
	t.Helper()
	deadline := time.Now().Add(timeout)
	step := 100 * time.Microsecond
	for !cond() {
		left := time.Until(deadline)
		if left <= 0 {
			for i := range reason {
				if err, ok := reason[i].(*error); ok {
					reason[i] = *err
				}
			}
			t.Fatalf("not so after %v: %v", timeout, reason)
		}
		wait := time.NewTimer(min(step, left))
		<-wait.C
		step = min(2*step, 10*time.Millisecond)
	}
}

// Receive waits for one value of c, and fails the test when none comes within timeout.
func Receive[T any](t testing.TB, c <-chan T, timeout time.Duration) T {
	t.Helper()
	wait := time.NewTimer(timeout)
	defer wait.Stop()
	select {
	case v := <-c:
		return v
	case <-wait.C:
		t.Fatalf("nothing received after %v", timeout)
		panic("unreachable")
	}
}
