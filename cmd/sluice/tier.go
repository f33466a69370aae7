package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"
	"google.golang.org/grpc"

	"github.com/sluicemq/sluice/control/api"
)

func init() { register(newTierCommand) }

func newTierCommand() *cobra.Command {
	f := &controlFlags{}
	return f.group("tier", "See and work on the store that keeps the log's history: a directory, S3 or HDFS",
		tierStatus(f), tierVerify(f), tierRebuild(f), tierPrefetch(f), tierOffload(f), tierAdopt(f))
}

// tierRow is a store in every output.
type tierRow struct {
	Store             string `json:"store" yaml:"store"`
	Objects           int64  `json:"objects" yaml:"objects"`
	Partitions        int64  `json:"partitions" yaml:"partitions"`
	Bytes             int64  `json:"bytes" yaml:"bytes"`
	StoredBytes       int64  `json:"stored_bytes" yaml:"stored_bytes"`
	DeadObjects       int64  `json:"dead_objects" yaml:"dead_objects"`
	DeadBytes         int64  `json:"dead_bytes" yaml:"dead_bytes"`
	Epoch             int64  `json:"epoch" yaml:"epoch"`
	Phase             string `json:"phase" yaml:"phase"`
	Object            string `json:"object" yaml:"object"`
	ObjectSize        int64  `json:"object_size" yaml:"object_size"`
	ObjectSent        int64  `json:"object_sent" yaml:"object_sent"`
	WaitingBytes      int64  `json:"waiting_bytes" yaml:"waiting_bytes"`
	WaitingPartitions int64  `json:"waiting_partitions" yaml:"waiting_partitions"`
	WaitingSince      string `json:"waiting_since" yaml:"waiting_since"`
	LastUpload        string `json:"last_upload" yaml:"last_upload"`
	Error             string `json:"error" yaml:"error"`
	FailingSince      string `json:"failing_since" yaml:"failing_since"`
	NextTry           string `json:"next_try" yaml:"next_try"`
	Scanned           string `json:"scanned" yaml:"scanned"`
	Orphans           int64  `json:"orphans" yaml:"orphans"`
	Missing           int64  `json:"missing" yaml:"missing"`
	BadPartitions     int64  `json:"bad_partitions" yaml:"bad_partitions"`
}

func tierRowOf(s *api.TierStatus) tierRow {
	store := s.Store
	if !s.Configured {
		store = "off"
	}
	return tierRow{Store: store, Objects: s.Objects, Partitions: s.Partitions, Bytes: s.Bytes, StoredBytes: s.StoredBytes, DeadObjects: s.DeadObjects,
		DeadBytes: s.DeadBytes, Epoch: s.Epoch, Phase: s.Phase, Object: s.Object, ObjectSize: s.ObjectSize, ObjectSent: s.ObjectSent,
		WaitingBytes: s.WaitingBytes, WaitingPartitions: s.WaitingPartitions, WaitingSince: stamp(s.WaitingSinceMs), LastUpload: stamp(s.LastUploadMs),
		Error: s.Error, FailingSince: stamp(s.FailingSinceMs), NextTry: stamp(s.NextTryMs), Scanned: stamp(s.ScannedMs), Orphans: s.Orphans, Missing: s.Missing, BadPartitions: s.BadPartitions}
}

// cells are the rows of the table.
func (r *tierRow) cells() [][]string {
	if r.Store == "off" {
		return [][]string{{"store", "off: no history leaves this node's log (tier.store)"}}
	}
	rows := [][]string{
		{"store", plain(r.Store)},
		{"objects", fmt.Sprintf("%d, %s", r.Objects, sizeText(r.StoredBytes))},
		{"records", fmt.Sprintf("%s of %d partitions", sizeText(r.Bytes), r.Partitions)},
		{"dead", fmt.Sprintf("%d objects, %s", r.DeadObjects, sizeText(r.DeadBytes))},
		{"now", r.now()},
		{"waiting", r.waiting()},
		{"last upload", orDash(r.LastUpload)},
	}
	if r.Error != "" {
		rows = append(rows, []string{"error", plain(r.Error)}, []string{"failing since", orDash(r.FailingSince)},
			[]string{"tries again", orDash(r.NextTry)})
	}
	if r.BadPartitions > 0 {
		rows = append(rows, []string{"unreadable", number(r.BadPartitions) + " partitions cannot be read from the log; the node's log names them"})
	}
	if r.Scanned != "" {
		rows = append(rows, []string{"searched", fmt.Sprintf("%s: %d orphans removed, %d objects missing", r.Scanned, r.Orphans, r.Missing)})
	}
	return rows
}

