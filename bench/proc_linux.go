package bench

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// ticksPerSecond is what /proc counts CPU time in, on every Linux that Go runs on.
const ticksPerSecond = 100

// sampleProcess reads what /proc says of the given processes, added up.
func sampleProcess(pids []int) (s usage, err error) {
	for _, pid := range pids {
		if err := s.add(pid); err != nil {
			return s, fmt.Errorf("look at server process %d: %w", pid, err)
		}
	}
	return s, nil
}

// sampleCPU reads their CPU time alone.
func sampleCPU(pids []int) (cpu time.Duration, err error) {
	for _, pid := range pids {
		one, _, err := readStat("/proc/" + strconv.Itoa(pid) + "/stat")
		if err != nil {
			return 0, fmt.Errorf("look at server process %d: %w", pid, err)
		}
		cpu += one
	}
	return cpu, nil
}

// sampleCheap reads what costs neither the server nor the generator anything to speak of: CPU time, threads, and resident bytes that lag
// by some pages of each thread.
func sampleCheap(pids []int) (s usage, err error) {
	for _, pid := range pids {
		dir := "/proc/" + strconv.Itoa(pid)
		cpu, threads, err := readStat(dir + "/stat")
		if err != nil {
			return s, fmt.Errorf("look at server process %d: %w", pid, err)
		}
		rss, err := readStatm(dir)
		if err != nil {
			return s, fmt.Errorf("look at server process %d: %w", pid, err)
		}
		s.CPU, s.Threads, s.RSS = s.CPU+cpu, s.Threads+threads, s.RSS+rss
	}
	return s, nil
}

func (s *usage) add(pid int) error {
	dir := "/proc/" + strconv.Itoa(pid)
	cpu, threads, err := readStat(dir + "/stat")
	if err != nil {
		return err
	}
	s.CPU += cpu
	s.Threads += threads
	rss, err := readRSS(dir)
	if err != nil {
		return err
	}
	s.RSS += rss
	if b, err := os.ReadFile(dir + "/io"); err == nil { // of one's own user's processes only
		s.IO = true
		s.DiskRead += field(b, "read_bytes:")
		s.DiskWrite += field(b, "write_bytes:") - field(b, "cancelled_write_bytes:")
	}
	tasks, err := filepath.Glob(dir + "/task/*/status")
	if err != nil {
		return err
	}
	for _, task := range tasks {
		b, err := os.ReadFile(task)
		if err != nil {
			continue // the thread has ended
		}
		s.Switches += field(b, "voluntary_ctxt_switches:") + field(b, "nonvoluntary_ctxt_switches:")
	}
	return nil
}

// readStat gives user and system time, and the number of threads.
func readStat(path string) (cpu time.Duration, threads int64, err error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return 0, 0, err
	}
	fields := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:])) // from field 3 on
	if len(fields) < 18 {
		return 0, 0, fmt.Errorf("%s: %d fields", path, len(fields))
	}
	user, err1 := strconv.ParseInt(fields[11], 10, 64)
	system, err2 := strconv.ParseInt(fields[12], 10, 64)
	threads, err3 := strconv.ParseInt(fields[17], 10, 64)
	for _, err := range []error{err1, err2, err3} {
		if err != nil {
			return 0, 0, fmt.Errorf("%s: %w", path, err)
		}
	}
	return time.Duration(user+system) * time.Second / ticksPerSecond, threads, nil
}

// readRSS gives the resident bytes, exactly where the kernel gives them so (statm lags by some pages of each thread).
func readRSS(dir string) (int64, error) {
	if b, err := os.ReadFile(dir + "/smaps_rollup"); err == nil {
		return field(b, "Rss:") << 10, nil
	}
	return readStatm(dir)
}

func readStatm(dir string) (int64, error) {
	b, err := os.ReadFile(dir + "/statm")
	if err != nil {
		return 0, err
	}
	var size, pages int64
	if _, err := fmt.Sscan(string(b), &size, &pages); err != nil {
		return 0, fmt.Errorf("%s/statm: %w", dir, err)
	}
	return pages * int64(os.Getpagesize()), nil
}

// field gives the number behind a line's name, 0 if there is none.
func field(b []byte, name string) int64 {
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(line, name); ok {
			if f := strings.Fields(rest); len(f) > 0 {
				n, _ := strconv.ParseInt(f[0], 10, 64)
				return n
			}
		}
	}
	return 0
}

// ownWait is how long the threads of this process were ready to run and had no processor; of those that still live.
func ownWait() (wait time.Duration) {
	tasks, err := filepath.Glob("/proc/self/task/*/schedstat")
	if err != nil {
		return 0
	}
	for _, task := range tasks {
		b, err := os.ReadFile(task)
		if f := strings.Fields(string(b)); err == nil && len(f) == 3 {
			n, _ := strconv.ParseInt(f[1], 10, 64)
			wait += time.Duration(n)
		}
	}
	return wait
}

// ownCPU is the CPU time of this process.
func ownCPU() time.Duration {
	var ru unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &ru); err != nil {
		return 0
	}
	return time.Duration(ru.Utime.Nano() + ru.Stime.Nano())
}

// describeMachine tells what the run ran on.
func describeMachine(h *Hardware) {
	if b, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		for line := range strings.Lines(string(b)) {
			if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
				h.CPU = strings.TrimSpace(value)
				break
			}
		}
	}
	if b, err := os.ReadFile("/proc/meminfo"); err == nil {
		h.MemoryBytes = field(b, "MemTotal:") << 10
	}
	var u unix.Utsname
	if unix.Uname(&u) == nil {
		h.Kernel = unix.ByteSliceToString(u.Sysname[:]) + " " + unix.ByteSliceToString(u.Release[:])
	}
	if b, err := os.ReadFile("/proc/loadavg"); err == nil {
		_, _ = fmt.Sscan(string(b), &h.LoadAverage)
	}
}
