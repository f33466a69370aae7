// Package otlp sends spans to a collector of OpenTelemetry by OTLP over gRPC. It owns one connection, one batch on its way and what the log says of the
// collector; which messages have spans, and how many may wait, is internal/trace's. Nothing here is called by a loop: a collector that is away or stalls
// holds up this package alone.
//
// It makes OTLP's messages itself and not by OpenTelemetry's SDK, which brings thirteen more modules and 2 MB where the messages' types are 0.1 MB, moves
// versions that go.mod pins, and has a sampler and a queue of its own that a loop could not ask without allocating.
package otlp

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/sluicemq/sluice/internal/trace"
)

// Options of an Exporter.
type Options struct {
	Collector string            // HOST:PORT
	TLS       *tls.Config       // nil: in the clear
	Headers   map[string]string // sent with each call; names in small letters
	Timeout   time.Duration     // of a call; 0: 10 s
	Linger    time.Duration     // how long spans wait for others to go with them; 0: 1 s
	Logger    *slog.Logger      // nil: slog.Default

	Service, Version, Instance string // whose spans they are
}

const (
	exportMethod = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
	batchMax     = 512
	pauseFirst   = time.Second
	pauseMost    = 30 * time.Second
	closeTimeout = 2 * time.Second
)

// Exporter sends what a trace.Spans has. Close it.
type Exporter struct {
	o     Options
	spans *trace.Spans
	conn  *grpc.ClientConn
	stop  context.CancelFunc
	done  sync.WaitGroup
	down  bool   // the log has it that the collector does not take spans
	lost  uint64 // spans that were not sent since
}