func (r *tierRow) now() string {
	if r.Object == "" {
		return r.Phase
	}
	return fmt.Sprintf("%s %s, %s of %s", r.Phase, r.Object, sizeText(r.ObjectSent), sizeText(r.ObjectSize))
}

func (r *tierRow) waiting() string {
	if r.WaitingPartitions == 0 {
		return "nothing"
	}
	return fmt.Sprintf("%s of %d partitions, since %s", sizeText(r.WaitingBytes), r.WaitingPartitions, r.WaitingSince)
}

// tierTopicView is what status prints of a topic.
type tierTopicView struct {
	Topic               string             `json:"topic" yaml:"topic"`
	Policy              string             `json:"policy" yaml:"policy"`
	LocalRetentionMs    int64              `json:"local_retention_ms" yaml:"local_retention_ms"`
	LocalRetentionBytes int64              `json:"local_retention_bytes" yaml:"local_retention_bytes"`
	Partitions          []tierPartitionRow `json:"partitions" yaml:"partitions"`
}

type tierPartitionRow struct {
	Partition     int32 `json:"partition" yaml:"partition"`
	LogStart      int64 `json:"log_start" yaml:"log_start"`
	LocalStart    int64 `json:"local_start" yaml:"local_start"`
	TieredEnd     int64 `json:"tiered_end" yaml:"tiered_end"`
	HighWatermark int64 `json:"high_watermark" yaml:"high_watermark"`
	TieredBytes   int64 `json:"tiered_bytes" yaml:"tiered_bytes"`
	LocalBytes    int64 `json:"local_bytes" yaml:"local_bytes"`
}

func tierStatus(f *controlFlags) *cobra.Command {
	c := &cobra.Command{
		Use: "status [TOPIC]", Short: "Show the store, what is in it and what is on its way there; with a topic, where its records lie", Args: atMost(1),
		Example: "  sluice tier status\n  sluice tier status orders -o json",
		RunE: func(cmd *cobra.Command, args []string) error {
			return f.call(cmd, func(k *controlCall) error {
				if len(args) > 0 {
					return f.tierTopic(cmd, k, args[0])
				}
				s, err := ask(k, api.NewTiersClient(k).Describe, &api.DescribeTierRequest{})
				if err != nil {
					return err
				}
				row := tierRowOf(s)
				return f.output.write(cmd.OutOrStdout(), &row, row.cells())
			})
		},
	}
	c.ValidArgsFunction = f.complete(1, completeTopics)
	f.output.add(c)
	return c
}

func (f *controlFlags) tierTopic(cmd *cobra.Command, k *controlCall, name string) error {
	t, err := ask(k, api.NewTiersClient(k).DescribeTopic, &api.DescribeTierTopicRequest{Name: name})
	if err != nil {
		return err
	}
	v := tierTopicView{Topic: t.Name, Policy: t.Policy, LocalRetentionMs: t.LocalRetentionMs, LocalRetentionBytes: t.LocalRetentionBytes, Partitions: []tierPartitionRow{}}
	rows := [][]string{{"PARTITION", "LOG START", "LOCAL START", "TIERED END", "HIGH WATERMARK", "IN STORE", "LOCAL"}}
	for _, p := range t.Partitions {
		v.Partitions = append(v.Partitions, tierPartitionRow{p.Partition, p.LogStart, p.LocalStart, p.TieredEnd, p.HighWatermark, p.TieredBytes, p.LocalBytes})
		rows = append(rows, []string{number(p.Partition), number(p.LogStart), number(p.LocalStart), number(p.TieredEnd), number(p.HighWatermark),
			sizeText(p.TieredBytes), sizeText(p.LocalBytes)})
	}
	return f.output.write(cmd.OutOrStdout(), &v, rows)
}

// tierResult is the end of something long, in every output.
type tierResult struct {
	Objects    int64    `json:"objects" yaml:"objects"`
	Bytes      int64    `json:"bytes" yaml:"bytes"`
	Topics     int64    `json:"topics" yaml:"topics"`
	Partitions int64    `json:"partitions" yaml:"partitions"`
	Records    int64    `json:"records" yaml:"records"`
	Wrong      int64    `json:"wrong" yaml:"wrong"`
	Seconds    float64  `json:"seconds" yaml:"seconds"`
	Notes      []string `json:"notes" yaml:"notes"`
}

// notesMax bounds what is kept of notes for json and yaml.
const notesMax = 100_000

