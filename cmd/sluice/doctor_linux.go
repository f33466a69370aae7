package main

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sluicemq/sluice/config"
)

// machine looks at limits, memory and clock.
func (d *doctor) machine() {
	d.descriptors()
	if b, err := os.ReadFile("/proc/sys/net/core/somaxconn"); err == nil {
		n, _ := strconv.Atoi(strings.TrimSpace(string(b)))
		status, do := "ok", ""
		if n < 1024 {
			status, do = "warn", "sysctl net.core.somaxconn=4096: a storm of connections waits there"
		}
		d.say("accept queue", status, do, "%d", n)
	}
	d.memory()
	d.clock()
}

func (d *doctor) descriptors() {
	var lim unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &lim); err != nil {
		d.say("descriptors", "warn", "", "%v", err)
		return
	}
	// The Go runtime raises the soft limit to the hard one. Beside its connections a node has files, below a thousand.
	const files = 1024
	raise := func(n int) string {
		return fmt.Sprintf("raise LimitNOFILE of the unit, or ulimit -n, to %d or more", n)
	}
	switch want := d.cfg.Limits.Connections; {
	case want > 0 && lim.Max < uint64(want)+files:
		d.say("descriptors", "fail", raise(want+files), "%d, too few for limits.connections %d", lim.Max, want)
	case want == 0 && lim.Max < 16384:
		d.say("descriptors", "warn", raise(16384), "%d, of which each connection takes one", lim.Max)
	default:
		d.say("descriptors", "ok", "", "%d, of which each connection takes one", lim.Max)
	}
}

// memory compares what there is with what the configuration takes whatever comes.
func (d *doctor) memory() {
	may := memoryMax()
	if may == 0 {
		d.say("memory", "warn", "set limits.memory", "neither /proc/meminfo nor a control group tells how much there is")
		return
	}
	found := fmt.Sprintf("%v may be used (the least of machine and control group), the soft limit is 75 %% of it", config.Size(may>>20)*config.MiB)
	if v := os.Getenv("GOMEMLIMIT"); v != "" {
		found = fmt.Sprintf("%v may be used, GOMEMLIMIT=%s", config.Size(may>>20)*config.MiB, v)
	}
	switch limit := int64(d.cfg.Limits.Memory); {
	case limit > may:
		d.say("memory", "fail", "lower limits.memory: the kernel ends a process that goes above", "%s; limits.memory is %v", found, d.cfg.Limits.Memory)
	case may < 512<<20 || int64(d.cfg.Journal.TailSize) > may/4:
		d.say("memory", "warn", "lower journal.tail_size and limits.queue_bytes", "%s; journal.tail_size is %v", found, d.cfg.Journal.TailSize)
	default:
		d.say("memory", "ok", "", "%s", found)
	}
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

// fileSystem warns of those that a journal should not lie on.
func (d *doctor) fileSystem(dir string) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		d.say("file system", "warn", "", "%v", err)
	} else if why, bad := fileSystems[int64(st.Type)]; bad {
		d.say("file system", "warn", "put node.data on a local disk", "%s", why)
	}
}
