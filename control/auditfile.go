package control

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// Bounds of the audit trail.
const (
	auditQueue = 1024 // records that wait for the file; the next ones are lost, or their calls wait
	auditBatch = 256  // that one write and one flush serve
)

// auditSetting is where records go now.
type auditSetting struct {
	path     string // empty: nowhere
	required bool   // a change whose record cannot be written is refused
}

// auditFile writes lines to the end of a file. One goroutine does, so that a disk that stands still delays nobody but who waits for his line; it
// begins with the first line. Methods may be called by any goroutine.
type auditFile struct {
	log     *slog.Logger
	setting atomic.Pointer[auditSetting]
	queue   chan auditLine
	written atomic.Uint64
	lost    atomic.Uint64
	warned  refusals

	mu struct {
		sync.Mutex
		started, closed bool
	}
	stop chan struct{}
	done chan struct{}

	// Of the goroutine alone.
	file *os.File      // nil: closed
	of   *auditSetting // for which it was opened
}

type auditLine struct {
	text []byte       // with its newline
	done chan<- error // gets nil once it is on stable storage; nil: nobody waits
}

func newAuditFile(log *slog.Logger) *auditFile {
	a := &auditFile{log: log, queue: make(chan auditLine, auditQueue), stop: make(chan struct{}), done: make(chan struct{})}
	a.setting.Store(new(auditSetting))
	return a
}

// set changes where records go. The file is opened anew with the next record, also if it has the same name: it may have been moved away.
func (a *auditFile) set(path string, required bool) {
	a.setting.Store(&auditSetting{path: path, required: required})
}

// on says whether records go anywhere, and whether they have to.
func (a *auditFile) on() (on, required bool) {
	s := a.setting.Load()
	return s.path != "", s.path != "" && s.required
}

// start begins the goroutine; false after close.
func (a *auditFile) start() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.mu.closed {
		return false
	}
	if !a.mu.started {
		a.mu.started = true
		go a.run()
	}
	return true
}

var (
	errAuditClosed = errors.New("the node stops")
	errAuditFull   = errors.New("records come faster than the file takes them")
)

// add queues a line and waits for nothing; a line that finds no room is lost.
func (a *auditFile) add(text []byte) {
	if !a.start() {
		a.lose(1, errAuditClosed)
		return
	}
	select {
	case a.queue <- auditLine{text: text}:
	default:
		a.lose(1, errAuditFull)
	}
}

// write writes a line and returns when it is on stable storage, or with why it is not known to be.
func (a *auditFile) write(ctx context.Context, text []byte) error {
	if !a.start() {
		return errAuditClosed
	}
	done := make(chan error, 1)
	select {
	case a.queue <- auditLine{text, done}:
	case <-ctx.Done():
		return fmt.Errorf("%w: %w", errAuditFull, ctx.Err())
	}
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// lose counts records that are not in the file, and says so, once a second.
func (a *auditFile) lose(n int, err error) {
	a.lost.Add(uint64(n))
	if a.warned.mayLog(time.Now(), 1) {
		a.log.Error("records of the audit trail are lost: what was changed is in this log alone", "file", a.setting.Load().path, "lost", a.lost.Load(), "err", err)
	}
}

// close writes what is queued and ends the goroutine; it waits for that no longer than ctx lives.
func (a *auditFile) close(ctx context.Context) {
	a.mu.Lock()
	started := a.mu.started && !a.mu.closed
	a.mu.closed = true
	a.mu.Unlock()
	if started {
		close(a.stop)
		select {
		case <-a.done:
		case <-ctx.Done():
			a.log.Error("the file of the audit trail does not take what is written: its last records may be lost", "file", a.setting.Load().path)
		}
	}
}

func (a *auditFile) run() {
	defer close(a.done)
	defer a.shut()
	batch := make([]auditLine, 0, auditBatch)
	for {
		select {
		case l := <-a.queue:
			a.flush(append(batch[:0], l))
		case <-a.stop:
			for {
				select {
				case l := <-a.queue:
					a.flush(append(batch[:0], l))
				default:
					return
				}
			}
		}
	}
}

// flush writes what is in batch and what is queued behind it, and tells those who wait.
func (a *auditFile) flush(batch []auditLine) {
	for len(batch) < auditBatch {
		select {
		case l := <-a.queue:
			batch = append(batch, l)
			continue
		default:
		}
		break
	}
	var text []byte
	for _, l := range batch {
		text = append(text, l.text...)
	}
	err := a.append(text)
	unheard := 0
	for _, l := range batch {
		if l.done != nil {
			l.done <- err
		} else {
			unheard++
		}
	}
	switch {
	case err == nil:
		a.written.Add(uint64(len(batch)))
	case unheard > 0:
		a.lose(unheard, err)
	}
}

// append writes text to the end of the file and flushes it.
func (a *auditFile) append(text []byte) error {
	if now := a.setting.Load(); a.of != now {
		a.shut()
		a.of = now
	}
	if a.file == nil {
		f, err := openAudit(a.of.path)
		if err != nil {
			return err
		}
		a.file = f
	}
	if _, err := a.file.Write(text); err != nil {
		a.shut() // half a line may be there: whoever opens it next ends it
		return err
	}
	if err := syncAudit(a.file); err != nil {
		a.shut()
		return err
	}
	return nil
}

func (a *auditFile) shut() {
	if a.file != nil {
		_ = a.file.Close()
		a.file = nil
	}
}

// openAudit opens a file for lines at its end, made if it is not there. A line that was cut short is ended. A pipe that nobody reads is an error, and not
// waited for.
func openAudit(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND|os.O_CREATE|syscall.O_NONBLOCK, 0o600)
	if err != nil {
		return nil, err
	}
	st, err := f.Stat()
	if err == nil && st.Mode().IsRegular() {
		if st.Size() == 0 {
			err = syncDirectory(filepath.Dir(path))
		} else if !endsInNewline(path, st.Size()) {
			_, err = f.WriteString("\n")
		}
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// endsInNewline is false where it cannot be seen: an empty line does no harm.
func endsInNewline(path string, size int64) bool {
	r, err := os.Open(path)
	if err != nil {
		return false
	}
	defer r.Close()
	var last [1]byte
	_, err = r.ReadAt(last[:], size-1)
	return err == nil && last[0] == '\n'
}

// syncDirectory keeps the name of a new file over a power cut.
func syncDirectory(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// syncAudit flushes a file; pipes and terminals have nothing to flush to.
func syncAudit(f *os.File) error {
	if st, err := f.Stat(); err == nil && !st.Mode().IsRegular() {
		return nil
	}
	return f.Sync()
}

// CheckAudit says whether a file can take records; it is made if it is not there.
func CheckAudit(path string) error {
	f, err := openAudit(path)
	if err != nil {
		return fmt.Errorf("control.audit: %w", err)
	}
	return f.Close()
}
