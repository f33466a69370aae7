package server

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sluicemq/sluice/control"
	"github.com/sluicemq/sluice/journal"
	"github.com/sluicemq/sluice/journal/tier"
	"github.com/sluicemq/sluice/journal/tier/backup"
	"github.com/sluicemq/sluice/journal/tier/stores"
)

// Names of the files of a backup beside those of the journal, which are below journalFolder.
const (
	journalFolder = "journal/"
	rowsFile      = "rows"
	boundsFile    = "partitions"
)

const (
	backupTick   = 500 * time.Millisecond // between two tellings of progress
	abortTimeout = 5 * time.Second        // of clearing away what a broken backup has stored
)

var (
	errNoBackupStore = errors.New("the node has no store for backups: set backup.store, such as local:dir=/var/backups/sluice")
	errBackupBusy    = errors.New("a backup of this node is under way, or one is being verified or deleted")
	errBackupMemory  = errors.New("journal.durability is memory: there is nothing to back up")
)

// parseStore reads a store as backup.store has it: KIND:KEY=VALUE,KEY=VALUE. A secret may be env:NAME or file:PATH.
func parseStore(text string) (kind string, settings map[string]string, err error) {
	kind, list, _ := strings.Cut(text, ":")
	settings = make(map[string]string)
	last := ""
	for part := range strings.SplitSeq(list, ",") {
		key, value, ok := strings.Cut(part, "=")
		key = strings.TrimSpace(key)
		switch {
		case strings.TrimSpace(part) == "":
		case ok && key != "":
			settings[key], last = strings.TrimSpace(value), key
		case !ok && last != "": // a list, such as that of name nodes
			settings[last] += "," + key
		default: // not shown: it may be a secret
			return "", nil, errors.New("want KIND:KEY=VALUE,KEY=VALUE, such as local:dir=/var/backups/sluice")
		}
	}
	for key := range settings {
		if settings[key], err = settingValue(key, settings[key]); err != nil {
			return "", nil, err
		}
	}
	return kind, settings, nil
}

// settingValue reads a secret from where it is said to be. What opens a store is not taken as it is: the configuration is printed, and a command
// line is there for all to see.
func settingValue(key, value string) (string, error) {
	switch key {
	case "access_key", "secret_key", "session_token":
	default:
		return value, nil
	}
	if name, ok := strings.CutPrefix(value, "env:"); ok {
		v, set := os.LookupEnv(name)
		if !set {
			return "", fmt.Errorf("%s: the environment variable %s is not set", key, name)
		}
		return v, nil
	}
	if path, ok := strings.CutPrefix(value, "file:"); ok {
		b, err := os.ReadFile(path)
		if err != nil {
			return "", fmt.Errorf("%s: %w", key, err)
		}
		return strings.TrimRight(string(b), "\r\n"), nil
	}
	if key != "access_key" {
		return "", fmt.Errorf("%s: want env:NAME or file:PATH", key)
	}
	return value, nil
}

// openBackupStore opens a store as backup.store has it.
func openBackupStore(ctx context.Context, text string) (tier.Store, error) {
	if text == "" {
		return nil, errNoBackupStore
	}
	kind, settings, err := parseStore(text)
	if err != nil {
		return nil, err
	}
	return stores.Open(ctx, kind, settings)
}

// backups takes backups of the node into the store of its configuration, and looks after those that are there: one call at a time, but List.
type backups struct {
	s    *Server
	busy sync.Mutex // tried, never waited for
}

var _ control.Backups = (*backups)(nil)

// with runs fn with the store.
func (b *backups) with(ctx context.Context, fn func(tier.Store) error) (err error) {
	st, err := openBackupStore(ctx, b.s.cfg.Load().Backup.Store)
	if err != nil {
		return backupFault(err)
	}
	defer func() { err = backupFault(errors.Join(err, st.Close())) }()
	return fn(st)
}

// alone is with for what nobody else may do meanwhile.
func (b *backups) alone(ctx context.Context, fn func(tier.Store) error) error {
	if !b.busy.TryLock() {
		return backupFault(errBackupBusy)
	}
	defer b.busy.Unlock()
	return b.with(ctx, fn)
}

// backupFault marks errors as the control plane tells them apart.
func backupFault(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, backup.ErrNone):
		return fmt.Errorf("%w: %w", control.ErrNoBackup, err)
	case errors.Is(err, backup.ErrID):
		return fmt.Errorf("%w: %w", control.ErrBackupName, err)
	case errors.Is(err, backup.ErrDamaged), errors.Is(err, backup.ErrIncomplete), errors.Is(err, backup.ErrFormat):
		return fmt.Errorf("%w: %w", control.ErrBackupDamaged, err)
	case errors.Is(err, errNoBackupStore), errors.Is(err, errBackupMemory), errors.Is(err, errBackupBusy), errors.Is(err, errBackupCluster):
		return fmt.Errorf("%w: %w", control.ErrBackupUnable, err)
	}
	return err
}

