package main

import (
	"log/slog"
	"os"
	"runtime/debug"
	"strconv"
	"strings"
)

// tuneMemory sets what suits a broker's heap, few pointers and much garbage-free traffic, unless the environment says otherwise:
// GOGC 400, and a soft limit of 75 % of what the process may use.
func tuneMemory(logger *slog.Logger) {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(400)
	}
	if os.Getenv("GOMEMLIMIT") != "" {
		return
	}
	if may := memoryMax(); may > 0 {
		debug.SetMemoryLimit(may / 4 * 3)
		logger.Debug("memory limit set", "bytes", may/4*3)
	}
}

// memoryMax is the lower of the machine's memory and the control group's limit; 0 if neither can be read.
func memoryMax() int64 {
	least := int64(0)
	take := func(v int64) {
		if v > 0 && (least == 0 || v < least) {
			least = v
		}
	}
	if b, err := os.ReadFile("/proc/meminfo"); err == nil {
		for line := range strings.Lines(string(b)) {
			if rest, ok := strings.CutPrefix(line, "MemTotal:"); ok {
				kb, _ := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
				take(kb << 10)
			}
		}
	}
	for _, path := range []string{"/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"} {
		if b, err := os.ReadFile(path); err == nil {
			v, _ := strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64)
			take(v)
		}
	}
	return least
}
