package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"
	"google.golang.org/grpc"

	"github.com/sluicemq/sluice/control/api"
)

func init() { register(newBackupCommand) }

// backupRow is a backup in every output.
type backupRow struct {
	ID      string `json:"id" yaml:"id"`
	State   string `json:"state" yaml:"state"`
	Node    int32  `json:"node" yaml:"node"`
	Cluster string `json:"cluster" yaml:"cluster"`
	Version string `json:"version" yaml:"version"`
	Began   string `json:"began" yaml:"began"`
	Taken   string `json:"taken" yaml:"taken"`
	Ended   string `json:"ended" yaml:"ended"`
	Bytes   int64  `json:"bytes" yaml:"bytes"`
	Objects int64  `json:"objects" yaml:"objects"`
}

func backupRowOf(b *api.Backup) backupRow {
	return backupRow{b.Id, b.State, b.Node, b.Cluster, b.Version, stamp(b.BeganMs), stamp(b.TakenMs), stamp(b.EndedMs), b.Bytes, b.Objects}
}

var backupHeader = []string{"BACKUP", "STATE", "NODE", "TAKEN", "SIZE", "OBJECTS"}

func (b *backupRow) cells() []string {
	if b.State != "complete" {
		return []string{b.ID, b.State, number(b.Node), "-", "-", "-"}
	}
	return []string{b.ID, b.State, number(b.Node), b.Taken, sizeText(b.Bytes), number(b.Objects)}
}

func newBackupCommand() *cobra.Command {
	f := &controlFlags{}
	return f.group("backup", "Take, list, verify and delete backups of a running node",
		backupCreate(f), backupList(f), backupVerify(f), backupDelete(f))
}

// progressLine shows how far something is, in one line of a terminal; nothing elsewhere.
type progressLine struct {
	w     io.Writer
	shown bool
}

func newProgressLine(cmd *cobra.Command) *progressLine {
	if f, ok := cmd.ErrOrStderr().(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		return &progressLine{w: f}
	}
	return &progressLine{}
}

func (p *progressLine) show(format string, args ...any) {
	if p.w != nil {
		fmt.Fprintf(p.w, "\r\x1b[K"+format, args...)
		p.shown = true
	}
}

func (p *progressLine) clear() {
	if p.shown {
		fmt.Fprint(p.w, "\r\x1b[K")
		p.shown = false
	}
}

// follow takes the messages of a call to its end. There is no time limit: --timeout bounds the wait for each message.
func (f *controlFlags) follow(cmd *cobra.Command, verb string, call func(ctx context.Context) (grpc.ServerStreamingClient[api.BackupProgress], error)) (*api.Backup, error) {
	ctx, cancel := context.WithCancelCause(cmd.Context())
	defer cancel(nil)
	late := time.AfterFunc(f.timeout, func() {
		cancel(fmt.Errorf("no news from the node within %v; --timeout gives it longer", f.timeout))
	})
	defer late.Stop()
	stream, err := call(ctx)
	if err != nil {
		return nil, err
	}
	line := newProgressLine(cmd)
	defer line.clear()
	var last *api.Backup
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			if last == nil {
				return nil, errors.New("the node has ended the call without an answer")
			}
			return last, nil
		}
		if err != nil {
			if cause := context.Cause(ctx); cause != nil && cmd.Context().Err() == nil {
				return nil, cause
			}
			return nil, err
		}
		late.Reset(f.timeout)
		if m.Backup != nil {
			last = m.Backup
		}
		if m.Total > 0 {
			line.show("%s %s: %s of %s", verb, m.Id, sizeText(m.Done), sizeText(m.Total))
		} else {
			line.show("%s %s", verb, m.Id)
		}
	}
}

func (f *controlFlags) showBackup(cmd *cobra.Command, b *api.Backup) error {
	row := backupRowOf(b)
	return f.output.write(cmd.OutOrStdout(), &row, [][]string{backupHeader, row.cells()})
}

func backupCreate(f *controlFlags) *cobra.Command {
	c := &cobra.Command{
		Use: "create", Short: "Take a backup of the node, which goes on meanwhile", Args: atMost(0),
		Long: "Take a backup of everything that the node keeps: topics and their records, groups and offsets, transactions, sessions and what waits for them,\n" +
			"retained messages, users, rules, quotas, bindings. It goes to the store that the node's configuration names (backup.store), at backup.rate. All that\n" +
			"was acknowledged before the command is in it. If the command is interrupted, the backup is broken off and does not exist.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return f.call(cmd, func(k *controlCall) error {
				b, err := f.follow(cmd, "backup", func(ctx context.Context) (grpc.ServerStreamingClient[api.BackupProgress], error) {
					return api.NewBackupsClient(k).Create(ctx, &api.CreateBackupRequest{})
				})
				if err != nil {
					return err
				}
				return f.showBackup(cmd, b)
			})
		},
	}
	f.output.add(c)
	return c
}

func backupList(f *controlFlags) *cobra.Command {
	c := &cobra.Command{
		Use: "list", Short: "List the backups in the node's store, oldest first", Args: atMost(0),
		Long: "List the backups in the node's store, oldest first, those of other nodes included. An incomplete one is under way or was broken off; the next\n" +
			"backup of the same node removes what it has left, or a day later that of another node of its cluster.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return f.call(cmd, func(k *controlCall) error {
				r, err := ask(k, api.NewBackupsClient(k).List, &api.ListBackupsRequest{})
				if err != nil {
					return err
				}
				l := listing[backupRow]{w: cmd.OutOrStdout(), o: f.output, row: (*backupRow).cells, header: backupHeader}
				return l.pages(func([]byte) ([]backupRow, []byte, error) { return each(r.Backups, backupRowOf), nil, nil })
			})
		},
	}
	f.output.add(c)
	return c
}

func backupVerify(f *controlFlags) *cobra.Command {
	c := &cobra.Command{
		Use: "verify BACKUP", Short: "Read all of a backup and compare it with what was written", Args: exactly("BACKUP"),
		Long: "Read all objects of a backup and compare them with their checksums. The exit code is 1 if one is missing or is not what was written; it is named.\n" +
			"`sluice restore --verify` proves more: it brings the state up and reads every record.",
		RunE: func(cmd *cobra.Command, args []string) error {
			return f.call(cmd, func(k *controlCall) error {
				b, err := f.follow(cmd, "verify", func(ctx context.Context) (grpc.ServerStreamingClient[api.BackupProgress], error) {
					return api.NewBackupsClient(k).Verify(ctx, &api.VerifyBackupRequest{Id: args[0]})
				})
				if err != nil {
					return err
				}
				return f.showBackup(cmd, b)
			})
		},
	}
	f.output.add(c)
	return c
}

func backupDelete(f *controlFlags) *cobra.Command {
	return &cobra.Command{
		Use: "delete BACKUP", Short: "Delete a backup, or what is left of one", Args: exactly("BACKUP"),
		RunE: func(cmd *cobra.Command, args []string) error {
			f.output = "table"
			return f.call(cmd, func(k *controlCall) error {
				_, err := f.follow(cmd, "delete", func(ctx context.Context) (grpc.ServerStreamingClient[api.BackupProgress], error) {
					return api.NewBackupsClient(k).Delete(ctx, &api.DeleteBackupRequest{Id: args[0]})
				})
				if err == nil {
					fmt.Fprintf(cmd.OutOrStdout(), "deleted %s\n", args[0])
				}
				return err
			})
		},
	}
}
