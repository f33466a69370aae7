package control

import (
	"encoding/binary"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/sluicemq/sluice/broker"
)

// Pages.
const (
	pageSize    = 500
	pageSizeMax = 1000
	sliceRows   = 256     // that a loop or a shard looks at, at once
	pageRows    = 100_000 // that are looked at for one page, whatever of them is in it
)

func sizeOf(asked int32) (int, error) {
	switch {
	case asked == 0:
		return pageSize, nil
	case asked < 0 || asked > pageSizeMax:
		return 0, wrong("page_size %d: want 1 to %d, or 0 for %d", asked, pageSizeMax, pageSize)
	}
	return int(asked), nil
}

// token is where the next page begins, for this run of the node: rows have other places in the next one.
func (s *Server) token(at broker.RowPlace) []byte {
	b := binary.LittleEndian.AppendUint64(nil, s.start)
	b = binary.AppendUvarint(b, uint64(at.Part))
	return binary.AppendUvarint(b, uint64(at.Row))
}

// place reads a token.
func (s *Server) place(token []byte) (at broker.RowPlace, err error) {
	if len(token) == 0 {
		return at, nil
	}
	if len(token) < 8 {
		return at, wrong("page_token is none that this node has given")
	}
	if binary.LittleEndian.Uint64(token) != s.start {
		return at, status.Error(codes.FailedPrecondition, "page_token is of an earlier run of the node: list from the beginning")
	}
	part, n := binary.Uvarint(token[8:])
	row, m := binary.Uvarint(token[8+max(n, 0):])
	if n <= 0 || m <= 0 || len(token) != 8+n+m || part > 1<<20 || row > 1<<40 {
		return at, wrong("page_token is none that this node has given")
	}
	return broker.RowPlace{Part: int(part), Row: int(row)}, nil
}