// Start makes an Exporter and has it send. It does not wait for the collector.
func Start(o Options, spans *trace.Spans) (*Exporter, error) {
	if o.Timeout <= 0 {
		o.Timeout = 10 * time.Second
	}
	if o.Linger <= 0 {
		o.Linger = time.Second
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	creds := insecure.NewCredentials()
	if o.TLS != nil {
		creds = credentials.NewTLS(o.TLS)
	}
	e := &Exporter{o: o, spans: spans}
	var err error
	if e.conn, err = grpc.NewClient("dns:///"+o.Collector, grpc.WithTransportCredentials(creds), grpc.WithUserAgent("sluice/"+o.Version)); err != nil {
		return nil, fmt.Errorf("the collector of traces: %w", err)
	}
	ctx, stop := context.WithCancel(context.Background())
	e.stop = stop
	e.done.Go(func() { e.run(ctx) })
	return e, nil
}

// Close sends what waits, if the collector takes it at once, and ends the Exporter. What is left is counted.
func (e *Exporter) Close() error {
	e.spans.Close()
	e.stop()
	e.done.Wait()
	return e.conn.Close()
}

// run sends until it is stopped.
func (e *Exporter) run(ctx context.Context) {
	var batch []*trace.Span
	for e.gather(ctx) {
		for ctx.Err() == nil {
			if batch = e.spans.Take(batch[:0], batchMax); len(batch) == 0 {
				break
			}
			if !e.deliver(ctx, batch) {
				e.last(batch)
				return
			}
		}
		clear(batch)
	}
	e.last(nil)
}

// last sends a batch and what waits, each once.
func (e *Exporter) last(batch []*trace.Span) {
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	for {
		if len(batch) == 0 {
			if batch = e.spans.Take(nil, batchMax); len(batch) == 0 {
				return
			}
		}
		if err := e.send(ctx, batch); err != nil {
			e.refused(len(batch) + len(e.spans.Take(nil, e.spans.Waiting())))
			return
		}
		batch = nil
	}
}

// gather waits until there are spans, and a little longer for more. false: the Exporter ends.
func (e *Exporter) gather(ctx context.Context) bool {
	select {
	case <-ctx.Done():
		return false
	case <-e.spans.Ready():
	}
	linger := time.NewTimer(e.o.Linger)
	defer linger.Stop()
	for e.spans.Waiting() < batchMax {
		select {
		case <-ctx.Done():
			return false
		case <-linger.C:
			return true
		case <-e.spans.Ready():
		}
	}
	return true
}

// deliver sends a batch until the collector has taken or refused it. Meanwhile other spans wait, as many as may. false: the Exporter ends, and has it
// still.
func (e *Exporter) deliver(ctx context.Context, batch []*trace.Span) bool {
	for pause := pauseFirst; ; pause = min(2*pause, pauseMost) {
		err := e.send(ctx, batch)
		if err == nil {
			return true
		}
		if ctx.Err() != nil {
			return false
		}
		e.trouble(err)
		if !passes(status.Code(err)) {
			e.refused(len(batch))
			return true
		}
		again := time.NewTimer(pause)
		select {
		case <-ctx.Done():
			again.Stop()
			return false
		case <-again.C:
		}
	}
}

// passes says whether a failure is worth another try, as OTLP has it.
func passes(c codes.Code) bool {
	switch c { //nolint:exhaustive // the others stay
	case codes.Canceled, codes.DeadlineExceeded, codes.ResourceExhausted, codes.Aborted, codes.OutOfRange, codes.Unavailable, codes.DataLoss:
		return true
	}
	return false
}

// send makes one call.
func (e *Exporter) send(ctx context.Context, batch []*trace.Span) error {
	ctx, cancel := context.WithTimeout(ctx, e.o.Timeout)
	defer cancel()
	if len(e.o.Headers) > 0 {
		ctx = metadata.NewOutgoingContext(ctx, metadata.New(e.o.Headers))
	}
	var answer emptypb.Empty // that it knows no fields is no matter: rejected reads what it has kept of them
	if err := e.conn.Invoke(ctx, exportMethod, request(&e.o, batch), &answer); err != nil {
		return err
	}
	n, why := rejected(answer.ProtoReflect().GetUnknown())
	bad := int(min(max(n, 0), int64(len(batch))))
	e.spans.Counts().Exported.Add(uint64(len(batch) - bad))
	if bad > 0 {
		e.trouble(fmt.Errorf("%d of %d spans were rejected: %s", bad, len(batch), trace.Text(why)))
		e.refused(bad)
		return nil
	}
	e.recovered()
	return nil
}

// rejected reads ExportTraceServiceResponse: partial_success is its field 1, with rejected_spans as field 1 and error_message as field 2.
func rejected(b []byte) (n int64, why string) {
	for inside := false; len(b) > 0; {
		num, kind, size := protowire.ConsumeTag(b)
		if size < 0 {
			break
		}
		b = b[size:]
		switch {
		case !inside && num == 1 && kind == protowire.BytesType:
			v, size := protowire.ConsumeBytes(b)
			if size < 0 {
				return n, why
			}
			b, inside = v, true
			continue
		case inside && num == 1 && kind == protowire.VarintType:
			v, _ := protowire.ConsumeVarint(b)
			n = int64(v) //nolint:gosec // an int64 on the wire
		case inside && num == 2 && kind == protowire.BytesType:
			v, _ := protowire.ConsumeBytes(b)
			why = string(v)
		}
		if size = protowire.ConsumeFieldValue(num, kind, b); size < 0 {
			break
		}
		b = b[size:]
	}
	return n, why
}

func (e *Exporter) refused(n int) {
	e.spans.Counts().Collector.Add(uint64(n))
	e.lost += uint64(n)
}

// trouble says once that the collector does not take spans.
func (e *Exporter) trouble(err error) {
	if !e.down {
		e.down = true
		e.o.Logger.Warn("the collector takes no spans: as many as tracing.queue says wait, others are lost", "collector", e.o.Collector, "err", err)
	}
}

// recovered says once that it does again.
func (e *Exporter) recovered() {
	if e.down {
		e.down = false
		e.o.Logger.Info("the collector takes spans again", "collector", e.o.Collector, "refused", e.lost)
		e.lost = 0
	}
}
