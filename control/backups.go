package control

import (
	"context"
	"errors"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/status"

	"github.com/sluicemq/sluice/control/api"
)

// Backup is one backup in the node's store.
type Backup struct {
	ID      string
	State   string // complete, incomplete, damaged
	Cluster string
	Node    int
	Version string
	Began   time.Time
	Taken   time.Time // the moment that it holds; complete ones
	Ended   time.Time
	Bytes   int64
	Objects int
}

// BackupProgress is how far making or reading a backup is.
type BackupProgress struct {
	ID          string
	Done, Total int64 // bytes
}

// Backups are the node's, in the store of its configuration. progress is called by one goroutine at a time, and not after the return.
type Backups interface {
	Create(ctx context.Context, progress func(BackupProgress)) (Backup, error)
	List(ctx context.Context) ([]Backup, error)
	Verify(ctx context.Context, id string, progress func(BackupProgress)) (Backup, error)
	Delete(ctx context.Context, id string, progress func(BackupProgress)) error
}

// What Backups answers.
var (
	ErrNoBackup      = errors.New("no such backup")
	ErrBackupName    = errors.New("no name of a backup")
	ErrBackupDamaged = errors.New("the backup cannot be used")
	ErrBackupUnable  = errors.New("not now")
)

// backupService is the service Backups.
type backupService struct {
	api.UnsafeBackupsServer // a method that is missing does not compile
	s                       *Server
}

func apiBackup(b *Backup) *api.Backup {
	ms := func(t time.Time) int64 {
		if t.IsZero() {
			return 0
		}
		return t.UnixMilli()
	}
	return &api.Backup{Id: b.ID, State: b.State, Cluster: text(b.Cluster), Node: int32(b.Node), Version: text(b.Version), BeganMs: ms(b.Began),
		TakenMs: ms(b.Taken), EndedMs: ms(b.Ended), Bytes: b.Bytes, Objects: int64(b.Objects)}
}

// run answers a call with progress and, in the last message, the backup.
func (s *backupService) run(stream grpc.ServerStreamingServer[api.BackupProgress], verb, id string,
	fn func(ctx context.Context, progress func(BackupProgress)) (Backup, error)) error {
	b, err := fn(stream.Context(), func(p BackupProgress) {
		// Who has gone is noticed by the context.
		_ = stream.Send(&api.BackupProgress{Id: p.ID, Done: p.Done, Total: p.Total})
	})
	what := verb + " the backup"
	if id != "" {
		what += " " + quoted(id)
	}
	if ctx := stream.Context(); err != nil && ctx.Err() != nil {
		err = status.FromContextError(ctx.Err()).Err()
	} else if err != nil {
		err = refuse(err, what, "")
	}
	if err == nil {
		err = stream.Send(&api.BackupProgress{Id: b.ID, Done: b.Bytes, Total: b.Bytes, Backup: apiBackup(&b)})
	}
	return err
}

// Create takes a backup.
func (s *backupService) Create(_ *api.CreateBackupRequest, stream grpc.ServerStreamingServer[api.BackupProgress]) error {
	return s.run(stream, "create", "", s.s.o.Backups.Create)
}

// Verify reads a backup.
func (s *backupService) Verify(r *api.VerifyBackupRequest, stream grpc.ServerStreamingServer[api.BackupProgress]) error {
	return s.run(stream, "verify", r.Id, func(ctx context.Context, progress func(BackupProgress)) (Backup, error) {
		return s.s.o.Backups.Verify(ctx, r.Id, progress)
	})
}

// Delete removes a backup.
func (s *backupService) Delete(r *api.DeleteBackupRequest, stream grpc.ServerStreamingServer[api.BackupProgress]) error {
	return s.run(stream, "delete", r.Id, func(ctx context.Context, progress func(BackupProgress)) (Backup, error) {
		return Backup{}, s.s.o.Backups.Delete(ctx, r.Id, progress)
	})
}

// List tells of all backups.
func (s *backupService) List(ctx context.Context, _ *api.ListBackupsRequest) (*api.ListBackupsResponse, error) {
	list, err := s.s.o.Backups.List(ctx)
	if err != nil {
		return nil, refuse(err, "list the backups", "")
	}
	r := &api.ListBackupsResponse{}
	for i := range list {
		r.Backups = append(r.Backups, apiBackup(&list[i]))
	}
	return r, nil
}
