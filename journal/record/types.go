package record

// Offset numbers the records of one partition, from 0.
type Offset int64

// Epoch fences a leader: a higher one has seen all that a lower one committed.
type Epoch int32

// PartitionID names a partition for ever: it is never given twice.
type PartitionID uint64

// TenantID names a tenant; 0 is the default one.
type TenantID uint32

// ShardID names a shard, from 0 to the number of shards less one.
type ShardID uint16