// long follows something long: how far it is goes to standard error, the result to standard output.
func (f *controlFlags) long(cmd *cobra.Command, start func(ctx context.Context, k *controlCall) (grpc.ServerStreamingClient[api.TierProgress], error), rows func(*tierResult) [][]string) error {
	return f.call(cmd, func(k *controlCall) error {
		s, err := start(cmd.Context(), k)
		if err != nil {
			return err
		}
		m := newMeter(cmd.ErrOrStderr())
		r := tierResult{Notes: []string{}}
		for {
			p, err := s.Recv()
			if errors.Is(err, io.EOF) {
				err = errors.New("the node has ended the call without a result")
			}
			if err != nil {
				m.end()
				return err
			}
			for _, n := range p.Notes {
				if f.output == "table" || f.output == "" {
					m.note(plain(n))
				}
				if len(r.Notes) < notesMax {
					r.Notes = append(r.Notes, n)
				}
			}
			if p.Result != nil {
				m.end()
				x := p.Result
				r.Objects, r.Bytes, r.Topics, r.Partitions, r.Records, r.Wrong, r.Seconds = x.Objects, x.Bytes, x.Topics, x.Partitions, x.Records, x.Wrong, float64(x.TookMs)/1000
				if err := f.output.write(cmd.OutOrStdout(), &r, rows(&r)); err != nil {
					return err
				}
				if r.Wrong > 0 {
					return fmt.Errorf("%d things are wrong: see above", r.Wrong)
				}
				return nil
			}
			if len(p.Notes) == 0 {
				m.progress(p)
			}
		}
	})
}

// meter shows how far something is: on a terminal in one line that changes, elsewhere a line every ten seconds.
type meter struct {
	w     io.Writer
	term  bool
	last  time.Time
	shown int // characters of the line that stands
}

const meterEvery = 10 * time.Second

func newMeter(w io.Writer) *meter {
	m := &meter{w: w, last: time.Now()}
	if file, ok := w.(*os.File); ok {
		m.term = term.IsTerminal(int(file.Fd()))
	}
	return m
}

func (m *meter) progress(p *api.TierProgress) {
	count := func(n int64) string {
		if p.Unit == "bytes" {
			return sizeText(n)
		}
		return number(n) + " " + p.Unit
	}
	line := p.Phase + ": " + count(p.Done)
	if p.Total > 0 {
		line += fmt.Sprintf(" of %s, %d%%", count(p.Total), min(p.Done*100/p.Total, 100))
	}
	switch {
	case m.term:
		fmt.Fprintf(m.w, "\r%s%s", line, strings.Repeat(" ", max(m.shown-len(line), 0)))
		m.shown = len(line)
	case time.Since(m.last) >= meterEvery:
		m.last = time.Now()
		fmt.Fprintln(m.w, line)
	}
}

func (m *meter) note(text string) {
	m.end()
	fmt.Fprintln(m.w, text)
}

// end takes the changing line away.
func (m *meter) end() {
	if m.shown > 0 {
		fmt.Fprintf(m.w, "\r%s\r", strings.Repeat(" ", m.shown))
		m.shown = 0
	}
}

func seconds(s float64) string { return age(time.Duration(s * float64(time.Second))) }

func tierVerify(f *controlFlags) *cobra.Command {
	r := &api.VerifyTierRequest{}
	c := &cobra.Command{
		Use: "verify", Short: "Read the store whole and compare every byte with its checksum and with the catalog", Args: atMost(0),
		Long: "Read every object whole, past the cache, and compare it with its checksums and with what the catalog says. What is damaged or lost is named, with\n" +
			"its place, and the command ends with an error. It reads two objects at a time; each costs a request or more, and its bytes.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return f.long(cmd, func(ctx context.Context, k *controlCall) (grpc.ServerStreamingClient[api.TierProgress], error) {
				return api.NewTiersClient(k).Verify(ctx, r)
			}, func(t *tierResult) [][]string {
				return [][]string{{"OBJECTS", "BYTES", "WRONG", "TOOK"}, {number(t.Objects), sizeText(t.Bytes), number(t.Wrong), seconds(t.Seconds)}}
			})
		},
	}
	c.Flags().StringVar(&r.Topic, "topic", "", "objects with records of this topic alone")
	_ = c.RegisterFlagCompletionFunc("topic", f.complete(0, completeTopics))
	f.output.add(c)
	return c
}

