package main

import (
	"log/slog"
	"os"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/sluicemq/sluice/server"
)

func init() { register(newRestoreCommand) }

func newRestoreCommand() *cobra.Command {
	f := &startFlags{}
	var from, id string
	var verify bool
	var out output
	c := &cobra.Command{
		Use: "restore", Short: "Write a data directory from a backup", Args: atMost(0),
		Long: "Write a data directory from a backup. No node runs for it. The directory (--data, node.data) must be absent or empty; a node that is started with it\n" +
			"afterwards goes on as after a crash at the moment that the backup holds, whatever its node.id. With --verify the state is brought up and every record\n" +
			"read and checked, before the directory counts as restored. If the command fails or is cut, no node starts with the directory; the next restore begins anew.",
		Example: "  sluice restore --from local:dir=/var/backups/sluice --data /var/lib/sluice --verify\n  sluice restore -c sluice.yaml --backup 20261126T204233Z-0c7e9b12",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := out.check(); err != nil {
				return err
			}
			loaded, err := f.load()
			if err != nil {
				return err
			}
			if from == "" {
				from = loaded.Config.Backup.Store
			}
			if from == "" {
				return misused("want --from STORE, such as local:dir=/var/backups/sluice, or a configuration with backup.store")
			}
			defer interruptible(cmd)()
			line := newProgressLine(cmd)
			defer line.clear()
			logger := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
			r, err := server.Restore(cmd.Context(), server.RestoreOptions{Store: from, ID: id, Data: loaded.Config.Node.Data, Verify: verify, Logger: logger,
				Tier: loaded.Config.Tier.Store, TierSettings: loaded.Config.Tier.Settings.Values(),
				Progress: func(p server.RestoreProgress) {
					switch p.Step {
					case "restore":
						line.show("restore %s: %s of %s", p.ID, sizeText(p.Done), sizeText(p.Total))
					case "open":
						line.show("bring up %s", p.ID)
					case "history":
						line.show("read history of %s: %d of %d objects", p.ID, p.Done, p.Total)
					default:
						line.show("read %s: %d of %d partitions", p.ID, p.Done, p.Total)
					}
				}})
			line.clear()
			if err != nil {
				return err
			}
			return out.write(cmd.OutOrStdout(), r, restoredRows(r))
		},
	}
	f.addConfig(c)
	f.addData(c)
	c.Flags().StringVar(&from, "from", "", "store with the backup, as backup.store has it: KIND:KEY=VALUE,KEY=VALUE (default: backup.store)")
	c.Flags().StringVar(&id, "backup", "", "which one (default: the newest complete one)")
	c.Flags().BoolVar(&verify, "verify", false, "bring the state up and read all of it")
	out.add(c)
	_ = c.RegisterFlagCompletionFunc("from", cobra.NoFileCompletions)
	_ = c.RegisterFlagCompletionFunc("backup", cobra.NoFileCompletions)
	return c
}

func restoredRows(r *server.Restored) [][]string {
	rows := [][]string{
		{"BACKUP", r.ID}, {"OF NODE", strconv.Itoa(r.Node)}, {"CLUSTER", r.Cluster}, {"TAKEN", r.Taken.Format(time.RFC3339)},
		{"SIZE", sizeText(r.Bytes)}, {"SHARDS", strconv.Itoa(r.Shards)},
	}
	if r.NewCluster != "" {
		rows = append(rows, []string{"NEW CLUSTER", r.NewCluster})
	}
	v := r.Verified
	if v == nil {
		return append(rows, []string{"VERIFIED", "no: checksums of the objects alone"})
	}
	if v.TierObjects > 0 {
		tiered := number(v.TierRead) + " of " + number(v.TierObjects) + " objects were read"
		if v.TierRead == 0 {
			tiered = number(v.TierObjects) + " objects were not read: tier.store is off"
		}
		rows = append(rows, []string{"TIER", tiered})
	}
	return append(rows, []string{"VERIFIED", "all of the backup was read"}, []string{"TOPICS", number(v.Topics)}, []string{"PARTITIONS", number(v.Partitions)},
		[]string{"SESSIONS", number(v.Sessions)}, []string{"RETAINED", number(v.Retained)},
		[]string{"CATALOG", number(v.Entries)}, []string{"RECORDS", number(v.Records)}, []string{"BATCHES", number(v.Batches)})
}
