package main

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sluicemq/sluice/config"
)

// machine looks at limits, memory and clock.
func (d *doctor) machine() {
	var lim unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &lim); err != nil {
		d.say("descriptors", "warn", "", "%v", err)
	} else {
		// The Go runtime raises the soft limit to the hard one.
		want := uint64(max(d.cfg.Limits.Connections+1024, 16384))
		status, do := "ok", ""
		if lim.Max < want {
			status, do = "warn", fmt.Sprintf("raise LimitNOFILE or ulimit -n to %d or more: each connection takes one", want)
		}
		d.say("descriptors", status, do, "%d", lim.Max)
	}
	if b, err := os.ReadFile("/proc/sys/net/core/somaxconn"); err == nil {
		n, _ := strconv.Atoi(strings.TrimSpace(string(b)))
		status, do := "ok", ""
		if n < 1024 {
			status, do = "warn", "sysctl net.core.somaxconn=4096: a storm of connections waits there"
		}
		d.say("accept queue", status, do, "%d", n)
	}
	if may := memoryMax(); may > 0 {
		status, do := "ok", ""
		if may < 512<<20 {
			status, do = "warn", "lower journal.tail_size and limits.queue_bytes"
		}
		d.say("memory", status, do, "%v may be used, the soft limit is 75 %% of it", config.Size(may>>20)*config.MiB)
	}
	d.clock()
}

func (d *doctor) clock() {
	now := time.Now()
	if now.Year() < 2025 {
		d.say("clock", "fail", "set it: expiry and certificates go by it", "says %s", now.Format(time.RFC3339))
		return
	}
	var tx unix.Timex
	state, err := unix.Adjtimex(&tx)
	switch {
	case err != nil:
		d.say("clock", "ok", "", "%s; whether it is kept in step cannot be seen here", now.UTC().Format(time.RFC3339))
	case state == unix.TIME_ERROR || tx.Status&unix.STA_UNSYNC != 0:
		d.say("clock", "warn", "run a time service such as chrony", "%s, not kept in step with others", now.UTC().Format(time.RFC3339))
	default:
		d.say("clock", "ok", "", "%s, in step", now.UTC().Format(time.RFC3339))
	}
}

// Kinds of file systems that a journal should not lie on.
var fileSystems = map[int64]string{unix.TMPFS_MAGIC: "tmpfs: gone at the next boot", unix.RAMFS_MAGIC: "ramfs: gone at the next boot",
	unix.NFS_SUPER_MAGIC: "NFS: flushes cost a round trip and locks depend on the server"}

func (d *doctor) disk(dir string, f *os.File) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		d.say("free space", "warn", "", "%v", err)
	} else {
		free := config.Size(st.Bavail * uint64(st.Bsize))
		status, do := "ok", ""
		if free < 4*d.cfg.Journal.SegmentSize {
			status, do = "warn", "a journal wants room for four segments at the least"
		}
		d.say("free space", status, do, "%v", free/config.MiB*config.MiB)
		if why, bad := fileSystems[int64(st.Type)]; bad {
			d.say("file system", "warn", "put node.data on a local disk", "%s", why)
		}
	}
	d.flushes(f)
	d.direct(f.Name())
}

// flushes times small writes that are flushed one by one, as the journal's are when one client waits at a time.
func (d *doctor) flushes(f *os.File) {
	block := make([]byte, 4096)
	var took []time.Duration
	for began := time.Now(); len(took) < 200 && time.Since(began) < 2*time.Second; {
		t := time.Now()
		if _, err := f.WriteAt(block, int64(len(took)%16)*4096); err != nil {
			d.say("flush", "fail", "", "%v", err)
			return
		}
		if err := unix.Fdatasync(int(f.Fd())); err != nil {
			d.say("flush", "fail", "", "%v", err)
			return
		}
		took = append(took, time.Since(t))
	}
	slices.Sort(took)
	p50, p99 := took[len(took)/2], took[len(took)*99/100]
	status, do := "ok", ""
	if p50 > 10*time.Millisecond {
		status, do = "warn", "an acknowledgement waits that long with journal.durability sync: a faster disk, or async"
	}
	d.say("flush", status, do, "write and fdatasync of 4 KiB: p50 %v, p99 %v", p50.Round(time.Microsecond), p99.Round(time.Microsecond))
}

// direct tries the way in which sync mode writes.
func (d *doctor) direct(path string) {
	fd, err := unix.Open(path, unix.O_WRONLY|unix.O_DIRECT|unix.O_DSYNC|unix.O_CLOEXEC, 0)
	if err == nil {
		defer unix.Close(fd) //nolint:errcheck // nothing is kept in it
		var buf []byte
		if buf, err = unix.Mmap(-1, 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE); err == nil {
			defer unix.Munmap(buf) //nolint:errcheck // the process ends soon
			_, err = unix.Pwrite(fd, buf, 0)
		}
	}
	if err != nil {
		d.say("direct I/O", "warn", "the journal writes and flushes in two steps then, which costs CPU", "not on this file system: %v", err)
		return
	}
	d.say("direct I/O", "ok", "", "O_DIRECT|O_DSYNC is taken")
}
