// Package clock is time as a parameter: the system's, or one that a test moves by hand. It owns timers made through it and never
// starts a goroutine of its own. journal, meta, broker and server take a Clock; nothing else in them asks what time it is.
package clock

import (
	"os"
	"time"
)

// Clock tells the time and calls back later. All methods are safe for concurrent use.
type Clock interface {
	// Now is wall time. It may jump both ways; deadlines that are stored are wall time.
	Now() time.Time
	// Mono is the time since an arbitrary start. It never goes back.
	Mono() time.Duration
	// AfterFunc calls f once after d of Mono time. f must not block: Real runs it in a goroutine of its own, Manual on the
	// goroutine that moves the clock.
	AfterFunc(d time.Duration, f func()) Timer
}

// Timer is a pending call of AfterFunc.
type Timer interface {
	// Stop prevents the call and tells whether it did; false means that it has begun, or was stopped before.
	Stop() bool
	// Reset moves the call to d from now and tells whether it was still pending.
	Reset(d time.Duration) bool
}

// Real is the system's clock. Its zero value is ready, and all values are equal.
type Real struct{}

var processStart = time.Now()

// skewVariable names the variable of the environment that says by how much Now is wrong. Nothing but the linker sets it, for the binary of tests that run
// processes on clocks that differ (test/common); in any other build it is empty, and Now is never wrong.
var skewVariable string

var skew = skewOf(skewVariable)

func skewOf(variable string) time.Duration {
	if variable == "" {
		return 0
	}
	d, _ := time.ParseDuration(os.Getenv(variable))
	return d
}

// Now is the system's wall time.
func (Real) Now() time.Time { return time.Now().Add(skew) }

// Mono is the time since the process started.
func (Real) Mono() time.Duration { return time.Since(processStart) }

// AfterFunc is time.AfterFunc.
func (Real) AfterFunc(d time.Duration, f func()) Timer { return time.AfterFunc(d, f) }
