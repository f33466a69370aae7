package measure

import (
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// pin keeps the threads of this process, and those that they start, on its last processor until undo is called. On a machine that
// clients share with the node, the kernel else moves them between a processor of their own and the node's, and the same load costs
// the node up to twice as much in one place as in the other. Where it cannot be done, nothing is.
func pin() (undo func()) {
	var before, one unix.CPUSet
	if unix.SchedGetaffinity(0, &before) != nil || before.Count() < 2 {
		return func() {}
	}
	for i, left := 0, before.Count(); left > 0; i++ {
		if before.IsSet(i) {
			if left--; left == 0 {
				one.Set(i)
			}
		}
	}
	setAffinity(&one)
	return func() { setAffinity(&before) }
}

func setAffinity(set *unix.CPUSet) {
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return
	}
	for _, t := range tasks {
		if id, err := strconv.Atoi(t.Name()); err == nil {
			_ = unix.SchedSetaffinity(id, set) // a thread that has ended
		}
	}
}
