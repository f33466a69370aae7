package kafka

import (
	"errors"

	"github.com/sluicemq/sluice/broker"
	"github.com/sluicemq/sluice/proto/kafka/wire"
)

// reasons give the core's errors Kafka's codes.
var reasons = []struct {
	err  error
	code wire.ErrorCode
}{
	{broker.ErrInvalidGroupID, wire.InvalidGroupID},
	{broker.ErrUnknownMember, wire.UnknownMemberID},
	{broker.ErrFencedInstance, wire.FencedInstanceID},
	{broker.ErrIllegalGeneration, wire.IllegalGeneration},
	{broker.ErrRebalanceInProgress, wire.RebalanceInProgress},
	{broker.ErrMemberIDRequired, wire.MemberIDRequired},
	{broker.ErrInconsistentGroupProtocol, wire.InconsistentGroupProtocol},
	{broker.ErrInvalidSessionTimeout, wire.InvalidSessionTimeout},
	{broker.ErrGroupMaxSize, wire.GroupMaxSizeReached},
	{broker.ErrGroupNotFound, wire.GroupIDNotFound},
	{broker.ErrNonEmptyGroup, wire.NonEmptyGroup},
	{broker.ErrGroupSubscribed, wire.GroupSubscribedToTopic},
	{broker.ErrOffsetMetadataTooLarge, wire.OffsetMetadataTooLarge},
	{broker.ErrUnknownTopic, wire.UnknownTopicOrPartition},
	{broker.ErrFencedMemberEpoch, wire.FencedMemberEpoch},
	{broker.ErrStaleMemberEpoch, wire.StaleMemberEpoch},
	{broker.ErrUnsupportedAssignor, wire.UnsupportedAssignor},
	{broker.ErrUnreleasedInstance, wire.UnreleasedInstanceID},
	{broker.ErrInvalidRegex, wire.InvalidRegularExpression},
	{broker.ErrInvalidRequest, wire.InvalidRequest},
	{broker.ErrOffsetOutOfRange, wire.OffsetOutOfRange},
	{broker.ErrOutOfOrderSequence, wire.OutOfOrderSequenceNumber},
	{broker.ErrInvalidProducerEpoch, wire.InvalidProducerEpoch},
	{broker.ErrInvalidTxnState, wire.InvalidTxnState},
	{broker.ErrInvalidTimestamp, wire.InvalidTimestamp},
	{broker.ErrMessageTooLarge, wire.MessageTooLarge},
	{broker.ErrInvalidRecord, wire.InvalidRecord},
	{broker.ErrCorruptBatch, wire.CorruptMessage},
	{broker.ErrNoStreams, wire.KafkaStorageError},
	{broker.ErrTxnNotAnnounced, wire.InvalidTxnState},
	{broker.ErrProducerFenced, wire.ProducerFenced},
	{broker.ErrInvalidProducerIDMapping, wire.InvalidProducerIDMapping},
	{broker.ErrConcurrentTransactions, wire.ConcurrentTransactions},
	{broker.ErrInvalidTransactionTimeout, wire.InvalidTransactionTimeout},
	{broker.ErrTxnIDNotFound, wire.TransactionalIDNotFound},
	{broker.ErrInternalTopic, wire.InvalidTopicException},
	{errTopicRefused, wire.TopicAuthorizationFailed},
	{errCoordinator, wire.NotEnoughReplicas}, // as Kafka says it: metadata would not help
	{broker.ErrBusy, wire.NotEnoughReplicas}, // the client sends it again
	{broker.ErrQuota, wire.PolicyViolation},
	{broker.ErrUnavailable, wire.KafkaStorageError},
	{broker.ErrTier, wire.KafkaStorageError}, // clients try again, and their users hear nothing of it
	{broker.ErrNotLeader, wire.NotLeaderOrFollower},
	{broker.ErrClosed, wire.CoordinatorNotAvailable},
}

// codeOf is Kafka's code of an error of the core's.
func codeOf(err error) wire.ErrorCode {
	if err == nil {
		return wire.None
	}
	for i := range reasons {
		if errors.Is(err, reasons[i].err) {
			return reasons[i].code
		}
	}
	return wire.UnknownServerError
}

// coordinatorCode is codeOf for what a group's or a transaction's coordinator answers: clients take a store that does not write for one
// that is not there, and try again.
func coordinatorCode(err error) int16 {
	if errors.Is(err, broker.ErrUnavailable) {
		return int16(wire.CoordinatorNotAvailable)
	}
	if errors.Is(err, broker.ErrNotLeader) {
		return int16(wire.NotCoordinator)
	}
	return int16(codeOf(err))
}

func str(p *string) string {
	if p == nil {
		return ""
	}
	return *p
}
