package raftgroup

import (
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"

	"github.com/lni/dragonboat/v4/logger"
)

// Dragonboat has one logger for the whole process. The last group that has started gets its words.
var (
	dragonboatLog  atomic.Pointer[slog.Logger]
	setLoggersOnce sync.Once
)

func logTo(l *slog.Logger) {
	dragonboatLog.Store(l)
	setLoggersOnce.Do(func() {
		logger.SetLoggerFactory(func(part string) logger.ILogger { return partLogger{part} })
	})
}

// partLogger is the logger of a part of Dragonboat. What it finds notable is a matter for who looks for a fault here: what an operator has to
// know the group says itself.
type partLogger struct{ part string }

func (p partLogger) log(format string, args []any) {
	if l := dragonboatLog.Load(); l != nil && l.Enabled(nil, slog.LevelDebug) { //nolint:staticcheck // no context here
		l.Debug("dragonboat", "part", p.part, "says", fmt.Sprintf(format, args...))
	}
}

// SetLevel makes it a logger.ILogger.
func (partLogger) SetLevel(logger.LogLevel) {}

// Debugf makes it a logger.ILogger: too much for any log.
func (partLogger) Debugf(string, ...any) {}

// Infof makes it a logger.ILogger.
func (p partLogger) Infof(format string, args ...any) { p.log(format, args) }

// Warningf makes it a logger.ILogger.
func (p partLogger) Warningf(format string, args ...any) { p.log(format, args) }

// Errorf makes it a logger.ILogger.
func (p partLogger) Errorf(format string, args ...any) { p.log(format, args) }

// Panicf makes it a logger.ILogger.
func (p partLogger) Panicf(format string, args ...any) {
	panic(fmt.Sprintf("dragonboat: "+p.part+": "+format, args...))
}
