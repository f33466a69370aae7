package control

import (
	"context"
	"errors"
	"strconv"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/sluicemq/sluice/broker"
	"github.com/sluicemq/sluice/meta"
)

// await calls start and waits until it calls back, or ctx ends. What comes later is dropped.
func await[T any](ctx context.Context, start func(done func(T))) (T, error) {
	ch := make(chan T, 1)
	start(func(v T) { ch <- v })
	select {
	case v := <-ch:
		return v, nil
	case <-ctx.Done():
		var none T
		return none, status.FromContextError(ctx.Err()).Err()
	}
}

// awaitError is await for what ends in an error alone.
func awaitError(ctx context.Context, start func(done func(error))) error {
	err, late := await(ctx, start)
	if late != nil {
		return late
	}
	return err
}

// causes says which code an error of the core has.
var causes = []struct {
	err  error
	code codes.Code
}{
	{meta.ErrTenant, codes.NotFound},
	{meta.ErrTenantThere, codes.AlreadyExists},
	{meta.ErrTenantUsed, codes.FailedPrecondition},
	{meta.ErrTooManyTenants, codes.ResourceExhausted},
	{meta.ErrNoMajority, codes.Unavailable},
	{meta.ErrUnknown, codes.DeadlineExceeded},
	{meta.ErrConflict, codes.Aborted},
	{broker.ErrTopicExists, codes.AlreadyExists},
	{broker.ErrUnknownTopic, codes.NotFound},
	{broker.ErrGroupNotFound, codes.NotFound},
	{broker.ErrNoSession, codes.NotFound},
	{broker.ErrConcurrent, codes.Aborted},
	{broker.ErrFewer, codes.InvalidArgument},
	{broker.ErrVolatileOnly, codes.FailedPrecondition},
	{broker.ErrBound, codes.FailedPrecondition},
	{broker.ErrBindSpread, codes.FailedPrecondition},
	{broker.ErrNoSets, codes.FailedPrecondition},
	{broker.ErrNonEmptyGroup, codes.FailedPrecondition},
	{broker.ErrUnknownMember, codes.FailedPrecondition},
	{broker.ErrInvalidGroupID, codes.InvalidArgument},
	{broker.ErrUnavailable, codes.Unavailable},
	{broker.ErrClosed, codes.Unavailable},
	{broker.ErrBusy, codes.ResourceExhausted},
	{broker.ErrQuota, codes.ResourceExhausted},
	{broker.ErrInvalidRequest, codes.InvalidArgument},
	{broker.ErrBinding, codes.InvalidArgument},
	{meta.ErrBusy, codes.ResourceExhausted},
	{meta.ErrGroupClosed, codes.Unavailable},
	{meta.ErrHalted, codes.FailedPrecondition},
	{meta.ErrBounds, codes.ResourceExhausted},
	{meta.ErrSelf, codes.FailedPrecondition},
	{ErrNotInSync, codes.FailedPrecondition},
	{ErrLed, codes.FailedPrecondition},
	{ErrNotMoved, codes.DeadlineExceeded},
	{ErrUndecided, codes.Unavailable},
	{meta.ErrLevel, codes.FailedPrecondition},
	{meta.ErrUnclean, codes.FailedPrecondition},
	{meta.ErrShard, codes.FailedPrecondition},
	{broker.ErrNotLeader, codes.FailedPrecondition},
	{meta.ErrNoCluster, codes.FailedPrecondition},
	{meta.ErrNodeExists, codes.AlreadyExists},
	{meta.ErrNoNode, codes.NotFound},
	{meta.ErrNodeGone, codes.FailedPrecondition},
	{meta.ErrNodeInUse, codes.FailedPrecondition},
	{ErrConfigured, codes.FailedPrecondition},
	{ErrNoBinding, codes.NotFound},
	{ErrNoBackup, codes.NotFound},
	{ErrBackupName, codes.InvalidArgument},
	{ErrBackupDamaged, codes.DataLoss},
	{ErrBackupUnable, codes.FailedPrecondition},
	{ErrNoStore, codes.FailedPrecondition},
	{ErrTierBusy, codes.Aborted},
	{ErrTierRefused, codes.FailedPrecondition},
}

// refuse makes a status of an error: its text is what was asked, what was found, and what to do next if there is something.
func refuse(err error, what, next string) error {
	if _, ok := status.FromError(err); ok {
		return err // made by await
	}
	code := codes.Internal
	for _, c := range causes {
		if errors.Is(err, c.err) {
			code = c.code
			break
		}
	}
	found := err.Error()
	for _, of := range []string{"broker: ", "meta: ", "control: "} {
		found = strings.TrimPrefix(found, of) // whose words they are is for the log
	}
	text := what + ": " + found
	if next != "" {
		text += "; " + next
	}
	return status.Error(code, text)
}

// wrong is an error of the request itself.
func wrong(format string, args ...any) error {
	return status.Errorf(codes.InvalidArgument, format, args...)
}

func missing(format string, args ...any) error { return status.Errorf(codes.NotFound, format, args...) }

// quoted is a name for a message.
func quoted(name string) string { return strconv.Quote(short(name)) }

// short is a name, whole if it is not long.
func short(name string) string {
	const most = 80
	if len(name) > most {
		return text(name[:most]) + "…"
	}
	return text(name)
}

// text is s as an answer can hold it. Kafka's clients may name themselves and their groups in bytes that are no text.
func text(s string) string { return strings.ToValidUTF8(s, "\uFFFD") }
