package hdfstier

import (
	"os"

	"github.com/colinmarc/hdfs/v2"

	"github.com/sluicemq/sluice/journal/tier"
)

// asking is a client whose operations are counted, each as one request. It has those alone that the store needs: another one has to be counted too.
// What goes between client and data nodes is not.
type asking struct {
	c     *hdfs.Client
	asked *tier.Requests
}

// Requests are operations of the name node. See tier.Metered.
func (s *Store) Requests() *tier.Requests { return &s.asked }

func (a asking) stat(name string) (os.FileInfo, error) {
	a.asked.Add(tier.OpStat, 1)
	return a.c.Stat(name)
}

func (a asking) open(name string) (*hdfs.FileReader, error) {
	a.asked.Add(tier.OpGet, 1)
	return a.c.Open(name)
}

func (a asking) readDir(name string) ([]os.FileInfo, error) {
	a.asked.Add(tier.OpList, 1)
	return a.c.ReadDir(name)
}

func (a asking) mkdirAll(name string) error {
	a.asked.Add(tier.OpPut, 1)
	return a.c.MkdirAll(name, 0o750)
}

func (a asking) create(name string, replication int, blockBytes int64) (*hdfs.FileWriter, error) {
	a.asked.Add(tier.OpPut, 1)
	return a.c.CreateFile(name, replication, blockBytes, 0o640)
}

// end is a try to make a file of what was written.
func (a asking) end(f *hdfs.FileWriter) error {
	a.asked.Add(tier.OpPut, 1)
	return f.Close()
}

func (a asking) rename(from, to string) error {
	a.asked.Add(tier.OpPut, 1)
	return a.c.Rename(from, to)
}

func (a asking) remove(name string) error {
	a.asked.Add(tier.OpDelete, 1)
	return a.c.Remove(name)
}

func (a asking) removeAll(name string) error {
	a.asked.Add(tier.OpDelete, 1)
	return a.c.RemoveAll(name)
}
