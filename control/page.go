package control

import (
	"encoding/binary"
	"slices"
	"sort"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/sluicemq/sluice/broker"
	"github.com/sluicemq/sluice/meta"
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
func (s *Server) token(at ...uint64) []byte {
	b := binary.LittleEndian.AppendUint64(nil, s.start)
	for _, n := range at {
		b = binary.AppendUvarint(b, n)
	}
	return b
}

// untoken reads a token of so many numbers below 1<<40; all are 0 for the first page.
func (s *Server) untoken(token []byte, at ...*uint64) error {
	if len(token) == 0 {
		return nil
	}
	bad := wrong("page_token is none that this node has given")
	if len(token) < 8 {
		return bad
	}
	if binary.LittleEndian.Uint64(token) != s.start {
		return status.Error(codes.FailedPrecondition, "page_token is of an earlier run of the node: list from the beginning")
	}
	token = token[8:]
	for _, to := range at {
		v, n := binary.Uvarint(token)
		if n <= 0 || v >= 1<<40 {
			return bad
		}
		*to, token = v, token[n:]
	}
	if len(token) > 0 {
		return bad
	}
	return nil
}

// rowToken and place are both for a way through rows.
func (s *Server) rowToken(at broker.RowPlace) []byte { return s.token(uint64(at.Part), uint64(at.Row)) }

func (s *Server) place(token []byte) (broker.RowPlace, error) {
	var part, row uint64
	err := s.untoken(token, &part, &row)
	return broker.RowPlace{Part: int(part), Row: int(row)}, err
}

// nodeToken is where a listing of several nodes goes on: inner is that node's own token, empty for its first page.
func (s *Server) nodeToken(node meta.NodeID, inner []byte) []byte {
	return append(s.token(uint64(node)), inner...)
}

// nodeOf reads a nodeToken; node is 0 for the first page.
func (s *Server) nodeOf(token []byte) (node meta.NodeID, inner []byte, err error) {
	if len(token) == 0 {
		return 0, nil, nil
	}
	n := 1 // of the bytes of the number, as binary.Uvarint reads them
	for 8+n < len(token) && n < binary.MaxVarintLen16 && token[8+n-1]&0x80 != 0 {
		n++
	}
	var id uint64
	if err := s.untoken(token[:min(8+n, len(token))], &id); err != nil {
		return 0, nil, err
	}
	return meta.NodeID(id), token[8+n:], nil
}

// after is the node whose turn is behind another's: own is first, then others, which are sorted. 0: that was the last.
func after(others []meta.NodeID, node, own meta.NodeID) meta.NodeID {
	for _, next := range others {
		if node == 0 || node == own || next > node {
			return next
		}
	}
	return 0
}

// pageOf sorts a list of at most some thousands by key and gives those behind the token, up to size.
func pageOf[T any](list []T, key func(*T) string, token []byte, size int) (page []T, next []byte) {
	slices.SortFunc(list, func(a, b T) int { return strings.Compare(key(&a), key(&b)) })
	at := 0
	if len(token) > 0 {
		at = sort.Search(len(list), func(i int) bool { return key(&list[i]) > string(token) })
	}
	page = list[at:]
	if len(page) > size {
		page = page[:size]
		next = []byte(key(&page[size-1]))
	}
	return page, next
}