func tierRebuild(f *controlFlags) *cobra.Command {
	r := &api.RebuildTierRequest{}
	c := &cobra.Command{
		Use: "rebuild", Short: "Bring topics back from the store alone, after the node has lost its disks", Args: atMost(0),
		Long: "List the store, read the end of every object, and bring back each topic that the node does not know or has empty, with all that the store has of it.\n" +
			"Topics that are made get retention.ms=-1 and tier.policy=immediate, so that nothing is thrown away before somebody has looked; other settings, users,\n" +
			"groups' offsets and sessions are not in the store. A topic of the same name that has records of its own is left alone, and named. What was never\n" +
			"offloaded is gone. Doing it again does no harm: it goes on where it was.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return f.long(cmd, func(ctx context.Context, k *controlCall) (grpc.ServerStreamingClient[api.TierProgress], error) {
				return api.NewTiersClient(k).Rebuild(ctx, r)
			}, func(t *tierResult) [][]string {
				return [][]string{{"TOPICS", "PARTITIONS", "RECORDS", "BYTES", "OBJECTS", "WRONG", "TOOK"},
					{number(t.Topics), number(t.Partitions), number(t.Records), sizeText(t.Bytes), number(t.Objects), number(t.Wrong), seconds(t.Seconds)}}
			})
		},
	}
	c.Flags().BoolVar(&r.ValidateOnly, "dry-run", false, "say what would be done, and change nothing")
	f.output.add(c)
	return c
}

func tierPrefetch(f *controlFlags) *cobra.Command {
	r := &api.PrefetchTierRequest{}
	c := &cobra.Command{
		Use: "prefetch TOPIC", Short: "Read a topic's old records into the node's cache", Args: exactly("TOPIC"),
		Long: "Read what the store has of a topic into the node's cache (tier.cache), of which it takes three quarters at most: who reads it next does not wait.",
		RunE: func(cmd *cobra.Command, args []string) error {
			r.Topic = args[0]
			return f.long(cmd, func(ctx context.Context, k *controlCall) (grpc.ServerStreamingClient[api.TierProgress], error) {
				return api.NewTiersClient(k).Prefetch(ctx, r)
			}, func(t *tierResult) [][]string {
				return [][]string{{"PARTITIONS", "BYTES", "TOOK"}, {number(t.Partitions), sizeText(t.Bytes), seconds(t.Seconds)}}
			})
		},
	}
	c.Flags().Int32Var(&r.Partition, "partition", -1, "one partition; below 0: all")
	c.Flags().Int64Var(&r.From, "from", 0, "offset to begin at")
	c.Flags().Int64Var(&r.To, "to", 0, "offset to end before; 0: the end")
	c.ValidArgsFunction = f.complete(1, completeTopics)
	f.output.add(c)
	return c
}

func tierOffload(f *controlFlags) *cobra.Command {
	r := &api.OffloadTierRequest{}
	c := &cobra.Command{
		Use: "offload", Short: "Bring what is due to the store now, without waiting for the node's next turn", Args: atMost(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return f.long(cmd, func(ctx context.Context, k *controlCall) (grpc.ServerStreamingClient[api.TierProgress], error) {
				return api.NewTiersClient(k).Offload(ctx, r)
			}, func(t *tierResult) [][]string {
				return [][]string{{"OBJECTS", "BYTES", "TOOK"}, {number(t.Objects), sizeText(t.Bytes), seconds(t.Seconds)}}
			})
		},
	}
	c.Flags().BoolVar(&r.All, "all", false, "all records of topics with tier.policy=immediate that there are now, however little that is")
	f.output.add(c)
	return c
}

func tierAdopt(f *controlFlags) *cobra.Command {
	r := &api.AdoptTierRequest{}
	c := &cobra.Command{
		Use: "adopt", Short: "Take over what a node that is gone for good has left in the store", Args: atMost(0),
		Long: "A node removes from the store only what it has written there itself: what a node that lost its disk has left there might be needed by that node, so it stays. Adopt\n" +
			"tells this node that the writer of an epoch is gone for good. From then on objects of that epoch are removed as its own are: once nobody here needs their\n" +
			"records, and, where no row of this node tells of them, after tier.orphan_grace. Rebuild first: what was not brought back by then is removed. Without --epoch\n" +
			"the epochs of other nodes are named, with what of them this node does not know. An epoch with objects younger than tier.orphan_grace is refused: its node may live.",
		Example: "  sluice tier adopt\n  sluice tier adopt --epoch 3 --dry-run",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return f.long(cmd, func(ctx context.Context, k *controlCall) (grpc.ServerStreamingClient[api.TierProgress], error) {
				return api.NewTiersClient(k).Adopt(ctx, r)
			}, func(t *tierResult) [][]string {
				return [][]string{{"UNKNOWN", "BYTES", "TOOK"}, {number(t.Objects), sizeText(t.Bytes), seconds(t.Seconds)}}
			})
		},
	}
	c.Flags().Int64Var(&r.Epoch, "epoch", 0, "the epoch to take over; 0: name those that there are")
	c.Flags().BoolVar(&r.ValidateOnly, "dry-run", false, "say what would be done, and change nothing")
	c.Flags().BoolVar(&r.Force, "force", false, "also if the epoch has objects younger than tier.orphan_grace")
	f.output.add(c)
	return c
}