// Create makes it a control.Backups.
func (b *backups) Create(ctx context.Context, progress func(control.BackupProgress)) (out control.Backup, err error) {
	err = b.alone(ctx, func(st tier.Store) error {
		ls, ok := b.s.node.storage.(*logStorage)
		if !ok {
			return errBackupMemory
		}
		cfg := b.s.cfg.Load()
		o := backup.Options{Begin: backup.Begin{Cluster: b.s.node.o.kafka.cluster, Node: cfg.Node.ID, Version: b.s.o.Version},
			Rate: func() int64 { return int64(b.s.cfg.Load().Backup.Rate) }}
		p := new(backupState)
		defer p.tell(progress)()
		m, err := b.take(ctx, ls, st, o, cfg.Cluster.Shards, p)
		if err != nil {
			return err
		}
		out = backupInfo(&backup.Info{Begin: m.Begin, State: backup.Complete, Taken: m.Taken, Ended: m.Ended, Bytes: m.Bytes(), Objects: m.Objects()})
		return nil
	})
	return out, err
}

// List makes it a control.Backups.
func (b *backups) List(ctx context.Context) (out []control.Backup, err error) {
	err = b.with(ctx, func(st tier.Store) error {
		list, err := backup.List(ctx, st)
		for i := range list {
			out = append(out, backupInfo(&list[i]))
		}
		return err
	})
	return out, err
}

// Verify makes it a control.Backups.
func (b *backups) Verify(ctx context.Context, id string, progress func(control.BackupProgress)) (out control.Backup, err error) {
	err = b.alone(ctx, func(st tier.Store) error {
		r, err := backup.Open(ctx, st, id)
		if err != nil {
			return err
		}
		out = backupInfo(&backup.Info{Begin: r.Begin, State: backup.Complete, Taken: r.Taken, Ended: r.Ended, Bytes: r.Bytes(), Objects: r.Objects()})
		p := &backupState{id: id}
		p.total.Store(r.Bytes())
		defer p.tell(progress)()
		return r.Verify(ctx, func(n int) { p.done.Add(int64(n)) })
	})
	return out, err
}

// Delete makes it a control.Backups. What the backup has held in the tier is released after it is gone; where only that is left, it is no error.
func (b *backups) Delete(ctx context.Context, id string, progress func(control.BackupProgress)) error {
	return b.alone(ctx, func(st tier.Store) error {
		if b.s.node.storeless() { // nobody would ask for the release of what is held any more
			return errBackupStoreless
		}
		p := &backupState{id: id}
		defer p.tell(progress)()
		err := backup.Delete(ctx, st, id)
		if err != nil && !errors.Is(err, backup.ErrNone) {
			return err
		}
		if released, rerr := b.release(ctx, id); rerr != nil || released {
			return rerr
		}
		return err
	})
}

// A backup holds what it needs of the tier's objects by this name.
func holdOf(id string) string { return "backup-" + id }

// release lets the tier remove what the backup alone needs, and tells whether it held anything.
func (b *backups) release(ctx context.Context, id string) (bool, error) {
	t := b.s.node.tier
	if t == nil {
		return false, nil
	}
	found, err := t.holder().Release(ctx, holdOf(id))
	if err != nil {
		err = fmt.Errorf("release what backup %s holds in tier.store (delete it again): %w", id, err)
	}
	return found, err
}

func backupInfo(i *backup.Info) control.Backup {
	return control.Backup{ID: i.ID, State: string(i.State), Cluster: i.Cluster, Node: i.Node, Version: i.Version, Began: i.Began,
		Taken: i.Taken, Ended: i.Ended, Bytes: i.Bytes, Objects: i.Objects}
}

// brokenRest is how long nothing may have been stored of another node's backup before it counts as broken off.
const brokenRest = 24 * time.Hour

// brokenAfter is that of a node of a cluster: who has begun a backup may never lead again, or be gone, and what it holds of the tier would stay held. Nodes that
// are alone leave each other's.
func (b *backups) brokenAfter() time.Duration {
	if b.s.node.cluster == nil {
		return 0
	}
	return brokenRest
}

