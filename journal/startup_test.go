package journal

import "testing"

// BenchmarkOpenEmpty is what the log adds to the start of a broker on an empty directory.
func BenchmarkOpenEmpty(b *testing.B) {
	for range b.N {
		b.StopTimer()
		dir := b.TempDir()
		b.StartTimer()
		l := open(b, Options{Dir: dir})
		b.StopTimer()
		l.close(b)
		b.StartTimer()
	}
}
