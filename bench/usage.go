package bench

import "time"

// usage is what has been used at one moment, and what has happened.
type usage struct {
	CPU, CPUEnd            time.Duration // of the server's processes: before all else was looked at, and after
	Own, Wait              time.Duration // of the generator: CPU time, and time that its threads waited for a processor
	RSS, Threads, Switches int64
	IO                     bool // the next two are known
	DiskRead, DiskWrite    int64
	Tally                  tally  // of the loops
	Metrics                scrape // nil: there is no address
}

// sample looks at the server, as far as it is known, and at what the loops have counted. It is called before and after each part
// that is measured; what it costs the server itself is left out of both.
func (r *run) sample() (usage, error) {
	if r.cfg.Sampled != nil {
		r.cfg.Sampled()
	}
	s, err := r.look()
	if err != nil && r.lastUsage != nil { // it was there before: it has died, and what was seen last counts
		why := err.Error()
		if r.death.CompareAndSwap(nil, &why) {
			at := r.clock()
			r.result.total.marks[faultDied].add(at, 1)
			r.note(why, at)
		}
		s, err = *r.lastUsage, nil
	}
	for _, l := range r.loops {
		l.call(func(l *loop) { s.Tally.add(&l.stats.tally) })
	}
	s.Own, s.Wait = ownCPU(), ownWait()
	kept := s
	kept.Tally = tally{}
	r.lastUsage = &kept
	return s, err
}

func (r *run) look() (usage, error) {
	s, err := sampleProcess(r.cfg.PIDs)
	if err != nil {
		return s, err
	}
	if r.cfg.Metrics != "" {
		if s.Metrics, err = scrapeMetrics(r.ctx, r.cfg.Metrics); err != nil {
			return s, err
		}
	}
	s.CPUEnd, err = sampleCPU(r.cfg.PIDs)
	return s, err
}

// Server is what the server used in the measured part: from /proc with its process ids, and Metrics from its own account of itself.
type Server struct {
	CPUSeconds           float64 `json:"cpu_seconds"`
	CPUPerMessage        float64 `json:"cpu_us_per_message,omitempty"`
	CPUPerDelivery       float64 `json:"cpu_us_per_delivery,omitempty"`
	CPUPerConnection     float64 `json:"cpu_us_per_connection,omitempty"`
	CPUPerMB             float64 `json:"cpu_us_per_mb,omitempty"` // of 10^6 bytes on the wire, in and out
	RSSBefore            int64   `json:"rss_before"`
	RSSAfter             int64   `json:"rss_after"`
	BytesPerConnection   float64 `json:"bytes_per_connection,omitempty"`
	Threads              int64   `json:"threads"`
	SwitchesPerThousand  float64 `json:"context_switches_per_1000_messages,omitempty"`
	ContextSwitches      int64   `json:"context_switches"`
	BusyCores            float64 `json:"busy_cores"`
	MessagesPerCPUSecond float64 `json:"messages_per_cpu_second,omitempty"`

	DiskReadBytes  int64   `json:"disk_read_bytes,omitempty"` // by /proc/PID/io, if the process is the caller's
	DiskWriteBytes int64   `json:"disk_write_bytes,omitempty"`
	DiskPerMessage float64 `json:"disk_bytes_per_message,omitempty"` // the journal's, where the metrics tell, else DiskWriteBytes

	FlushesPerMessage float64        `json:"flushes_per_message,omitempty"`
	Metrics           *ServerMetrics `json:"metrics,omitempty"`
}

// cpu is what the server used from one moment to the other, without what looking at it took.
func cpuBetween(before, after *usage) time.Duration { return max(after.CPU-before.CPUEnd, 0) }

func (s *Result) setUsage(before, after usage, d time.Duration) {
	s.Seconds = d.Seconds()
	s.window = [2]usage{before, after}
	s.Generator.BusyCores = (after.Own - before.Own).Seconds() / max(d.Seconds(), 1e-9)
	s.Generator.WaitSeconds = max((after.Wait - before.Wait).Seconds(), 0)
	if before.Threads == 0 && before.Metrics == nil {
		return
	}
	if s.Server == nil {
		s.Server = &Server{RSSBefore: before.RSS}
	}
	v := s.Server
	v.CPUSeconds = cpuBetween(&before, &after).Seconds()
	v.RSSAfter, v.Threads = after.RSS, after.Threads
	v.ContextSwitches = after.Switches - before.Switches
	v.BusyCores = v.CPUSeconds / max(d.Seconds(), 1e-9)
	if before.IO && after.IO {
		v.DiskReadBytes, v.DiskWriteBytes = after.DiskRead-before.DiskRead, after.DiskWrite-before.DiskWrite
	}
	v.Metrics = after.Metrics.since(before.Metrics)
}

// fillServer works out what things cost.
func (s *Result) fillServer() {
	v, e := s.Server, s.Events
	if v == nil || e == nil {
		return
	}
	us := v.CPUSeconds * 1e6
	disk := v.journalBytes()
	if disk == 0 {
		disk = float64(v.DiskWriteBytes)
	}
	if n := float64(e.Messages); n > 0 {
		v.CPUPerMessage = us / n
		v.SwitchesPerThousand = float64(v.ContextSwitches) * 1000 / n
		v.MessagesPerCPUSecond = n / max(v.CPUSeconds, 1e-9)
		v.DiskPerMessage = disk / n
		if v.Metrics != nil {
			v.FlushesPerMessage = v.Metrics.Flushes / n
		}
	}
	if e.Deliveries > 0 {
		v.CPUPerDelivery = us / float64(e.Deliveries)
	}
	if mb := float64(e.WireIn+e.WireOut) / 1e6; mb > 0 {
		v.CPUPerMB = us / mb
	}
}

// step adds a finished step.
func (s *Result) step(name string, count uint64, before, after usage, d time.Duration) {
	x := Step{Name: name, Count: count, Seconds: d.Seconds(), Events: s.events(&before.Tally, &after.Tally)}
	cpu := cpuBetween(&before, &after)
	x.CPUSeconds = cpu.Seconds()
	x.Metrics = after.Metrics.since(before.Metrics)
	if n := float64(count); n > 0 {
		x.PerSecond = n / max(d.Seconds(), 1e-9)
		if before.Threads > 0 {
			x.CPUEach = float64(cpu.Microseconds()) / n
			x.BytesEach = float64(after.RSS-before.RSS) / n
		}
	}
	s.Steps = append(s.Steps, x)
}

func (v *Server) journalBytes() float64 {
	if v.Metrics == nil {
		return 0
	}
	return v.Metrics.JournalBytes
}