// take stores the node's state: what was acknowledged when it is called is in it. Nobody waits for it but the disk and the store.
func (b *backups) take(ctx context.Context, ls *logStorage, st tier.Store, o backup.Options, shards int, p *backupState) (m *backup.Manifest, err error) {
	cut, err := b.s.node.newCut()
	if err != nil {
		return nil, err
	}
	gone, err := backup.Clean(ctx, st, o.Begin.Cluster, o.Begin.Node, b.brokenAfter())
	for _, id := range gone {
		ls.logger.Info("a backup that was broken off is removed", "backup", id)
		_, rerr := b.release(ctx, id)
		err = errors.Join(err, rerr)
	}
	if err != nil {
		return nil, err
	}
	w, err := backup.Create(ctx, st, o)
	if w != nil {
		defer func() {
			if err == nil {
				return
			}
			// The caller may have gone: what was stored is cleared away all the same, or by the next backup.
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), abortTimeout)
			defer cancel()
			_, left := b.release(ctx, w.ID())
			if left == nil { // else the next one finds it, and releases it
				left = w.Abort(ctx)
			}
			if left != nil {
				ls.logger.Warn("what a broken backup has stored is left for the next one to remove", "backup", w.ID(), "err", left)
			}
		}()
	}
	if err != nil {
		return nil, err
	}
	p.from(w)
	// The rows of the moment name objects of the tier: these must stay, whatever becomes of the node. All are held until it is known which.
	t := b.s.node.tier
	if t != nil {
		if err := t.holder().HoldAll(ctx, holdOf(w.ID())); err != nil {
			return nil, err
		}
	}
	written := ls.checkpoint() // so that whoever restores it replays little
	taken := time.Now().UTC().Truncate(time.Millisecond)
	if err := cut.begin(ctx, written); err != nil {
		return nil, err
	}
	snap, err := ls.log.Backup()
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, snap.Close()) }()
	if err := cut.seal(ctx); err != nil {
		return nil, err
	}
	if t != nil {
		if err := t.holder().Hold(ctx, holdOf(w.ID())); err != nil {
			return nil, err
		}
	}
	if err := cut.store(ctx, w); err != nil {
		return nil, err
	}
	if err := copyBackup(ctx, w, snap, p); err != nil {
		return nil, err
	}
	return w.Finish(ctx, func(m *backup.Manifest) { m.Taken, m.Shards = taken, shards })
}

// copyBackup stores everything of snap.
func copyBackup(ctx context.Context, w *backup.Writer, snap *journal.Backup, p *backupState) error {
	total := int64(0)
	for _, f := range snap.Files() {
		total += f.Size
	}
	p.total.Store(total)
	var buf []byte
	err := w.Stream(ctx, rowsFile, func(write func([]byte) error) error {
		return snap.Rows(func(key, value []byte) error {
			buf = journal.AppendRow(buf[:0], key, value)
			return write(buf)
		})
	})
	if err != nil {
		return err
	}
	err = w.Stream(ctx, boundsFile, func(write func([]byte) error) error {
		for i := range snap.Partitions() {
			buf = journal.AppendBounds(buf[:0], &snap.Partitions()[i])
			if err := write(buf); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	for i, f := range snap.Files() {
		r, err := snap.Open(i)
		if err != nil {
			return err
		}
		err = w.File(ctx, journalFolder+f.Name, r, f.Size, f.Full)
		if err = errors.Join(err, r.Close()); err != nil {
			return err
		}
		snap.Done(i)
	}
	return nil
}

// backupState is how far a call is. Its methods are safe for concurrent use.
type backupState struct {
	id          string // of what is there before the call
	writer      atomic.Pointer[backup.Writer]
	done, total atomic.Int64
}

// from has it follow a backup that is made.
func (p *backupState) from(w *backup.Writer) { p.writer.Store(w) }

func (p *backupState) now() control.BackupProgress {
	out := control.BackupProgress{ID: p.id, Done: p.done.Load(), Total: p.total.Load()}
	if w := p.writer.Load(); w != nil {
		out.ID, out.Done = w.ID(), w.Copied()
	}
	out.Total = max(out.Total, out.Done)
	return out
}

// tell tells of it until stop, also while nothing moves: who waits has a limit for silence, and a store may take its time.
func (p *backupState) tell(progress func(control.BackupProgress)) (stop func()) {
	end := make(chan struct{})
	var done sync.WaitGroup
	done.Go(func() {
		tick := time.NewTicker(backupTick)
		defer tick.Stop()
		for {
			progress(p.now())
			select {
			case <-tick.C:
			case <-end:
				return
			}
		}
	})
	return func() {
		close(end)
		done.Wait()
	}
}
